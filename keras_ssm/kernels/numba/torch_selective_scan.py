"""The selective scan as a custom operator of PyTorch."""

import torch

from keras_ssm.kernels import torch_calls, torch_operators
from keras_ssm.kernels.numba.scan_frame import STEPS, parts_of, sizes
from keras_ssm.kernels.numba.torch_binding import readable, run, wide

# Inputs whose steps need not lie behind each other: x, dt, B, C, z and dy.
_STRIDED = (0, 1, 3, 4, 6, 11)


def selective_scan(*tensors, dt_softplus, reverse):
    """The op on canonical tensors; see `keras_ssm.ops.selective_scan`."""
    keep = torch.is_grad_enabled()
    y, state, _ = torch_calls.call(
        *(torch_operators.Scan, "numba", *tensors, dt_softplus, reverse, keep)
    )
    return y, state


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
    used = -(-l // STEPS) * end.numel()
    starts.flatten()[used:].zero_()
    return y.to(x.dtype), end, starts


def _results(x, n, keep):
    """Uninitialised: y, the state, and the states before each chunk."""
    b, l, d = x.shape
    dtype = wide(x.dtype)
    # Never 1, so that a compiled program serves all lengths.
    chunks = l // STEPS + 2 if keep else 0
    return (
        x.new_empty((b, l, d)),
        x.new_empty((b, d, n), dtype=dtype),
        x.new_empty((b, chunks, n, d), dtype=dtype),
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
        None if v is None else gradient.to(v.dtype)
        for v, gradient in zip(given, (*sums, dstate), strict=False)
    )


def _readable(tensors, dtype):
    return [
        readable(v, dtype, strided=k in _STRIDED) for k, v in enumerate(tensors)
    ]


torch_operators.register_scan("numba", _results, _forward, _backward)
