"""A Mamba layer, its matrix products alone, LSTMs, attention and peers."""

import functools
import importlib
import math

import frameworks
import harness
import keras
import numpy as np
from keras import ops

import keras_ssm
from candidates import (
    BOTH,
    FORWARD,
    OURS,
    Candidate,
    implementations,
    pinned,
)

HEAD = 64  # channels of a head of attention


def make(part, case, dtype, checked=True):
    """Candidates for a layer of half as many inputs as the case has channels.

    Args:
        part: "layer".
        case: A case of `tests/cases.py`: batch, length and channels.
        dtype: "float32", or the compute dtype of a mixed policy.
    """
    x = sequence(case, dtype)
    found = {}
    for name, build in builders(case, dtype).items():
        for what in (FORWARD, BOTH):
            found[what, name] = functools.partial(_prepare, build, what, x)
    found[BOTH, "matrix products"] = lambda: Candidate(
        matrix_products(case, dtype)
    )
    return found


def builders(case, dtype):
    """Functions that build `(layer, implementation or None)`, by name."""
    found = {
        f"{OURS} {name}": functools.partial(_mamba, dtype, name)
        for name in implementations("selective_scan")
    }
    found |= {
        "keras LSTM": lambda: (lstm(case.d, dtype), None),
        "attention": lambda: (Attention(dtype=policy(dtype)), None),
    }
    module = f"candidates.layer_peers_{keras.config.backend()}"
    if importlib.util.find_spec(module):
        peers = importlib.import_module(module).peers(case, dtype)
        found |= {
            name: lambda build=build: (build(), None)
            for name, build in peers.items()
        }
    return found


def sequence(case, dtype):
    """A random input, `(b, l, d / 2)`."""
    random = np.random.default_rng(2)
    x = random.standard_normal((case.b, case.l, case.d // 2), "float32")
    return harness.tensor(x, dtype)


def _prepare(build, what, x):
    layer, implementation = build()
    if isinstance(layer, keras.layers.Layer) and not layer.built:
        layer.build(tuple(x.shape))
    framework = frameworks.load()
    if what == FORWARD:
        run = functools.partial(framework.inference(layer), x)
    else:
        run = framework.training(layer, x)
    if implementation is not None:
        run = pinned(run, implementation)
    return Candidate(run)


def policy(dtype):
    """The dtype policy of a layer that computes in a dtype."""
    return dtype if dtype == "float32" else f"mixed_{dtype}"


def _mamba(dtype, implementation):
    return keras_ssm.layers.Mamba(dtype=policy(dtype)), implementation


def lstm(units, dtype):
    """As many units as the Mamba layer has channels."""
    return keras.layers.LSTM(units, return_sequences=True, dtype=policy(dtype))


class Attention(keras.layers.Layer):
    """Causal attention with the framework's own kernel, as a mixer."""

    def build(self, shape):
        width = shape[-1]
        self.heads = max(1, width // HEAD)
        self.qkv = keras.layers.Dense(3 * width, dtype=self.dtype_policy)
        self.out = keras.layers.Dense(width, dtype=self.dtype_policy)
        for dense in (self.qkv, self.out):
            dense.build(shape)

    def call(self, x):
        b, l, width = x.shape
        qkv = ops.reshape(self.qkv(x), (b, l, 3, self.heads, -1))
        q, k, v = (qkv[:, :, i] for i in range(3))
        y = frameworks.load().attend(q, k, v, causal=True)
        return self.out(ops.reshape(y, (b, l, width)))


def matrix_products(case, dtype):
    """The four matrix products of a Mamba layer, forward and backward.

    Nothing else, on inputs that are there already: what is left of the layer
    if all the rest takes no time.
    """
    width, channels = case.d // 2, case.d
    rank = math.ceil(width / 16)
    shapes = {
        "in_proj": (width, 2 * channels),
        "x_proj": (channels, rank + 2 * case.n),
        "dt_proj": (rank, channels),
        "out_proj": (channels, width),
    }
    random = np.random.default_rng(3)

    def draw(*shape):
        array = random.standard_normal(shape, "float32")
        return harness.tensor(array, dtype)

    rows = case.b * case.l
    inputs = {}
    for name, (m, k) in shapes.items():
        inputs[f"{name} input"] = draw(rows, m)
        inputs[f"{name} kernel"] = draw(m, k)
    cotangents = tuple(draw(rows, k) for _, k in shapes.values())

    def multiply(inputs):
        return tuple(
            inputs[f"{name} input"] @ inputs[f"{name} kernel"]
            for name in shapes
        )

    # TensorFlow's own products are faster than those of XLA.
    run = frameworks.load().compiled(
        lambda inputs, cotangents: harness.gradients(
            multiply, inputs, cotangents
        ),
        xla=False,
    )
    return lambda: run(inputs, cotangents)
