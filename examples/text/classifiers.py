"""Classifiers of texts: a Keras network, and counting words to compare.

Each has `fit(data, rows)`, `predict(texts)`, `save(folder)`, a `history` by
epoch (empty if it knows no epochs) and `numbers` for the report.
"""

import importlib.util
import json
import os
import random
import time

import keras
import numpy as np

from text.batches import Batches, choose_widths
from text.files import write_json, written_whole
from text.models import build_model, count_parameters
from text.tables import InputError
from text.training import train
from text.vocabulary import Vocabulary


class NeuralClassifier:
    """A vocabulary and a network that both learn from the training rows.

    Args:
        classes: the sorted names of the classes.
        options: what `text_classification.parse` returns.
    """

    def __init__(self, classes: list[str], options):
        self.classes = classes
        self.options = options
        self.history = {}
        self.numbers = {}

    def fit(self, data, rows):
        options = self.options
        # Keras draws every seed from here. Its own `set_random_seed` would
        # import TensorFlow on the other backends, too.
        random.seed(options.seed)
        self.vocabulary = Vocabulary.learn(
            options.vocabulary,
            [data.texts[row] for row in rows[0]],
            options.vocabulary_size,
            options.max_length,
        )
        sequences = [self.vocabulary.encode(text) for text in data.texts]
        self.widths = choose_widths(
            [len(sequences[row]) for row in rows[0]], options.widths
        )
        self.model = build_model(
            options.model, len(self.vocabulary), len(self.classes), options
        )
        parameters = count_parameters(self.model)
        self.describe(parameters)
        labels = np.searchsorted(self.classes, data.labels)
        learned, held_out = (
            self.batches([sequences[row] for row in part], labels[part], **how)
            for part, how in zip(rows, (self.shuffling(), {}), strict=True)
        )
        start = time.perf_counter()
        self.history = train(self.model, learned, held_out, options)
        seconds = time.perf_counter() - start
        steps = int(self.model.optimizer.iterations)
        print(f"{steps:,} steps in {seconds:.0f} s, with compilation.")
        if steps < len(learned) and options.epochs > 1:
            print("Time was up within the first epoch; try more --seconds.")
        self.numbers = {
            "seconds": seconds,
            "steps": steps,
            "parameters": parameters,
            "backend": keras.backend.backend(),
            "keras": keras.__version__,
        }

    def describe(self, parameters: dict):
        print(
            f"{self.options.model} on {keras.backend.backend()}: "
            f"{parameters['outside']:,} parameters and "
            f"{parameters['inside']:,} in the embedding of "
            f"{len(self.vocabulary):,} tokens."
        )

    def batches(self, sequences, labels=None, **how):
        return Batches(
            sequences, labels, self.widths, self.options.batch_size, **how
        )

    def shuffling(self) -> dict:
        options = self.options
        return {"seed": options.seed, "word_dropout": options.word_dropout}

    def predict(self, texts: list[str]):
        """Returns a class for every text."""
        longest = self.widths[-1]
        encoded = [self.vocabulary.encode(text)[:longest] for text in texts]
        served = self.batches(encoded)
        outputs = self.model.predict(served, verbose=0)
        best = served.in_row_order(outputs).argmax(axis=-1)
        return np.array(self.classes)[best]

    def save(self, folder: str):
        """Writes `model.keras` and `vocabulary.json`, all that is needed."""
        with written_whole(os.path.join(folder, "model.keras")) as temporary:
            self.model.save(temporary)
        description = {
            "classes": self.classes,
            "widths": self.widths,
            "vocabulary": self.vocabulary.get_config(),
        }
        write_json(os.path.join(folder, "vocabulary.json"), description)

    @classmethod
    def load(cls, folder: str, options):
        """Reads what `save` wrote, on whichever backend that was."""
        path = os.path.join(folder, "vocabulary.json")
        with open(path, encoding="utf-8") as file:
            description = json.load(file)
        loaded = cls(description["classes"], options)
        loaded.widths = description["widths"]
        loaded.vocabulary = Vocabulary(**description["vocabulary"])
        path = os.path.join(folder, "model.keras")
        loaded.model = keras.saving.load_model(path, compile=False)
        return loaded


class TfidfClassifier:
    """TF-IDF of one and two words + logistic regression, by scikit-learn."""

    def __init__(self, options):
        if not scikit_learn_is_there():
            raise InputError(
                "TF-IDF needs scikit-learn: pip install keras-ssm[examples]"
            )
        self.seed = options.seed
        self.history = {}
        self.numbers = {}

    def fit(self, data, rows):
        from sklearn.feature_extraction.text import TfidfVectorizer
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline

        self.pipeline = make_pipeline(
            TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True),
            LogisticRegression(C=10.0, max_iter=1000, random_state=self.seed),
        )
        start = time.perf_counter()
        texts = [data.texts[row] for row in rows[0]]
        self.pipeline.fit(texts, data.labels[rows[0]])
        self.numbers = {"seconds": time.perf_counter() - start}

    def predict(self, texts: list[str]):
        """Returns a class for every text."""
        return self.pipeline.predict(texts)

    def save(self, folder: str):
        """Writes nothing: it is here to be compared with."""


def scikit_learn_is_there() -> bool:
    return importlib.util.find_spec("sklearn") is not None


def majority_accuracy(training_labels, labels) -> float:
    """The accuracy of always guessing the most frequent training label."""
    names, counts = np.unique(training_labels, return_counts=True)
    return accuracy(labels, names[np.argmax(counts)])


def accuracy(truth, predicted) -> float:
    return float(np.mean(truth == predicted))
