"""Fused kernels of `ssd` as custom operators of PyTorch.

See `keras_ssm/kernels/torch_operators.py`.
"""

import torch

from keras_ssm.kernels.torch_calls import call
from keras_ssm.kernels.torch_operators import (
    OPERATORS,
    Once,
    of_present,
    register_autograd,
    register_gradient,
    register_operator,
)

_TENSORS = (
    "Tensor x, Tensor dt, Tensor A, Tensor B, Tensor C, Tensor? D, "
    "Tensor? dt_bias, Tensor state, Tensor? mask, Tensor? resets"
)
_OPTIONS = "bool dt_softplus, bool reverse, int chunk_size"


def register(name: str, results, forward, backward) -> None:
    """Makes the operators, for `Ssd`.

    Args:
        name: Of the implementation.
        results: Function of the arguments of `forward` that makes
            uninitialised tensors for its results.
        forward: Function of the canonical tensors, `dt_softplus`, `reverse`,
            `chunk_size` and whether there will be a gradient. Returns `y`, the
            state and what is saved.
        backward: Function of the canonical tensors, the gradients of y and
            the state, what is saved, `dt_softplus`, `reverse` and
            `chunk_size`. Returns the gradients of the tensors before the mask,
            in their dtypes.
    """
    schema = f"({_TENSORS}, {_OPTIONS}, bool keep)"
    operator = register_operator(f"{name}_ssd", forward, schema, 3)
    operator.register_fake(results)
    register_gradient(
        f"{name}_ssd_backward",
        f"({_TENSORS}, Tensor dy, Tensor dstate, Tensor saved, {_OPTIONS})",
        backward,
        8,
    )
    register_autograd(operator, name, Ssd)


class Ssd(torch.autograd.Function):
    """Takes the name, the canonical tensors, the options, and `keep`."""

    operator = "ssd"
    generate_vmap_rule = True

    @staticmethod
    def forward(
        name,
        x,
        dt,
        A,
        B,
        C,
        D,
        dt_bias,
        state,
        mask,
        resets,
        dt_softplus,
        reverse,
        chunk_size,
        keep,
    ):
        tensors = x, dt, A, B, C, D, dt_bias, state, mask, resets
        return OPERATORS[f"{name}_ssd"](
            *tensors, dt_softplus, reverse, chunk_size, keep
        )

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.name, *tensors, softplus, reverse, chunk_size, _ = inputs
        ctx.options = softplus, reverse, chunk_size
        ctx.mark_non_differentiable(output[2])
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*tensors, output[2])

    @staticmethod
    def backward(ctx, dy, dstate, _):
        *tensors, saved = ctx.saved_tensors
        dy = torch.zeros_like(tensors[0]) if dy is None else dy
        dstate = torch.zeros_like(tensors[7]) if dstate is None else dstate
        found = call(
            *(_SsdGradient, ctx.name, *tensors, dy, dstate, saved),
            *ctx.options,
        )
        return (None, *of_present(tensors, found), *(None,) * 6)


class _SsdGradient(Once):
    operator = "ssd_backward"

    @staticmethod
    def forward(
        name,
        x,
        dt,
        A,
        B,
        C,
        D,
        dt_bias,
        state,
        mask,
        resets,
        dy,
        dstate,
        saved,
        dt_softplus,
        reverse,
        chunk_size,
    ):
        tensors = x, dt, A, B, C, D, dt_bias, state, mask, resets
        return OPERATORS[f"{name}_ssd_backward"](
            *(*tensors, dy, dstate, saved, dt_softplus, reverse, chunk_size)
        )
