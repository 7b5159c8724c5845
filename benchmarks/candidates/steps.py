"""One token: a step of a Mamba layer, what it is made of, and attention's.

The step is timed as it stands, compiled in the ways the framework has, and
against the same arithmetic written in plain framework operations without
Keras, checks or dispatch; its matrix products and its two ops are timed alone.
Attention has to read the keys and values of all tokens before.
"""

import functools
import importlib

import frameworks
import harness
import keras
import numpy as np
from keras import ops

import keras_ssm
from candidates import OURS, STEP, Candidate, plain_step
from candidates.layers import HEAD, policy

OUR_TOKENS = (10, 100_000)
ATTENTION_TOKENS = (10, 1_000, 10_000, 100_000)
PREFILL = 10_000  # tokens that are read at a time


def make(part, case, dtype, checked=True):
    """Candidates for a step at the width and batch of a case."""
    width = case.d // 2
    layer = keras_ssm.layers.Mamba(dtype=policy(dtype))
    layer.build((case.b, None, width))
    weights = plain_step.mamba_weights(layer)
    x, state = _draw((case.b, width), dtype), layer.get_initial_state(case.b)
    framework = frameworks.load()
    plain = framework.ways(plain_step.mamba_step, weights)
    products = framework.ways(plain_step.mamba_products, weights)
    runs = {f"{OURS}, {way}": v for way, v in framework.steps(layer).items()}
    runs |= {f"without Keras, {way}": v for way, v in plain.items()}
    runs |= {f"matrix products, {way}": v for way, v in products.items()}
    runs = {n: functools.partial(run, x, state) for n, run in runs.items()}
    runs |= _ops(layer, x, state)
    module = f"candidates.step_peers_{keras.config.backend()}"
    if importlib.util.find_spec(module):
        runs |= importlib.import_module(module).peers(case, dtype)
    found = {(STEP, n): _preparation(run) for n, run in runs.items()}
    way = list(framework.steps(layer))[-1]
    for tokens in OUR_TOKENS:
        found[STEP, f"{OURS}, {way}, after {tokens} tokens"] = (
            functools.partial(_after, tokens, way, layer, x)
        )
    for tokens in ATTENTION_TOKENS:
        found[STEP, f"attention, {way}, after {tokens} tokens"] = (
            functools.partial(_attention, tokens, way, x, dtype)
        )
    return found


def _preparation(run):
    return lambda: Candidate(run)


def _ops(layer, x, state):
    """The two ops of a step alone, eagerly."""
    conv_state, ssm_state = state
    b, d, n = ssm_state.shape
    wide = ops.repeat(x, d // x.shape[-1], axis=-1)
    maps = ops.cast(ssm_state[:, 0], x.dtype)
    return {
        "causal_conv1d_step, eager": lambda: keras_ssm.ops.causal_conv1d_step(
            wide,
            layer.conv_kernel,
            layer.conv_bias,
            activation="silu",
            state=conv_state,
        ),
        "selective_scan_step, eager": lambda: keras_ssm.ops.selective_scan_step(
            *(wide, wide, layer.A_log, maps, maps, layer.D, wide),
            dt_bias=layer.dt_bias,
            dt_softplus=True,
            state=ssm_state,
        ),
    }


def _after(tokens, way, layer, x):
    """A step of ours behind so many tokens."""
    step = frameworks.load().steps(layer)[way]
    return Candidate(functools.partial(step, x, _read(layer, x, tokens)))


def _attention(tokens, way, x, dtype):
    """A step of attention behind so many tokens."""
    b, width = x.shape
    weights = [
        _draw((width, units), dtype, seed=units) for units in (3 * width, width)
    ]
    shape = (b, tokens, max(1, width // HEAD), min(width, HEAD))
    state = tuple(_draw(shape, dtype, seed) for seed in (4, 5))
    attend = frameworks.load().ways(plain_step.attention_step, weights)[way]
    return Candidate(functools.partial(attend, x, state))


def _read(layer, x, tokens):
    """The state after so many tokens."""
    b, width = x.shape
    layer_of_states = keras_ssm.layers.Mamba(
        dtype=layer.dtype_policy, return_state=True
    )
    layer_of_states.build((b, None, width))
    layer_of_states.set_weights(layer.get_weights())
    state = layer.get_initial_state(b)
    run = frameworks.load().inferring(
        lambda sequence, state: layer_of_states(sequence, initial_state=state)
    )
    for start in range(0, tokens, PREFILL):
        length = min(PREFILL, tokens - start)
        sequence = _draw((b, length, width), x.dtype, seed=start)
        _, *state = run(sequence, tuple(state))
    return tuple(state)


def _draw(shape, dtype, seed=2):
    random = np.random.default_rng(seed)
    array = random.standard_normal(shape, "float32")
    return harness.tensor(array, keras.backend.standardize_dtype(dtype))
