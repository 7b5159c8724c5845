"""The linear scan as a loop over time, forward and backward.

The formulas are those of `keras_ssm/kernels/lax/linear_scan.py`. The length
may be unknown.
"""

import functools

import tensorflow as tf
from keras import ops

from keras_ssm.kernels import border
from keras_ssm.kernels.xla.custom_gradient import custom_gradient
from keras_ssm.kernels.xla.selective_scan import (
    buffer,
    forget,
    loop,
    read,
    series,
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
    length, inputs = ops.shape(x)[1], _inputs(a, x, resets)

    def step(t, h, y):
        a, x, reset = read(inputs, t)
        h = a * forget(h, reset) + x
        return h, y.write(t, h)

    end, y = loop(step, (h, buffer(length, h)), 0, length, reverse)
    y = swap_time(y.stack()[:length])
    return (y, end), (a, y, h, resets)


def _backward(reverse, residuals, dy, dh):
    a, y, h, resets = residuals
    length, inputs = ops.shape(y)[1], _inputs(a, dy, resets)

    def step(t, carry, g):
        # What is carried is multiplied with `a` of the step it comes from.
        a, dy, reset = read(inputs, t)
        of_step = dy + carry
        passed = forget(tf.math.conj(a) * of_step, reset)
        return passed, g.write(t, of_step)

    dh, g = loop(step, (dh, buffer(length, dh)), 0, length, not reverse)
    g = swap_time(g.stack()[:length])
    return g * tf.math.conj(before(y, h, resets, reverse)), g, dh, None


def _inputs(a, x, resets):
    """What the steps read, time first."""
    steps = (a, x, of_channels(resets))
    return [None if v is None else series(swap_time(v)) for v in steps]


def swap_time(v):
    """(b, l, d) -> (l, b, d), and back."""
    return tf.transpose(v, (1, 0, 2))


def of_channels(resets):
    """(b, l) -> (b, l, 1); `None` stays `None`."""
    return None if resets is None else resets[..., None]


def before(y, h, resets, reverse):
    """The state before each step, 0 where it starts anew."""
    # Made longer first, for lengths that may be 0.
    if reverse:
        moved = tf.concat([y, h[:, None]], axis=1)[:, 1:]
    else:
        moved = tf.concat([h[:, None], y], axis=1)[:, :-1]
    return forget(moved, of_channels(resets))
