"""The selective scan as a custom operator around a loop over time.

`torch.compile` does not look into a custom operator; it would unroll the loop.
What `torch.export` makes shall run where this library is not installed, and
gets plain operators instead.
"""

import torch

from keras_ssm.kernels import border, platforms
from keras_ssm.kernels.torch import composite, loop
from keras_ssm.kernels.torch.rows import map_over_rows


def unsupported(*tensors, **options):
    """Nothing: it runs wherever PyTorch does."""
    return None


def selective_scan(*tensors, dt_softplus, reverse):
    """The op on canonical tensors; see `keras_ssm.ops.selective_scan`."""
    return border.around(
        recurrence, tensors, dt_softplus=dt_softplus, reverse=reverse
    )


def recurrence(x, dt, A, B, C, h, resets, reverse):
    """`h[t] = exp(dt[t] A) h[t-1] + dt[t] B[t] x[t]; y[t] = C[t] h[t]`."""
    if platforms.exporting():
        return composite.recurrence(x, dt, A, B, C, h, resets, reverse)
    y, h, _ = _Recurrence.apply(x, dt, A, B, C, h, resets, reverse)
    return y, h


@torch.library.custom_op(
    "keras_ssm::selective_scan",
    mutates_args=(),
    schema="(Tensor x, Tensor dt, Tensor A, Tensor B, Tensor C, Tensor h, "
    "Tensor? resets, bool reverse) -> (Tensor, Tensor, Tensor)",
)
def _forward(x, dt, A, B, C, h, resets, reverse):
    with torch.autocast(x.device.type, enabled=False):
        return loop.forward(x, dt, A, B, C, h, resets, reverse)


@torch.library.custom_op(
    "keras_ssm::selective_scan_backward",
    mutates_args=(),
    schema="(Tensor dy, Tensor dh, Tensor x, Tensor dt, Tensor A, Tensor B, "
    "Tensor C, Tensor? resets, Tensor starts, bool reverse) -> "
    "(Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
)
def _backward(dy, dh, x, dt, A, B, C, resets, starts, reverse):
    with torch.autocast(x.device.type, enabled=False):
        return loop.backward(dy, dh, x, dt, A, B, C, resets, starts, reverse)


@_forward.register_fake
def _forward_fake(x, dt, A, B, C, h, resets, reverse):
    layout = loop.Layout(x, A, B)
    return layout.new(x.shape), layout.new(h.shape), layout.new_starts()


@_backward.register_fake
def _backward_fake(dy, dh, x, dt, A, B, C, resets, starts, reverse):
    new = loop.Layout(x, A, B).new
    return tuple(new(v.shape) for v in (x, dt, dh, B, C, dh))


class _Recurrence(torch.autograd.Function):
    """The operator and its gradient, also for `torch.func`.

    That refuses to differentiate what `register_autograd` makes.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(x, dt, A, B, C, h, resets, reverse):
        return _forward(x, dt, A, B, C, h, resets, reverse)

    @staticmethod
    def setup_context(ctx, inputs, output):
        x, dt, A, B, C, _, resets, ctx.reverse = inputs
        starts = output[2]
        ctx.mark_non_differentiable(starts)
        ctx.save_for_backward(x, dt, A, B, C, resets, starts)

    @staticmethod
    def backward(ctx, dy, dh, _):
        gradients = _Gradient.apply(dy, dh, *ctx.saved_tensors, ctx.reverse)
        dx, ddt, dA, dB, dC, dh = gradients
        return dx, ddt, dA.sum(0), dB, dC, dh, None, None


class _Gradient(torch.autograd.Function):
    """The gradient as a function that says that it has none."""

    generate_vmap_rule = True

    @staticmethod
    def forward(dy, dh, x, dt, A, B, C, resets, starts, reverse):
        return _backward(dy, dh, x, dt, A, B, C, resets, starts, reverse)

    @staticmethod
    def setup_context(ctx, inputs, output):
        pass

    @staticmethod
    def backward(ctx, *gradients):
        raise NotImplementedError(
            "`selective_scan`: the implementation 'torch' has first "
            "derivatives only."
        )


# For those who call the operator itself, as `torch.library.opcheck` does.
_forward.register_autograd(
    _Recurrence.backward, setup_context=_Recurrence.setup_context
)


map_over_rows(_forward, shared=2)
map_over_rows(_backward, shared=4)
