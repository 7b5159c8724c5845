"""Models for the tests of export and streams, and who serves them."""

import os
import pathlib
import pickle
import subprocess
import sys

import keras
import numpy as np
from compare import as_array

from keras_ssm import models
from keras_ssm.layers import (
    GriffinBlock,
    MambaBlock,
    S4Block,
    S4DBlock,
    S5Block,
)

CONSUMER = pathlib.Path(__file__).with_name("consumer.py")
TOKENS = 20
CLI = """
import sys
from importlib import metadata

for name in filter(None, sys.argv.pop(1).split(",")):
    sys.modules[name] = None  # cannot be imported
(script,) = metadata.entry_points(
    group="console_scripts", name="saved_model_cli"
)
sys.exit(script.load()())
"""


def classifier():
    """A text classifier as in the README, small."""
    return randomized(
        keras.Sequential(
            [
                keras.Input((None,), dtype="int32", name="tokens"),
                keras.layers.Embedding(TOKENS, 8, mask_zero=True),
                MambaBlock(state_dim=4, dropout=0.5),
                keras.layers.LayerNormalization(epsilon=1e-5),
                keras.layers.GlobalAveragePooling1D(),
                keras.layers.Dense(2, activation="softmax"),
            ]
        )
    )


def tagger():
    """A functional model that labels every step, and the whole text."""
    tokens = keras.Input((None,), dtype="int32", name="tokens")
    x = keras.layers.Embedding(TOKENS, 8, mask_zero=True)(tokens)
    x = MambaBlock(state_dim=4)(x)
    x = S5Block(state_dim=4, blocks=2)(x)
    x = keras.layers.Dense(8, activation="gelu")(x) + x
    x = GriffinBlock()(x)
    x = keras.layers.LayerNormalization(epsilon=1e-5)(x)
    of_text = keras.layers.GlobalAveragePooling1D()(x)
    return randomized(
        keras.Model(
            tokens,
            [
                keras.layers.Dense(5, name="tags")(x),
                keras.layers.Dense(2, name="class")(of_text),
            ],
        )
    )


def convolutions():
    """A tagger of layers that convolve, as `tagger` without them."""
    return randomized(
        keras.Sequential(
            [
                keras.Input((None,), dtype="int32", name="tokens"),
                keras.layers.Embedding(TOKENS, 8, mask_zero=True),
                S4DBlock(state_dim=4),
                S4Block(state_dim=4),
                keras.layers.LayerNormalization(epsilon=1e-5),
                keras.layers.Dense(5),
            ]
        )
    )


def forecaster():
    """Sequences with a mask of their own to what comes next."""
    x = keras.Input((None, 3), name="x")
    mask = keras.Input((None,), dtype="bool", name="mask")
    h = keras.layers.Dense(6)(x)
    h = MambaBlock(state_dim=4)(h, mask=mask)
    h = S5Block(state_dim=4, blocks=2, return_sequences=False)(h, mask=mask)
    return randomized(
        keras.Model({"x": x, "mask": mask}, keras.layers.Dense(3)(h))
    )


MIXERS = {
    "mamba": {"state_dim": 4},
    "mamba2": {"state_dim": 4, "head_dim": 4},
    "griffin": {},
    "attention": {"heads": 2, "window": 4},
}


def hybrid_backbone(pattern):
    """These mixers, every other one with experts behind it."""
    return models.HybridBackbone(
        TOKENS,
        8,
        pattern,
        mixers={name: MIXERS[name] for name in pattern},
        feed_forward={"units": 8},
        moe={"experts": 3, "units": 4},
        moe_every=2,
    )


def causal_lm(pattern=tuple(MIXERS)):
    """A language model, of all mixers by default."""
    backbone = hybrid_backbone(list(pattern))
    return randomized(models.CausalLM(backbone, logit_soft_cap=4.0))


def text_classifier(pattern=tuple(MIXERS)):
    """A classifier, of all mixers by default."""
    return randomized(models.TextClassifier(hybrid_backbone(list(pattern)), 2))


def randomized(model):
    """Moves every weight away from what it begins with."""
    rng = np.random.default_rng(0)
    for v in model.trainable_variables:
        noise = rng.uniform(-0.3, 0.3, v.shape).astype("float32")
        v.assign(as_array(v.value) + noise)
    return model


def padded_tokens(batch, length):
    """Rows of tokens, the first without padding."""
    rng = np.random.default_rng(length)
    tokens = rng.integers(1, TOKENS, (batch, length)).astype("int32")
    for row in range(1, batch):
        tokens[row, length - row * length // (batch + 1) :] = 0
    return tokens


def random_cuts(length, seed):
    """Where to cut a stream: anywhere, from 0 to `length`."""
    rng = np.random.default_rng(seed)
    inside = np.flatnonzero(rng.random(length - 1) < rng.random()) + 1
    return [0, *inside.tolist(), length]


def whole(model, x):
    """The flat outputs of a model."""
    return [
        as_array(v) for v in keras.tree.flatten(model.predict(x, verbose=0))
    ]


def joined(found, expected, cuts):
    """Outputs of a stream piece by piece as those of the whole sequence."""
    count = len(expected)
    outputs = []
    for index, of_whole in enumerate(expected):
        parts = found[index::count]
        if of_whole.ndim < 3:
            outputs.append(parts[-1])
            continue
        sizes = np.diff(cuts)
        parts = [
            part[:, None] if size == 1 and part.ndim < 3 else part
            for part, size in zip(parts, sizes, strict=True)
        ]
        outputs.append(np.concatenate(parts, axis=1))
    return outputs


def consume(path, folder, requests):
    """Has a process without Keras serve what is at `path`."""
    (folder / "requests.pkl").write_bytes(pickle.dumps(requests))
    done = subprocess.run(
        [
            sys.executable,
            str(CONSUMER),
            str(path),
            str(folder / "requests.pkl"),
            str(folder / "results.pkl"),
        ],
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
        cwd=folder,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return pickle.loads((folder / "results.pkl").read_bytes())  # noqa: S301


def run_saved_model_cli(path, signature, inputs, folder, without=()):
    """The outputs of a signature by name, as `saved_model_cli` has them.

    Args:
        path: The SavedModel.
        signature: Its name.
        inputs: Arrays by name.
        folder: For files.
        without: Names of packages that cannot be imported.
    """
    for name, array in inputs.items():
        np.save(folder / f"{name}.npy", array)
    arguments = ["--dir", path, "--tag_set", "serve"]
    arguments += ["--signature_def", signature, "--outdir", folder / "out"]
    arguments.append("--inputs")
    arguments.append(";".join(f"{v}={folder / v}.npy" for v in inputs))
    done = subprocess.run(
        [sys.executable, "-c", CLI, ",".join(without), "run", *arguments],
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return {file.stem: np.load(file) for file in (folder / "out").iterdir()}


def assert_equal_outputs(found, expected, at_most=1e-5):
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert one.shape == other.shape
        scale = max(1.0, np.abs(other).max())
        assert np.abs(one - other).max() <= at_most * scale
