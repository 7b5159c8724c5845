"""The linear scan as a kernel of TensorFlow."""

import functools
import math

import tensorflow as tf

from keras_ssm.kernels.numba.linear_frame import sizes
from keras_ssm.kernels.numba.tensorflow_binding import run, shape_of, threads
from keras_ssm.kernels.xla.custom_gradient import custom_gradient


def linear_scan(*tensors, reverse):
    """The op on canonical tensors; see `keras_ssm.ops.linear_scan`."""
    *numbers, state, state_imag, mask, resets = tensors
    numbers = (None if v is None else tf.cast(v, state.dtype) for v in numbers)
    outputs = custom_gradient(
        functools.partial(_forward, reverse),
        functools.partial(_backward, reverse),
        *(*numbers, state, state_imag, mask, resets),
    )
    count = len(outputs) // 2
    y, end = outputs[:count], outputs[count:]
    return *(tf.cast(v, tensors[0].dtype) for v in y), *end


def _forward(reverse, *tensors):
    x, x_imag, a, _, state, state_imag = tensors[:6]
    like = x, x_imag, state, state_imag
    y, y_imag, *end = _run("linear_forward", reverse, tensors, a, like)
    outputs = [v for v in (y, y_imag, *end) if v is not None]
    # All that is kept is the output.
    return tuple(outputs), (y, y_imag, *tensors[2:])


def _backward(reverse, tensors, *gradients):
    if len(gradients) == 2:
        gradients = gradients[0], None, gradients[1], None
    like, a = tensors[:6], tensors[2]
    inputs = (*tensors, *gradients)
    found = _run("linear_backward", reverse, inputs, a, like)
    if a.shape.rank == 1:
        # Kernels sum over the steps of a row only.
        found[2:4] = (
            None if v is None else tf.reduce_sum(v, 0) for v in found[2:4]
        )
    return *found, None, None


def _run(name, reverse, tensors, a, like):
    """Results like these tensors, with rows; `None` for those absent."""
    shape = shape_of(tensors[0])
    shapes = [
        (0,)
        if v is None
        else shape_of(v)
        if v.shape.rank > 1
        else (shape[0], *v.shape)
        for v in like
    ]
    results = run(
        name,
        sizes(shape, a.shape.rank == 1, threads(), reverse),
        tensors,
        shapes,
        math.prod(shape),
    )
    return [
        None if of is None else v for v, of in zip(results, like, strict=True)
    ]
