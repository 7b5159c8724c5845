"""The causal convolution as a custom operator of PyTorch."""

import torch

from keras_ssm.kernels.numba.conv_loops import sizes
from keras_ssm.kernels.numba.torch_binding import (
    ONLY_FIRST,
    readable,
    run,
    wide,
)

_TENSORS = "Tensor x, Tensor weight, Tensor? bias, Tensor state, Tensor? resets"
_OPTIONS = "str? activation, bool reverse"

# Inputs whose steps need not lie behind each other: x and dy.
_STRIDED = (0, 5)


def causal_conv1d(*tensors, activation, reverse):
    """The op on canonical tensors; see `keras_ssm.ops.causal_conv1d`."""
    return _Convolution.apply(*tensors, activation, reverse)


@torch.library.custom_op(
    "keras_ssm::numba_causal_conv1d",
    mutates_args=(),
    schema=f"({_TENSORS}, {_OPTIONS}) -> Tensor",
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


@_forward.register_fake
def _forward_fake(x, *others):
    return x.new_empty(x.shape)


@torch.library.custom_op(
    "keras_ssm::numba_causal_conv1d_backward",
    mutates_args=(),
    schema=f"({_TENSORS}, Tensor dy, {_OPTIONS}) -> "
    "(Tensor, Tensor, Tensor, Tensor)",
)
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
        x.new_empty(0) if v is None else gradient.to(v.dtype)
        for v, gradient in zip(given[:4], sums, strict=True)
    )


@_backward.register_fake
def _backward_fake(x, *others):
    return tuple(
        x.new_empty(0) if v is None else v.new_empty(v.shape)
        for v in (x, *others[:3])
    )


def _readable(tensors):
    dtype = wide(tensors[0].dtype)
    return [
        readable(v, dtype, strided=k in _STRIDED) for k, v in enumerate(tensors)
    ]


class _Convolution(torch.autograd.Function):
    """The operator and its gradient, also for `torch.func`."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x, weight, bias, state, resets, activation, reverse):
        return _forward(x, weight, bias, state, resets, activation, reverse)

    @staticmethod
    def setup_context(ctx, inputs, output):
        *tensors, ctx.activation, ctx.reverse = inputs
        ctx.save_for_backward(*tensors)

    @staticmethod
    def backward(ctx, dy):
        tensors = ctx.saved_tensors
        gradients = _Gradient.apply(*tensors, dy, ctx.activation, ctx.reverse)
        found = [
            None if v is None else gradient
            for v, gradient in zip(tensors, gradients, strict=False)
        ]
        return (*found, None, None, None)


class _Gradient(torch.autograd.Function):
    """The gradient as a function that says that it has none."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x, weight, bias, state, resets, dy, activation, reverse):
        tensors = x, weight, bias, state, resets
        return _backward(*tensors, dy, activation, reverse)

    @staticmethod
    def setup_context(ctx, inputs, output):
        pass

    @staticmethod
    def backward(ctx, *gradients):
        raise NotImplementedError(ONLY_FIRST)


# For those who call the operator itself, as `torch.library.opcheck` does.
_forward.register_autograd(
    _Convolution.backward, setup_context=_Convolution.setup_context
)
