"""Mamba and Mamba-2, their matrix products, LSTMs, attention and peers."""

import functools
import importlib

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
    products,
)

HEAD = 64  # channels of a head of attention


def make(part, case, dtype, checked=True):
    """Candidates for a layer of half as many inputs as the case has channels.

    Args:
        part: "layer", or "mamba2" where the channels of the case are heads.
        case: A case of `tests/cases.py`: batch, length and channels.
        dtype: "float32", or the compute dtype of a mixed policy.
    """
    if part == "mamba2":
        found, shapes = _mamba2s(case, dtype), products.of_mamba2(case)
    else:
        found, shapes = _mambas(case, dtype), products.of_mamba(case)
    x = sequence(case, shapes["in_proj"][1][0], dtype)
    found = {
        (what, name): functools.partial(_prepare, build, what, x)
        for name, build in found.items()
        for what in (FORWARD, BOTH)
    }
    found[BOTH, "matrix products"] = functools.partial(
        products.prepare, shapes, BOTH, dtype
    )
    return found


def _mambas(case, dtype):
    """Functions that build `(layer, implementation or None)`, by name."""
    found = {
        f"{OURS} {name}": functools.partial(_mamba, dtype, name)
        for name in implementations("selective_scan")
    }
    found |= {
        "keras LSTM": lambda: (lstm(case.d, dtype), None),
        "attention": lambda: (Attention(dtype=policy(dtype)), None),
    }
    return found | _peers("peers", case, dtype)


def _mamba2s(case, dtype):
    """The same, of a layer whose ops have implementations of their own."""
    found = {OURS: lambda: (_mamba2(case, dtype), None)}
    return found | _peers("mamba2_peers", case, dtype)


def _peers(kind, case, dtype):
    module = f"candidates.layer_peers_{keras.config.backend()}"
    if not importlib.util.find_spec(module):
        return {}
    peers = getattr(importlib.import_module(module), kind)(case, dtype)
    return {
        name: lambda build=build: (build(), None)
        for name, build in peers.items()
    }


def sequence(case, width, dtype):
    """A random input, `(b, l, width)`."""
    random = np.random.default_rng(2)
    x = random.standard_normal((case.b, case.l, width), "float32")
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


def _mamba2(case, dtype):
    return keras_ssm.layers.Mamba2(
        state_dim=case.n, head_dim=case.p, dtype=policy(dtype)
    )


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
