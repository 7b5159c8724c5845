"""Loops over chunks of time as custom operators, with their gradient.

`torch.compile` does not look into a custom operator; it would unroll the loop.
"""

import torch

from keras_ssm.kernels.torch.rows import map_over_rows

_TENSORS = "Tensor x, Tensor dt, Tensor A, Tensor B, Tensor C"
_OPTIONS = "bool reverse, int q"

# The operators by name: forward and backward.
_OPERATORS = {}


def register(name: str, forward, backward, new_starts) -> None:
    """Makes the operators of a recurrence, for `Recurrence`.

    Args:
        name: Of the op.
        forward: Function of `x, dt, A, B, C, h, resets, reverse, q` that
            returns `y`, the state at the end, and what is kept of the others.
        backward: Function of the gradients of y and of the state, of `x, dt,
            A, B, C, resets`, what is kept, `reverse` and `q` that returns the
            gradients of x, dt, A (in each row), B, C and the initial state.
        new_starts: Function of `x, A, B, q` that makes room for what is kept.
    """

    def shapes(x, dt, A, B, C, h, resets, reverse, q):
        y, end = x.new_empty(x.shape), h.new_empty(h.shape)
        return y, end, new_starts(x, A, B, q)

    def shapes_of_gradients(dy, dh, x, dt, A, B, C, *others):
        of_A = dh.new_empty((dh.shape[0], *A.shape))
        found = [v.new_empty(v.shape) for v in (x, dt, B, C, dh)]
        return (*found[:2], of_A, *found[2:])

    run = _register(
        f"keras_ssm::{name}",
        forward,
        f"({_TENSORS}, Tensor h, Tensor? resets, {_OPTIONS}) -> "
        "(Tensor, Tensor, Tensor)",
        shapes,
        shared=2,
    )
    run_back = _register(
        f"keras_ssm::{name}_backward",
        backward,
        f"(Tensor dy, Tensor dh, {_TENSORS}, Tensor? resets, Tensor starts, "
        f"{_OPTIONS}) -> "
        "(Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
        shapes_of_gradients,
        shared=4,
    )
    _OPERATORS[name] = run, run_back
    _register_autograd(name, run)


def _register(name, function, schema, shapes, shared):
    @torch.library.custom_op(name, mutates_args=(), schema=schema)
    def operator(*arguments):
        # The device of the state or of its gradient, which are always there.
        with torch.autocast(arguments[1].device.type, enabled=False):
            return function(*arguments)

    operator.register_fake(shapes)
    map_over_rows(operator, shared=shared)
    return operator


def _register_autograd(name, operator):
    """For those who call the operator itself, as `torch.library.opcheck`."""

    def setup_context(ctx, inputs, output):
        Recurrence.setup_context(ctx, (name, *inputs), output)

    def backward(ctx, *gradients):
        return Recurrence.backward(ctx, *gradients)[1:]

    operator.register_autograd(backward, setup_context=setup_context)


class Recurrence(torch.autograd.Function):
    """The operator of that name and its gradient, also for `torch.func`.

    That refuses to differentiate what `register_autograd` makes.
    """

    generate_vmap_rule = True

    # `torch.compile` counts the arguments: they have to be spelt out.
    @staticmethod
    def forward(name, x, dt, A, B, C, h, resets, reverse, q):
        return _OPERATORS[name][0](x, dt, A, B, C, h, resets, reverse, q)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.name, *tensors, ctx.reverse, ctx.q = inputs
        starts = output[2]
        ctx.mark_non_differentiable(starts)
        # It would be of zeros, and as large as `starts`.
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*tensors, starts)

    @staticmethod
    def backward(ctx, dy, dh, _):
        x, dt, A, B, C, h, resets, starts = ctx.saved_tensors
        dy = torch.zeros_like(x) if dy is None else dy
        dh = torch.zeros_like(h) if dh is None else dh
        dx, ddt, dA, dB, dC, dh = _Gradient.apply(
            *(ctx.name, dy, dh, x, dt, A, B, C, resets, starts),
            *(ctx.reverse, ctx.q),
        )
        return None, dx, ddt, dA.sum(0), dB, dC, dh, None, None, None


class _Gradient(torch.autograd.Function):
    """The gradient as a function that says that it has none."""

    generate_vmap_rule = True

    @staticmethod
    def forward(name, dy, dh, x, dt, A, B, C, resets, starts, reverse, q):
        return _OPERATORS[name][1](
            dy, dh, x, dt, A, B, C, resets, starts, reverse, q
        )

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.name = inputs[0]

    @staticmethod
    def backward(ctx, *gradients):
        raise NotImplementedError(
            f"`{ctx.name}`: the implementation 'torch' has first derivatives "
            "only."
        )
