"""The selective scan as a custom operator of PyTorch."""

import torch

from keras_ssm.kernels.numba.scan_frame import chunk_of, parts_of, sizes
from keras_ssm.kernels.numba.torch_binding import (
    ONLY_FIRST,
    readable,
    run,
    wide,
)

# Inputs whose steps need not lie behind each other: x, dt, B, C, z and dy.
_STRIDED = (0, 1, 3, 4, 6, 11)


def selective_scan(*tensors, dt_softplus, reverse):
    """The op on canonical tensors; see `keras_ssm.ops.selective_scan`."""
    keep = torch.is_grad_enabled()
    y, state, _ = _Scan.apply(*tensors, dt_softplus, reverse, keep)
    return y, state


_TENSORS = (
    "Tensor x, Tensor dt, Tensor A, Tensor B, Tensor C, Tensor? D, Tensor? z, "
    "Tensor? dt_bias, Tensor state, Tensor? mask, Tensor? resets"
)


@torch.library.custom_op(
    "keras_ssm::numba_selective_scan",
    mutates_args=(),
    schema=f"({_TENSORS}, bool dt_softplus, bool reverse, bool keep) -> "
    "(Tensor, Tensor, Tensor)",
)
def _forward(*arguments):
    *inputs, dt_softplus, reverse, keep = arguments
    x, B = inputs[0], inputs[3]
    dtype = wide(x.dtype)
    y, end, starts = _results(x, B.shape[3], keep)
    y = y.to(dtype)
    run(
        "scan_forward",
        sizes(x.shape, B.shape, 1, dt_softplus, reverse),
        [*_readable(inputs, dtype), y, end, starts if keep else None],
        x.numel() * B.shape[3],
    )
    l = x.shape[1]
    used = -(-l // chunk_of(B.shape[3])) * end.numel()
    starts.flatten()[used:].zero_()
    return y.to(x.dtype), end, starts


@_forward.register_fake
def _forward_fake(*arguments):
    x, keep = arguments[0], arguments[-1]
    return _results(x, arguments[2].shape[1], keep)


def _results(x, n, keep):
    """Uninitialised: y, the state, and the states before each chunk."""
    b, l, d = x.shape
    dtype = wide(x.dtype)
    q = chunk_of(n)
    # Never 1, so that a compiled program serves all lengths.
    chunks = l // q + 2 if keep else 0
    return (
        x.new_empty((b, l, d)),
        x.new_empty((b, d, n), dtype=dtype),
        x.new_empty((b, chunks, n, d), dtype=dtype),
    )


@torch.library.custom_op(
    "keras_ssm::numba_selective_scan_backward",
    mutates_args=(),
    schema=f"({_TENSORS}, Tensor dy, Tensor dend, Tensor starts, "
    f"bool dt_softplus, bool reverse) -> ({', '.join(['Tensor'] * 9)})",
)
def _backward(*arguments):
    *given, dt_softplus, reverse = arguments
    x, dt, A, B, C, D, z, dt_bias, state = given[:9]
    (b, l, g, n), d = B.shape, x.shape[2]
    dtype = wide(x.dtype)
    parts = parts_of(x.shape, g, torch.get_num_threads())
    inputs = _readable(given, dtype)
    dx, ddt, dz = (x.new_empty((b, l, d), dtype=dtype) for _ in range(3))
    dA = x.new_empty((b, n, d), dtype=dtype)
    dB, dC = (x.new_empty((parts, *B.shape), dtype=dtype) for _ in range(2))
    dD, dbias = (x.new_empty((b, d), dtype=dtype) for _ in range(2))
    dstate = x.new_empty(state.shape, dtype=dtype)
    outputs = [dx, ddt, dA, dB, dC, dD, dz if z is not None else None]
    run(
        "scan_backward",
        sizes(x.shape, B.shape, parts, dt_softplus, reverse),
        [*inputs, *outputs, dbias, dstate],
        x.numel() * n,
    )
    dA = dA.sum(0).t().contiguous()
    sums = (dx, ddt, dA, dB.sum(0), dC.sum(0), dD.sum(0), dz, dbias.sum(0))
    return tuple(
        x.new_empty(0) if v is None else gradient.to(v.dtype)
        for v, gradient in zip(given, (*sums, dstate), strict=False)
    )


@_backward.register_fake
def _backward_fake(x, *others):
    return tuple(
        x.new_empty(0) if v is None else v.new_empty(v.shape)
        for v in (x, *others[:8])
    )


def _readable(tensors, dtype):
    return [
        readable(v, dtype, strided=k in _STRIDED) for k, v in enumerate(tensors)
    ]


class _Scan(torch.autograd.Function):
    """The operator and its gradient, also for `torch.func`."""

    generate_vmap_rule = True

    @staticmethod
    def forward(
        x,
        dt,
        A,
        B,
        C,
        D,
        z,
        dt_bias,
        state,
        mask,
        resets,
        dt_softplus,
        reverse,
        keep,
    ):
        tensors = x, dt, A, B, C, D, z, dt_bias, state, mask, resets
        return _forward(*tensors, dt_softplus, reverse, keep)

    @staticmethod
    def setup_context(ctx, inputs, output):
        *tensors, ctx.dt_softplus, ctx.reverse, _ = inputs
        ctx.mark_non_differentiable(output[2])
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*tensors, output[2])

    @staticmethod
    def backward(ctx, dy, dend, _):
        *tensors, starts = ctx.saved_tensors
        dy = torch.zeros_like(tensors[0]) if dy is None else dy
        dend = torch.zeros_like(tensors[8]) if dend is None else dend
        gradients = _Gradient.apply(
            *(*tensors, dy, dend, starts), ctx.dt_softplus, ctx.reverse
        )
        found = [
            None if v is None else gradient
            for v, gradient in zip(tensors, gradients, strict=False)
        ]
        return (*found, *(None,) * 5)


class _Gradient(torch.autograd.Function):
    """The gradient as a function that says that it has none."""

    generate_vmap_rule = True

    @staticmethod
    def forward(
        x,
        dt,
        A,
        B,
        C,
        D,
        z,
        dt_bias,
        state,
        mask,
        resets,
        dy,
        dend,
        starts,
        dt_softplus,
        reverse,
    ):
        tensors = x, dt, A, B, C, D, z, dt_bias, state, mask, resets
        return _backward(*tensors, dy, dend, starts, dt_softplus, reverse)

    @staticmethod
    def setup_context(ctx, inputs, output):
        pass

    @staticmethod
    def backward(ctx, *gradients):
        raise NotImplementedError(ONLY_FIRST)


# For those who call the operator itself, as `torch.library.opcheck` does.
_forward.register_autograd(_Scan.backward, setup_context=_Scan.setup_context)
