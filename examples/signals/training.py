"""Trains within a budget of seconds, and writes what came out."""

import os
import time

import keras
import numpy as np
from text import figure, files
from text.training import TimeBudget

from keras_ssm.optimizers import DYNAMICS, LearningRateFactors


class Batches(keras.utils.PyDataset):
    """Signals in batches; shuffled anew for every epoch if there is a seed.

    Args:
        signals: `(count, l)`.
        labels: `(count,)`.
        batch_size: rows of every batch; an epoch of a shuffled order leaves
            out what does not fill one.
        seed: for the order; `None` keeps it.
    """

    def __init__(self, signals, labels, batch_size: int, seed=None):
        super().__init__()
        self.signals, self.labels = signals, labels
        self.batch_size = batch_size
        self.random = None if seed is None else np.random.default_rng(seed)
        self.order = np.arange(len(labels))
        self.on_epoch_end()

    def on_epoch_end(self):
        if self.random is not None:
            self.random.shuffle(self.order)

    def __len__(self):
        whole, rest = divmod(len(self.order), self.batch_size)
        return whole + (rest > 0 and (self.random is None or whole == 0))

    def __getitem__(self, index):
        start = index * self.batch_size
        rows = self.order[start : start + self.batch_size]
        return self.signals[rows][..., None], self.labels[rows]


def train(model, training, validation, options):
    """Compiles and fits the model.

    The parameters of the recurrence have a smaller learning rate and no
    weight decay. The rate of all falls to zero, so that the last weights are
    those to keep.

    Returns:
        The history: a dict of lists, one value an epoch; `seconds` from the
        start of training to its end.
    """
    inner = keras.optimizers.AdamW(
        options.learning_rate, weight_decay=options.weight_decay, clipnorm=1.0
    )
    inner.exclude_from_weight_decay(var_names=DYNAMICS)
    factors = dict.fromkeys(DYNAMICS, options.dynamics_factor)
    model.compile(
        LearningRateFactors(inner, factors),
        "sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )
    steps = options.epochs * len(training)
    start, seconds = time.perf_counter(), []
    clock = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: seconds.append(
            time.perf_counter() - start
        )
    )
    history = model.fit(
        training,
        validation_data=validation,
        epochs=options.epochs,
        shuffle=False,  # `Batches` does it, from its own seed
        verbose=options.verbose,
        callbacks=[
            TimeBudget(options.seconds, steps, options.learning_rate),
            clock,
        ],
    )
    return {**history.history, "seconds": seconds}


def predict(model, batches):
    """The most probable class of each row."""
    return np.argmax(model.predict(batches, verbose=0), axis=-1)


def write(model, results: dict, truth, predicted, names, options, folder):
    """Fills a folder: model, picture, numbers."""
    os.makedirs(folder, exist_ok=True)
    with files.written_whole(os.path.join(folder, "model.keras")) as path:
        model.save(path)
    confusion = figure.confusion_matrix(truth, predicted, np.arange(len(names)))
    title = (
        f"{options.layer}: {np.mean(truth == predicted):.2%} of the test set"
    )
    picture = os.path.join(folder, "report.png")
    figure.draw(picture, title, confusion, names, results["history"], kept=-1)
    results |= {"confusion": confusion.tolist(), "options": vars(options)}
    files.write_json(os.path.join(folder, "results.json"), results)
    print(f"Model, picture and numbers: {folder}")
