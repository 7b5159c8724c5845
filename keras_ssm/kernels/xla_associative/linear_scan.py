"""The linear scan in chunks of time, each in logarithmic steps.

A loop hands the state from chunk to chunk, so that the length may be unknown.
The formulas of the backward pass, which is the same scan from the other end,
are in `keras_ssm/kernels/lax/linear_scan.py`.
"""

import functools

import tensorflow as tf
from keras import ops

from keras_ssm.kernels import border
from keras_ssm.kernels.xla.custom_gradient import custom_gradient
from keras_ssm.kernels.xla.linear_scan import before, of_channels, swap_time
from keras_ssm.kernels.xla.selective_scan import (
    Time,
    buffer,
    forget,
    joined,
    loop,
    read,
    repeated,
)
from keras_ssm.kernels.xla_associative.selective_scan import (
    chunk_size,
    chunks,
    compose_steps,
    shift,
    shift_resets,
)


def unsupported(*tensors, **options):
    """Nothing: it runs wherever TensorFlow does."""
    return None


def linear_scan(*tensors, reverse):
    """The op on canonical tensors; see `keras_ssm.ops.linear_scan`."""
    return border.around_linear_scan(
        recurrence, tf.complex, tensors, reverse=reverse
    )


def recurrence(a, x, h, resets, reverse):
    """`h[t] = a[t] h[t-1] + x[t]`: all of it, and the last one."""
    return custom_gradient(
        functools.partial(_forward, reverse),
        functools.partial(_backward, reverse),
        *(a, x, h, resets),
    )


def _forward(reverse, a, x, h, resets):
    def chunk(a, x, reset, h):
        states = _solve(a, x, reset, h, reverse)
        return states[0 if reverse else -1], states

    end, y = _over_chunks(chunk, a, x, resets, h, reverse)
    return (y, end), (a, y, h, resets)


def _backward(reverse, residuals, dy, dh):
    a, y, h, resets = residuals

    def chunk(a, dy, reset, carry):
        # The carried gradient arrives multiplied with `a` of its own step.
        a = tf.math.conj(a)
        decays = shift(a, tf.ones_like(carry), not reverse)
        following = shift_resets(reset, not reverse)
        g = _solve(decays, dy, following, carry, not reverse)
        return forget(a * g, reset)[-1 if reverse else 0], g

    dh, g = _over_chunks(chunk, a, dy, resets, dh, not reverse)
    return g * tf.math.conj(before(y, h, resets, reverse)), g, dh, None


def _over_chunks(function, a, x, resets, h, reverse):
    """The last state and, for all steps, what a function makes of chunks."""
    time = Time(ops.shape(x)[1])
    q = chunk_size(time)
    inputs = [swap_time(a), swap_time(x), of_channels(resets)]
    if resets is not None:
        inputs[2] = swap_time(inputs[2])
    # A step of the padding keeps the state as it is.
    inputs = [
        chunks(time, v, padding)
        for v, padding in zip(inputs, (1, 0, False), strict=True)
    ]

    def chunk(c, h, y):
        h, states = function(*read(inputs, c), h)
        return h, y.write(c, states)

    y = buffer(time.count(q), repeated(h, q))
    end, y = loop(chunk, (h, y), 0, time.count(q), reverse)
    return end, swap_time(joined(y)[: time.length])


def _solve(a, x, reset, h, reverse):
    """All states of `h[t] = a[t] h[t-1] + x[t]`, `(q, b, d)`."""
    first = -1 if reverse else 0
    of_first = None if reset is None else reset[first]
    u = (x[first] + a[first] * forget(h, of_first))[None]
    parts = [x[:-1], u] if reverse else [u, x[1:]]
    _, states, _ = compose_steps(a, tf.concat(parts, axis=0), reset, reverse)
    return states
