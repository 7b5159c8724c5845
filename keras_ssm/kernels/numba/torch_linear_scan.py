"""The linear scan as a custom operator of PyTorch."""

import torch

from keras_ssm.kernels import torch_operators
from keras_ssm.kernels.numba.linear_frame import sizes
from keras_ssm.kernels.numba.torch_binding import readable, run, wide

# Inputs whose steps need not lie behind each other: x, a and dy.
_STRIDED = (0, 1, 2, 3, 8, 9)


def linear_scan(*tensors, reverse):
    """The op on canonical tensors; see `keras_ssm.ops.linear_scan`."""
    return torch_operators.linear_scan("numba", tensors, reverse)


def _forward(*arguments):
    *given, reverse = arguments
    outputs = torch_operators.linear_results(*arguments)
    _run("linear_forward", given, outputs, reverse)
    return outputs


def _backward(*arguments):
    *given, reverse = arguments
    y, a, state = given[0], given[2], given[4]
    constant = a.shape[:-1] != y.shape[:-1]
    # Kernels sum over the steps of a row only.
    of_a = (len(y), *a.shape) if constant else a.shape
    shapes = (y.shape, y.shape, of_a, of_a, state.shape, state.shape)
    found = [
        None if v is None else y.new_empty(shape)
        for v, shape in zip(given, shapes, strict=False)
    ]
    _run("linear_backward", given, found, reverse)
    if constant:
        found[2:4] = (None if v is None else v.sum(0) for v in found[2:4])
    return found


def _run(name, given, outputs, reverse):
    x, a = given[0], given[2]
    dtype, threads = wide(x.dtype), torch.get_num_threads()
    inputs = [
        readable(v, dtype, strided=k in _STRIDED) for k, v in enumerate(given)
    ]
    run(
        name,
        sizes(x.shape, a.ndim == 1, threads, reverse),
        [*inputs, *(v if v is None or v.numel() else None for v in outputs)],
        x.numel(),
    )


torch_operators.register_linear("numba", _forward, _backward)
