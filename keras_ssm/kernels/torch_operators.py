"""Fused kernels as custom operators of PyTorch.

An implementation brings two functions that run kernels; here they become
operators that `torch.compile`, autograd and `torch.func` know, and a function
with the op's canonical signature.
"""

import torch

_SCAN = (
    "Tensor x, Tensor dt, Tensor A, Tensor B, Tensor C, Tensor? D, Tensor? z, "
    "Tensor? dt_bias, Tensor state, Tensor? mask, Tensor? resets"
)
_CONVOLUTION = (
    "Tensor x, Tensor weight, Tensor? bias, Tensor state, Tensor? resets"
)


def selective_scan(name: str, results, forward, backward):
    """Makes the function `selective_scan` of an implementation.

    Args:
        name: Of the implementation.
        results: Function of `x`, `n` and whether there will be a gradient
            that makes uninitialised tensors for `y`, the state and what is
            saved.
        forward: Function of the canonical tensors, `dt_softplus`, `reverse`
            and whether there will be a gradient, with these results.
        backward: Function of the canonical tensors, the gradients of y and
            the state, what is saved, `dt_softplus` and `reverse`. Returns the
            gradients of the tensors before the mask, in their dtypes.
    """
    operator = torch.library.custom_op(
        f"keras_ssm::{name}_selective_scan",
        forward,
        mutates_args=(),
        schema=f"({_SCAN}, bool dt_softplus, bool reverse, bool keep) -> "
        "(Tensor, Tensor, Tensor)",
    )
    gradient = torch.library.custom_op(
        f"keras_ssm::{name}_selective_scan_backward",
        _present(backward, 9),
        mutates_args=(),
        schema=f"({_SCAN}, Tensor dy, Tensor dstate, Tensor saved, "
        f"bool dt_softplus, bool reverse) -> ({_tensors(9)})",
    )
    operator.register_fake(
        lambda *arguments: results(
            arguments[0], arguments[2].shape[1], arguments[-1]
        )
    )
    gradient.register_fake(_like(9))
    once = _only_once(name, gradient)

    class Scan(torch.autograd.Function):
        """The operator and its gradient, also for `torch.func`."""

        generate_vmap_rule = True

        @staticmethod
        def forward(*arguments):
            return operator(*arguments)

        @staticmethod
        def setup_context(ctx, inputs, output):
            *tensors, ctx.dt_softplus, ctx.reverse, _ = inputs
            ctx.mark_non_differentiable(output[2])
            ctx.set_materialize_grads(False)
            ctx.save_for_backward(*tensors, output[2])

        @staticmethod
        def backward(ctx, dy, dstate, _):
            *tensors, saved = ctx.saved_tensors
            dy = torch.zeros_like(tensors[0]) if dy is None else dy
            if dstate is None:
                dstate = torch.zeros_like(tensors[8])
            found = once.apply(
                *(*tensors, dy, dstate, saved), ctx.dt_softplus, ctx.reverse
            )
            return (*_of_present(tensors, found), *(None,) * 5)

    # For those who call the operator itself, as `torch.library.opcheck` does.
    operator.register_autograd(Scan.backward, setup_context=Scan.setup_context)

    def selective_scan(*tensors, dt_softplus, reverse):
        """The op on canonical tensors; see `keras_ssm.ops.selective_scan`."""
        keep = torch.is_grad_enabled()
        y, state, _ = Scan.apply(*tensors, dt_softplus, reverse, keep)
        return y, state

    return selective_scan


def causal_conv1d(name: str, forward, backward):
    """Makes the function `causal_conv1d` of an implementation.

    Args:
        name: Of the implementation.
        forward: Function of the canonical tensors, `activation` and
            `reverse` that returns `y`.
        backward: Function of the canonical tensors, the gradient of `y`,
            `activation` and `reverse`. Returns the gradients of the tensors
            before the resets, in their dtypes.
    """
    options = "str? activation, bool reverse"
    operator = torch.library.custom_op(
        f"keras_ssm::{name}_causal_conv1d",
        forward,
        mutates_args=(),
        schema=f"({_CONVOLUTION}, {options}) -> Tensor",
    )
    gradient = torch.library.custom_op(
        f"keras_ssm::{name}_causal_conv1d_backward",
        _present(backward, 4),
        mutates_args=(),
        schema=f"({_CONVOLUTION}, Tensor dy, {options}) -> ({_tensors(4)})",
    )
    operator.register_fake(lambda x, *others: x.new_empty(x.shape))
    gradient.register_fake(_like(4))
    once = _only_once(name, gradient)

    class Convolution(torch.autograd.Function):
        """The operator and its gradient, also for `torch.func`."""

        generate_vmap_rule = True

        @staticmethod
        def forward(*arguments):
            return operator(*arguments)

        @staticmethod
        def setup_context(ctx, inputs, output):
            *tensors, ctx.activation, ctx.reverse = inputs
            ctx.save_for_backward(*tensors)

        @staticmethod
        def backward(ctx, dy):
            tensors = ctx.saved_tensors
            found = once.apply(*tensors, dy, ctx.activation, ctx.reverse)
            return (*_of_present(tensors, found), None, None, None)

    operator.register_autograd(
        Convolution.backward, setup_context=Convolution.setup_context
    )

    def causal_conv1d(*tensors, activation, reverse):
        """The op on canonical tensors; see `keras_ssm.ops.causal_conv1d`."""
        return Convolution.apply(*tensors, activation, reverse)

    return causal_conv1d


def _only_once(name, gradient):
    """A gradient as a function that says that it has none."""

    class Gradient(torch.autograd.Function):
        generate_vmap_rule = True

        @staticmethod
        def forward(*arguments):
            return gradient(*arguments)

        @staticmethod
        def setup_context(ctx, inputs, output):
            pass

        @staticmethod
        def backward(ctx, *gradients):
            raise NotImplementedError(
                f"The implementation {name!r} has first derivatives only."
            )

    return Gradient


def _tensors(count):
    return ", ".join(["Tensor"] * count)


def _like(count):
    """A fake gradient: the shapes of the first `count` arguments."""

    def fake(x, *others):
        return tuple(
            x.new_empty(0) if v is None else v.new_empty(v.shape)
            for v in (x, *others[: count - 1])
        )

    return fake


def _present(backward, count):
    """Operators return tensors: empty ones as gradients of absent inputs."""

    def present(x, *others):
        found = backward(x, *others)
        given = (x, *others[: count - 1])
        return tuple(
            x.new_empty(0) if v is None else gradient
            for v, gradient in zip(given, found, strict=True)
        )

    return present


def _of_present(tensors, found):
    """The gradients, `None` for absent tensors."""
    return tuple(
        None if v is None else gradient
        for v, gradient in zip(tensors, found, strict=False)
    )
