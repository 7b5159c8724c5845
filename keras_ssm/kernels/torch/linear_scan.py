"""The linear scan as a custom operator around a loop over time.

`torch.compile` does not look into a custom operator; it would unroll the loop.
What `torch.export` makes shall run where this library is not installed, and
gets plain operators instead. The backward pass is the same scan from the other
end; its formulas are in `keras_ssm/kernels/lax/linear_scan.py`.
"""

import torch

from keras_ssm.kernels import border, platforms
from keras_ssm.kernels.torch import composite
from keras_ssm.kernels.torch.loop import forget
from keras_ssm.kernels.torch.rows import map_over_rows


def unsupported(*tensors, **options):
    """Nothing: it runs wherever PyTorch does."""
    return None


def linear_scan(*tensors, reverse):
    """The op on canonical tensors; see `keras_ssm.ops.linear_scan`."""
    return border.around_linear_scan(
        recurrence, _make_complex, tensors, reverse=reverse
    )


def _make_complex(real, imag):
    # `torch.complex` would keep the parts for its gradient.
    return torch.view_as_complex(torch.stack([real, imag], dim=-1))


def recurrence(a, x, h, resets, reverse):
    """`h[t] = a[t] h[t-1] + x[t]`: all of it, and the last one."""
    if platforms.exporting():
        return composite.linear_recurrence(a, x, h, resets, reverse)
    return _Recurrence.apply(a, x, h, resets, reverse)


@torch.library.custom_op(
    "keras_ssm::linear_scan",
    mutates_args=(),
    schema="(Tensor a, Tensor x, Tensor h, Tensor? resets, bool reverse) -> "
    "(Tensor, Tensor)",
)
def _loop(a, x, h, resets, reverse):
    y = x.new_empty(x.shape)
    steps = list(zip(a.unbind(1), x.unbind(1), y.unbind(1), strict=True))
    new = [None] * len(steps) if resets is None else resets.unbind(1)
    order = range(len(steps))
    for t in order[::-1] if reverse else order:
        a_at, x_at, y_at = steps[t]
        h = torch.addcmul(x_at, a_at, forget(h, new[t]), out=y_at)
    return y, h.clone()


@_loop.register_fake
def _loop_fake(a, x, h, resets, reverse):
    return x.new_empty(x.shape), h.new_empty(h.shape)


class _Recurrence(torch.autograd.Function):
    """The operator and its gradient, also for `torch.func`.

    That refuses to differentiate what `register_autograd` makes.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(a, x, h, resets, reverse):
        return _loop(a, x, h, resets, reverse)

    @staticmethod
    def setup_context(ctx, inputs, output):
        a, _, h, resets, ctx.reverse = inputs
        ctx.save_for_backward(a, output[0], h, resets)

    @staticmethod
    def backward(ctx, dy, dh):
        (a, y, h, resets), reverse = ctx.saved_tensors, ctx.reverse
        a, following = a.conj(), None
        if resets is not None:
            following = _shift(resets, resets.new_zeros(len(h)), not reverse)
        # The gradient of the last state counts for the last step as it is.
        decays = _shift(a, torch.ones_like(h), not reverse)
        g, _ = _Recurrence.apply(decays, dy, dh, following, not reverse)
        before = forget(_shift(y, h, reverse), resets)
        passed = forget(a * g, resets)[:, -1 if reverse else 0]
        return g * before.conj(), g, passed, None, None


# For those who call the operator itself, as `torch.library.opcheck` does.
_loop.register_autograd(
    _Recurrence.backward, setup_context=_Recurrence.setup_context
)
map_over_rows(_loop)


def _shift(v, first, reverse):
    """`v` `(b, l, ...)` one step later in the order of the scan."""
    if reverse:
        return torch.cat([v[:, 1:], first[:, None]], dim=1)
    return torch.cat([first[:, None], v[:, :-1]], dim=1)
