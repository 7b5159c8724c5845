"""The linear scan, all of it in one kernel."""

import triton

from keras_ssm.kernels import torch_operators
from keras_ssm.kernels.triton.launch import (
    contiguous,
    lanes,
    readable,
    run,
    strides,
    unsupported,
)
from keras_ssm.kernels.triton.linear_kernels import (
    backward_kernel,
    forward_kernel,
)

__all__ = ["linear_scan", "unsupported"]

# Steps that a program asks for at once.
_STEPS = 8


def linear_scan(*tensors, reverse):
    """The op on canonical tensors; see `keras_ssm.ops.linear_scan`."""
    return torch_operators.linear_scan("triton", tensors, reverse)


def _forward(*arguments):
    *given, reverse = arguments
    numbers, others = _numbers(given), map(contiguous, given[4:])
    outputs = torch_operators.linear_results(*given)
    _run(
        forward_kernel,
        (*numbers, *others, *(v if v.numel() else None for v in outputs)),
        strides(*numbers),
        given[0].shape,
        REVERSE=reverse,
    )
    return outputs


def _backward(*arguments):
    *given, reverse = arguments
    numbers, others = _numbers(given), map(contiguous, given[4:8])
    dy, dend = tuple(map(readable, given[8:10])), map(contiguous, given[10:])
    y, a, state = given[0], given[2], given[4]
    constant = a.ndim == 1
    # A kernel sums over the steps of a row only.
    of_a = (len(y), *a.shape) if constant else a.shape
    shapes = (y.shape, y.shape, of_a, of_a, state.shape, state.shape)
    found = [
        None if v is None else y.new_empty(shape)
        for v, shape in zip(given, shapes, strict=False)
    ]
    _run(
        backward_kernel,
        (*numbers, *others, *dy, *dend, *found),
        strides(*numbers, *dy),
        y.shape,
        CONSTANT=constant,
        REVERSE=reverse,
    )
    if constant:
        found[2:4] = (None if v is None else v.sum(0) for v in found[2:4])
    return found


def _numbers(given):
    """x or y and `a`, as long as x."""
    x, x_imag, a, a_imag = given[:4]
    a, a_imag = (None if v is None else v.expand_as(x) for v in (a, a_imag))
    return tuple(map(readable, (x, x_imag, a, a_imag)))


def _run(kernel, tensors, distances, shape, **constants):
    b, l, d = shape
    block = lanes(tensors[0].device)
    run(
        kernel,
        b * triton.cdiv(d, block),
        *(*tensors, *distances, l, d),
        BLOCK=block,
        STEPS=_STEPS,
        **constants,
    )


torch_operators.register_linear("triton", _forward, _backward)
