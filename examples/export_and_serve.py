r"""
Title: A trained model served without Keras
Description: Train, export, classify with TensorFlow alone, and follow a stream.

    KERAS_BACKEND=torch python examples/export_and_serve.py

What happens:

1. The classifier of the README learns from film reviews, byte by byte.
2. `keras_ssm.export` writes it as a SavedModel that also holds a stream, and
   compares the file with the model.
3. A process that can import neither Keras nor keras_ssm loads it, classifies
   whole reviews, and then reads one of them byte by byte: after every byte it
   knows the class of what it has read, and all it keeps is a state of fixed
   size.
"""

import argparse
import os
import pathlib
import subprocess
import sys

import keras
import numpy as np
from text import tables

import keras_ssm

# What a server does, in a process of its own.
SERVER = """
import sys

for name in ("keras", "keras_ssm", "torch", "jax"):
    sys.modules[name] = None  # cannot be imported

import numpy as np
import tensorflow as tf

served = tf.saved_model.load(sys.argv[1])
reviews = np.load(sys.argv[2])
whole = served.serve(reviews).numpy()
print("Probability of praise, from the whole review:", whole[:, 1].round(3))

state = served.init(1)
review = reviews[:1]
for position in range(review.shape[1]):
    state = served.step(review[:, position], state)
    y = state.pop("outputs").numpy()
    if (position + 1) % max(1, review.shape[1] // 5) == 0:
        print(f"  after {position + 1} bytes: {y[0, 1]:.3f}")
size = sum(v.numpy().nbytes for v in state.values())
print(f"The state of the stream has {size:,} bytes at any length.")
print(f"Stream and whole differ by {np.abs(y - whole[:1]).max():.1e}.")
"""


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line."""
    options = parse(arguments)
    keras.utils.set_random_seed(0)
    tokens, labels = reviews(options)
    model = build_model()
    model.compile(
        keras.optimizers.Adam(4e-3),
        "sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )
    model.fit(tokens, labels, epochs=options.epochs, batch_size=32)
    folder = pathlib.Path(options.output)
    folder.mkdir(parents=True, exist_ok=True)
    endpoints = ("serve", "init", "step", "steps")
    keras_ssm.export(model, folder / "served", endpoints=endpoints)
    print(f"Exported and compared with the model: {folder / 'served'}")
    np.save(folder / "reviews.npy", tokens[:4])
    return serve(folder)


def reviews(options):
    """The first bytes of as many reviews of each kind, 0 behind the last."""
    data = tables.read_default()
    rows = np.random.default_rng(0).permutation(len(data))[: options.reviews]
    tokens = np.zeros((len(rows), options.length), "int32")
    for index, row in enumerate(rows):
        text = data.texts[row].encode()[: options.length]
        tokens[index, : len(text)] = np.frombuffer(text, "uint8")
    return tokens, np.array([data.labels[row] == "positive" for row in rows])


def build_model():
    """Embedded bytes, two Mamba blocks, and the average over the review."""
    return keras.Sequential(
        [
            keras.Input((None,), dtype="int32", name="bytes"),
            keras.layers.Embedding(256, 32, mask_zero=True),
            keras_ssm.layers.MambaBlock(state_dim=8, dropout=0.1),
            keras_ssm.layers.MambaBlock(state_dim=8, dropout=0.1),
            keras.layers.LayerNormalization(epsilon=1e-5),
            keras.layers.GlobalAveragePooling1D(),
            keras.layers.Dense(2, activation="softmax"),
        ]
    )


def serve(folder) -> int:
    """Runs `SERVER` on what was exported."""
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    program = [sys.executable, "-c", SERVER]
    files = [str(folder / "served"), str(folder / "reviews.npy")]
    return subprocess.run([*program, *files], env=environment).returncode


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(
        description="Trains, exports and serves a classifier of reviews.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--reviews", type=int, default=4000, help="to learn from")
    add("--length", type=int, default=256, help="bytes of a review")
    add("--epochs", type=int, default=3, help="of training")
    add("--output", default="runs/export_and_serve", help="folder")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
