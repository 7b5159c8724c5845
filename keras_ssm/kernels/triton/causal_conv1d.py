"""The causal convolution with its activation in one kernel."""

import torch
import triton

from keras_ssm.kernels import torch_calls, torch_operators
from keras_ssm.kernels.triton import launch
from keras_ssm.kernels.triton.conv_kernels import (
    backward_kernel,
    forward_kernel,
)
from keras_ssm.kernels.triton.launch import contiguous, readable, run, strides

__all__ = ["causal_conv1d", "unsupported"]

# As many inputs stay in registers.
_MOST_TAPS = 64
# Channels and steps of a program, and steps that it takes at once.
_CHANNELS, _CHUNK, _STEPS = 128, 128, 8


def unsupported(x, weight, *others, **options):
    """Why these kernels cannot compute this, or `None`."""
    if weight.shape[0] > _MOST_TAPS:
        return f"takes at most {_MOST_TAPS} taps"
    return launch.unsupported(x)


def _forward(*arguments):
    x, weight, bias, state, resets, activation, reverse = arguments
    x = readable(x)
    y = x.new_empty(x.shape)
    run(
        forward_kernel,
        _programs(x),
        *(x, *map(contiguous, (weight, bias, state, resets)), y),
        *(x.stride(0), x.stride(1), *x.shape, _CHUNK),
        **_constants(weight, activation, reverse),
    )
    return y


def _backward(*arguments):
    x, weight, bias, state, resets, dy, activation, reverse = arguments
    x, dy = readable(x), readable(dy)
    (b, l, d), taps = x.shape, len(weight)
    parts = b * triton.cdiv(l, _CHUNK)
    dx, dstate = x.new_empty(x.shape), torch.empty_like(state)
    dweight = weight.new_empty((parts, taps, d))
    dbias = weight.new_empty((parts, d))
    run(
        backward_kernel,
        _programs(x),
        *(x, *map(contiguous, (weight, bias, state, resets)), dy),
        *(dx, dweight, dbias, dstate, *strides(x, dy), b, l, d, _CHUNK),
        **_constants(weight, activation, reverse),
    )
    return dx, dweight.sum(0), dbias.sum(0), dstate


def _programs(x):
    b, l, d = x.shape
    return b * triton.cdiv(l, _CHUNK) * triton.cdiv(d, _CHANNELS)


def _constants(weight, activation, reverse):
    return dict(
        TAPS=len(weight),
        BLOCK=_CHANNELS,
        STEPS=_STEPS,
        SILU=activation == "silu",
        REVERSE=reverse,
    )


torch_operators.register_convolution("triton", _forward, _backward)


def causal_conv1d(*tensors, activation, reverse):
    """The op on canonical tensors; see `keras_ssm.ops.causal_conv1d`."""
    return torch_calls.call(
        *(torch_operators.Convolution, "triton", *tensors, activation, reverse)
    )
