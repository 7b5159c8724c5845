"""The causal convolution as a custom operator of PyTorch."""

import torch

from keras_ssm.kernels import torch_calls, torch_operators
from keras_ssm.kernels.numba.conv_loops import sizes
from keras_ssm.kernels.numba.torch_binding import readable, run, wide

# Inputs whose steps need not lie behind each other: x and dy.
_STRIDED = (0, 5)


def causal_conv1d(*tensors, activation, reverse):
    """The op on canonical tensors; see `keras_ssm.ops.causal_conv1d`."""
    return torch_calls.call(
        *(torch_operators.Convolution, "numba", *tensors, activation, reverse)
    )


def _forward(*arguments):
    *given, activation, reverse = arguments
    x, weight = given[:2]
    inputs = _readable(given)
    y = x.new_empty(x.shape, dtype=inputs[0].dtype)
    run(
        "conv_forward",
        sizes(
            x.shape, len(weight), torch.get_num_threads(), activation, reverse
        ),
        [*inputs, y],
        x.numel() * len(weight),
    )
    return y.to(x.dtype)


def _backward(*arguments):
    *given, activation, reverse = arguments
    x, weight, _, state = given[:4]
    (b, l, d), k = x.shape, len(weight)
    inputs = _readable(given)
    shapes = (b, l, d), (b, k, d), (b, d), state.shape
    gradients = [inputs[0].new_empty(shape) for shape in shapes]
    run(
        "conv_backward",
        sizes(x.shape, k, torch.get_num_threads(), activation, reverse),
        [*inputs, *gradients],
        x.numel() * k,
    )
    dx, dweight, dbias, dstate = gradients
    sums = dx, dweight.sum(0), dbias.sum(0), dstate
    return tuple(
        None if v is None else gradient.to(v.dtype)
        for v, gradient in zip(given[:4], sums, strict=True)
    )


def _readable(tensors):
    dtype = wide(tensors[0].dtype)
    return [
        readable(v, dtype, strided=k in _STRIDED) for k, v in enumerate(tensors)
    ]


torch_operators.register_convolution("numba", _forward, _backward)
