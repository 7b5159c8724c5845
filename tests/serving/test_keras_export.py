"""`model.export(path)` gives a SavedModel that TensorFlow alone serves."""

import importlib.util
import os
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest

import keras_ssm

BACKEND = keras.config.backend()
SERVE = pathlib.Path(__file__).with_name("serve.py")
# Each is a program of its own, where JAX's are compiled as they are served.
SIZES = ((1, 1), (3, 7), (3, 70))

if BACKEND not in ("jax", "tensorflow"):
    pytest.skip(
        f"Keras exports no SavedModel from {BACKEND}", allow_module_level=True
    )
if importlib.util.find_spec("tensorflow") is None:
    pytest.skip("serving needs tensorflow", allow_module_level=True)


def classifier():
    """A text classifier as in the README, small and untrained."""
    return keras.Sequential(
        [
            keras.Input((None,), dtype="int32"),
            keras.layers.Embedding(20, 8, mask_zero=True),
            keras_ssm.layers.MambaBlock(state_dim=4),
            keras_ssm.layers.S4DBlock(state_dim=4),
            keras_ssm.layers.S4Block(state_dim=4),
            keras_ssm.layers.S5Block(state_dim=4, blocks=2),
            keras_ssm.layers.GriffinBlock(),
            keras.layers.RMSNormalization(epsilon=1e-5),
            keras.layers.GlobalAveragePooling1D(),
            keras.layers.Dense(2, activation="softmax"),
        ]
    )


def padded_tokens(batch, length):
    """Rows of tokens, the first without padding."""
    rng = np.random.default_rng(length)
    tokens = rng.integers(1, 20, (batch, length)).astype("int32")
    for row in range(1, batch):
        tokens[row, length - row * length // 3 :] = 0
    return tokens


def serve(path, folder, inputs):
    """Runs an exported model in a process without Keras."""
    np.savez(folder / "inputs.npz", **inputs)
    done = subprocess.run(
        [
            sys.executable,
            str(SERVE),
            str(path),
            str(folder / "inputs.npz"),
            str(folder / "outputs.npz"),
        ],
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
        cwd=folder,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return np.load(folder / "outputs.npz")


@pytest.fixture(scope="module")
def model():
    model = classifier()
    rng = np.random.default_rng(0)
    for v in model.trainable_variables:
        noise = rng.uniform(-0.3, 0.3, v.shape).astype("float32")
        v.assign(keras.ops.convert_to_numpy(v.value) + noise)
    return model


@pytest.fixture(scope="module")
def served(model, tmp_path_factory):
    """Inputs by name, and what the exported model gives for them."""
    folder = tmp_path_factory.mktemp("export")
    inputs = {
        f"{batch} rows of {length}": padded_tokens(batch, length)
        for batch, length in SIZES
    }
    model.export(folder / "model", verbose=False)
    return inputs, serve(folder / "model", folder, inputs)


@pytest.mark.parametrize(("batch", "length"), SIZES)
def test_exported_classifier_serves_lengths_never_traced(
    model, served, batch, length
):
    inputs, outputs = served
    name = f"{batch} rows of {length}"
    expected = model.predict(inputs[name], verbose=0)
    assert outputs[name].shape == (batch, 2)
    assert np.abs(outputs[name] - expected).max() <= 1e-5


def test_served_rows_differ(served):
    _, outputs = served
    rows = outputs["3 rows of 70"]
    assert np.abs(rows[0] - rows[1]).max() > 1e-3
    assert np.abs(rows[1] - rows[2]).max() > 1e-3
