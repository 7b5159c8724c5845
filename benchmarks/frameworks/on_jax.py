"""JAX: everything under `jax.jit`."""

import functools

import jax
import keras

import frameworks


def configure():
    """Nothing: JAX runs as it is."""


def compiled(function, xla=True):
    return jax.jit(function)


inferring = compiled


def inference(layer):
    weights, others = _values(layer)

    @jax.jit
    def run(weights, x):
        return layer.stateless_call(weights, others, x)[0]

    return functools.partial(run, weights)


def training(layer, x):
    weights, others = _values(layer)

    @jax.jit
    def both(weights, x):
        def call(weights, x):
            return layer.stateless_call(weights, others, x)[0]

        y, adjoint = jax.vjp(call, weights, x)
        return adjoint(y)

    return lambda: both(weights, x)


def ways(function, weights):
    # A weight that is no argument would be compiled in as a constant.
    return {
        "eager": functools.partial(function, weights),
        "jit": functools.partial(jax.jit(function), weights),
    }


def steps(layer):
    def step(values, x, state):
        pairs = zip(layer.variables, values, strict=True)
        with keras.StatelessScope(state_mapping=list(pairs)):
            return layer.step(x, state)

    values = [v.value for v in layer.variables]
    return {**ways(step, values), "eager": layer.step}


def attend(q, k, v, causal):
    return jax.nn.dot_product_attention(
        q, k, v, is_causal=causal, implementation=_attention(q, causal)
    )


def wait(outputs):
    jax.block_until_ready(outputs)


def seconds(run, calls):
    return frameworks.wall_seconds(run, calls, wait)


def allocated(run):
    device = jax.devices()[0]
    if device.platform == "cpu":
        return None
    before = device.memory_stats()["bytes_in_use"]
    wait(run())
    # The highest since the process started: tells of the largest run so far.
    return device.memory_stats()["peak_bytes_in_use"] - before


def device():
    return jax.devices()[0].device_kind


def _values(layer):
    return (
        [v.value for v in layer.trainable_variables],
        [v.value for v in layer.non_trainable_variables],
    )


def _attention(q, causal):
    # Flash attention, where cuDNN has it: over a sequence, in half precision.
    half = q.dtype in ("bfloat16", "float16")
    gpu = jax.default_backend() not in ("cpu", "tpu")
    return "cudnn" if half and gpu and causal else "xla"
