"""The causal convolution as k shifted products, which XLA fuses into one pass.

The formulas are those of `keras_ssm/kernels/lax/causal_conv1d.py`.
"""

import functools

import tensorflow as tf
from keras import ops

from keras_ssm.kernels.xla.custom_gradient import custom_gradient
from keras_ssm.kernels.xla.selective_scan import loop

# Up to this width the products are written out; wider, they are looped over.
UNROLLED = 16


def unsupported(*tensors, **options):
    """Nothing: it runs wherever TensorFlow does."""
    return None


def causal_conv1d(x, weight, bias, state, resets, *, activation, reverse):
    """The op on canonical tensors; see `keras_ssm.ops.causal_conv1d`."""
    history = tf.cast(x, state.dtype)
    if reverse:
        history = tf.concat([history, state[:, ::-1]], axis=1)
        weight = weight[::-1]
    else:
        history = tf.concat([state, history], axis=1)
    y = custom_gradient(
        functools.partial(_forward, activation, reverse),
        functools.partial(_backward, activation, reverse),
        *(history, weight, bias),
        _segments(resets, weight.shape[0] - 1, reverse),
    )
    y.set_shape(x.shape)
    return tf.cast(y, x.dtype)


def _segments(resets, taps, reverse):
    """Numbers the segments of each row of the history, (b, l + k - 1)."""
    if resets is None:
        return None
    count = tf.cumsum(tf.cast(resets, tf.int32), axis=1, reverse=reverse)
    return tf.pad(count, [(0, 0), (0, taps) if reverse else (taps, 0)])


def _forward(activation, reverse, *tensors):
    p = _products(*tensors, reverse)
    y = tf.nn.silu(p) if activation == "silu" else p
    return y, tensors


def _backward(activation, reverse, residuals, g):
    history, weight, bias, segments = residuals
    k, length = weight.shape[0], ops.shape(g)[1]
    if activation == "silu":
        p = _products(*residuals, reverse)
        gate = tf.sigmoid(p)
        g = g * gate * (1 + p * (1 - gate))
    current = _current(segments, k, reverse)
    # What a step of the history was seen from: XLA shifts by slices alone.
    g_around, current_around = _pad(g, k - 1), _pad(current, k - 1)

    def tap(j, dhistory, dweight):
        product = g * _seen(history, segments, current, j, length)
        dweight = dweight.write(j, tf.reduce_sum(product, (0, 1)))
        seen = _seen(
            *(g_around, current_around, segments, k - 1 - j, length + k - 1)
        )
        return dhistory + seen * weight[j], dweight

    dweight = tf.TensorArray(g.dtype, k, element_shape=weight.shape[1:])
    sums = (tf.zeros_like(history), dweight)
    dhistory, dweight = _over_taps(k, tap, sums)
    dbias = None if bias is None else tf.reduce_sum(g, (0, 1))
    return dhistory, dweight.stack(), dbias, None


def _products(history, weight, bias, segments, reverse):
    k = weight.shape[0]
    b, length, d = ops.shape(history)
    length = length - (k - 1)
    current = _current(segments, k, reverse)

    def tap(j, total):
        seen = _seen(history, segments, current, j, length)
        return (total + seen * weight[j],)

    total = tf.zeros((b, length, d), history.dtype)
    total = total if bias is None else total + bias
    return _over_taps(k, tap, (total,))[0]


def _over_taps(k, tap, sums):
    if k > UNROLLED:
        return loop(tap, sums, 0, k, backward=False)
    for j in range(k):
        sums = tap(j, *sums)
    return sums


def _current(segments, k, reverse):
    """The segment of each step, (b, l)."""
    if segments is None:
        return None
    length = ops.shape(segments)[1] - (k - 1)
    return _shift(segments, 0 if reverse else k - 1, length)


def _seen(v, segments, own, j, length):
    """`v` from step `j` on, 0 where that is not in a step's own segment."""
    v = _shift(v, j, length)
    if segments is None:
        return v
    # Not `==`, which forgets the rank where sizes are unknown.
    same = tf.equal(_shift(segments, j, length), own)
    return tf.where(same[..., None], v, tf.zeros_like(v))


def _shift(v, j, length):
    shape = ops.shape(v)
    start = (0, j) + (0,) * (len(shape) - 2)
    return tf.slice(v, start, (shape[0], length, *shape[2:]))


def _pad(v, steps):
    if v is None:
        return None
    around = [(0, 0), (steps, steps)] + [(0, 0)] * (v.shape.rank - 2)
    return tf.pad(v, around)
