"""The selective scan as a kernel of TensorFlow."""

import functools

import tensorflow as tf

from keras_ssm.kernels import platforms
from keras_ssm.kernels.numba.scan_frame import STEPS, parts_of, sizes
from keras_ssm.kernels.numba.tensorflow_binding import (
    cast_like,
    run,
    shape_of,
    threads,
    total,
    widen,
)
from keras_ssm.kernels.xla.custom_gradient import custom_gradient


def selective_scan(*tensors, dt_softplus, reverse):
    """The op on canonical tensors; see `keras_ssm.ops.selective_scan`."""
    return custom_gradient(
        functools.partial(_forward, dt_softplus, reverse, platforms.recorded()),
        functools.partial(_backward, dt_softplus, reverse),
        *tensors,
    )


def _forward(dt_softplus, reverse, keep, *tensors):
    x, B = tensors[0], tensors[3]
    (b, l, d), n = shape_of(x), B.shape[3]
    chunks = -(-l // STEPS) if keep else 0
    y, end, starts = run(
        "scan_forward",
        sizes((b, l, d), B.shape, 1, dt_softplus, reverse),
        widen(tensors),
        [(b, l, d), (b, d, n), (b, chunks, n, d)],
        b * l * d * n,
    )
    return (tf.cast(y, x.dtype), end), (tensors, starts)


def _backward(dt_softplus, reverse, residuals, dy, dend):
    tensors, starts = residuals
    x, z, state, B = (tensors[k] for k in (0, 6, 8, 3))
    (b, l, d), (g, n) = shape_of(x), B.shape[2:]
    parts = parts_of((b, l, d), g, threads())
    maps = (parts, b, l, g, n)
    shapes = [(b, l, d), (b, l, d), (b, n, d), maps, maps, (b, d)]
    shapes += [(0,) if z is None else (b, l, d), (b, d), shape_of(state)]
    dx, ddt, dA, dB, dC, dD, dz, dbias, dstate = run(
        "scan_backward",
        sizes((b, l, d), B.shape, parts, dt_softplus, reverse),
        widen((*tensors, dy, dend, starts)),
        shapes,
        b * l * d * n,
    )
    dA, dB, dC, dD, dbias = total(dA, dB, dC, dD, dbias)
    found = (dx, ddt, tf.transpose(dA), dB, dC, dD, dz, dbias, dstate)
    return *cast_like(found, tensors), None, None
