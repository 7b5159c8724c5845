"""The causal convolution as a kernel of TensorFlow."""

import functools

import tensorflow as tf

from keras_ssm.kernels.numba.conv_loops import sizes
from keras_ssm.kernels.numba.tensorflow_binding import (
    cast_like,
    run,
    shape_of,
    threads,
    total,
    widen,
)
from keras_ssm.kernels.xla.custom_gradient import custom_gradient


def causal_conv1d(*tensors, activation, reverse):
    """The op on canonical tensors; see `keras_ssm.ops.causal_conv1d`."""
    return custom_gradient(
        functools.partial(_forward, activation, reverse),
        functools.partial(_backward, activation, reverse),
        *tensors,
    )


def _forward(activation, reverse, *tensors):
    x, weight = tensors[:2]
    (b, l, d), k = shape_of(x), weight.shape[0]
    (y,) = run(
        "conv_forward",
        sizes((b, l, d), k, threads(), activation, reverse),
        widen(tensors),
        [(b, l, d)],
        b * l * d * k,
    )
    return tf.cast(y, x.dtype), tensors


def _backward(activation, reverse, tensors, dy):
    x, weight, _, state = tensors[:4]
    (b, l, d), k = shape_of(x), weight.shape[0]
    dx, dweight, dbias, dstate = run(
        "conv_backward",
        sizes((b, l, d), k, threads(), activation, reverse),
        widen((*tensors, dy)),
        [(b, l, d), (b, k, d), (b, d), shape_of(state)],
        b * l * d * k,
    )
    dweight, dbias = total(dweight, dbias)
    return *cast_like((dx, dweight, dbias, dstate), tensors), None
