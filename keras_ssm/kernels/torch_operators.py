"""Fused kernels as custom operators of PyTorch.

An implementation brings two functions that run kernels. They become operators
here, which `torch.compile` takes as they are, and the two operators a function
that autograd and `torch.func` can differentiate once. `torch_calls.py` calls
them.
"""

import torch

from keras_ssm.kernels.torch_calls import KERNELS, call

_SCAN = (
    "Tensor x, Tensor dt, Tensor A, Tensor B, Tensor C, Tensor? D, Tensor? z, "
    "Tensor? dt_bias, Tensor state, Tensor? mask, Tensor? resets"
)
_CONVOLUTION = (
    "Tensor x, Tensor weight, Tensor? bias, Tensor state, Tensor? resets"
)

_LINEAR = (
    "Tensor x, Tensor? x_imag, Tensor a, Tensor? a_imag, Tensor state, "
    "Tensor? state_imag, Tensor? mask, Tensor? resets"
)

# The operators by name, in the form that `torch.compile` knows.
OPERATORS = {}


def register_scan(name: str, results, forward, backward) -> None:
    """Makes the operators of a selective scan, for `Scan`.

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
    schema = f"({_SCAN}, bool dt_softplus, bool reverse, bool keep)"
    operator = register_operator(f"{name}_selective_scan", forward, schema, 3)
    operator.register_fake(
        lambda *arguments: results(
            arguments[0], arguments[2].shape[1], arguments[-1]
        )
    )
    register_gradient(
        f"{name}_selective_scan_backward",
        f"({_SCAN}, Tensor dy, Tensor dstate, Tensor saved, "
        "bool dt_softplus, bool reverse)",
        backward,
        9,
    )
    register_autograd(operator, name, Scan)


def register_convolution(name: str, forward, backward) -> None:
    """Makes the operators of a causal convolution, for `Convolution`.

    Args:
        name: Of the implementation.
        forward: Function of the canonical tensors, `activation` and
            `reverse` that returns `y`.
        backward: Function of the canonical tensors, the gradient of `y`,
            `activation` and `reverse`. Returns the gradients of the tensors
            before the resets, in their dtypes.
    """
    options = "str? activation, bool reverse"
    schema = f"({_CONVOLUTION}, {options})"
    operator = register_operator(f"{name}_causal_conv1d", forward, schema, 1)
    operator.register_fake(lambda x, *others: x.new_empty(x.shape))
    register_gradient(
        f"{name}_causal_conv1d_backward",
        f"({_CONVOLUTION}, Tensor dy, {options})",
        backward,
        4,
    )
    register_autograd(operator, name, Convolution)


def register_linear(name: str, forward, backward) -> None:
    """Makes the operators of a linear scan, for `LinearScan`.

    They take and return tensors in the dtype of the state.

    Args:
        name: Of the implementation.
        forward: Function of the canonical tensors and `reverse`, with the
            results of `linear_results`.
        backward: Function of the canonical tensors with y in the place of x,
            the gradients of the results, and `reverse`. Returns the gradients
            of the tensors before the mask.
    """
    schema = f"({_LINEAR}, bool reverse)"
    operator = register_operator(f"{name}_linear_scan", forward, schema, 4)
    operator.register_fake(linear_results)
    register_gradient(
        f"{name}_linear_scan_backward",
        f"({_LINEAR}, Tensor dy, Tensor? dy_imag, Tensor dstate, "
        "Tensor? dstate_imag, bool reverse)",
        backward,
        6,
    )
    register_autograd(operator, name, LinearScan)


def linear_results(x, x_imag, a, a_imag, state, state_imag, *others):
    """Uninitialised: y and the state, imaginary parts empty if absent."""
    return tuple(
        x.new_empty(0 if v is None else v.shape)
        for v in (x, x_imag, state, state_imag)
    )


def linear_scan(name: str, tensors, reverse: bool):
    """The op on canonical tensors, by the operators of an implementation."""
    *numbers, state, state_imag, mask, resets = tensors
    numbers = (None if v is None else v.to(state.dtype) for v in numbers)
    y, y_imag, end, end_imag = call(
        *(LinearScan, name, *numbers, state, state_imag, mask, resets, reverse)
    )
    dtype = tensors[0].dtype
    if state_imag is None:
        return y.to(dtype), end
    return y.to(dtype), y_imag.to(dtype), end, end_imag


# `torch.compile` counts the arguments of `forward`: they have to be spelt out.


class Scan(torch.autograd.Function):
    """Takes the name, the canonical tensors, the options, and `keep`."""

    operator = "selective_scan"
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
        return OPERATORS[f"{name}_selective_scan"](
            *tensors, dt_softplus, reverse, keep
        )

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.name, *tensors, ctx.dt_softplus, ctx.reverse, _ = inputs
        ctx.mark_non_differentiable(output[2])
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*tensors, output[2])

    @staticmethod
    def backward(ctx, dy, dstate, _):
        *tensors, saved = ctx.saved_tensors
        dy = torch.zeros_like(tensors[0]) if dy is None else dy
        dstate = torch.zeros_like(tensors[8]) if dstate is None else dstate
        found = call(
            *(_ScanGradient, ctx.name, *tensors, dy, dstate, saved),
            *(ctx.dt_softplus, ctx.reverse),
        )
        return (None, *of_present(tensors, found), *(None,) * 5)


class Convolution(torch.autograd.Function):
    """Takes the name, the canonical tensors, and the options."""

    operator = "causal_conv1d"
    generate_vmap_rule = True

    @staticmethod
    def forward(
        name,
        x,
        weight,
        bias,
        state,
        resets,
        activation,
        reverse,
    ):
        tensors = x, weight, bias, state, resets
        return OPERATORS[f"{name}_causal_conv1d"](*tensors, activation, reverse)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.name, *tensors, ctx.activation, ctx.reverse = inputs
        ctx.save_for_backward(*tensors)

    @staticmethod
    def backward(ctx, dy):
        tensors = ctx.saved_tensors
        found = call(
            *(_ConvolutionGradient, ctx.name, *tensors, dy),
            *(ctx.activation, ctx.reverse),
        )
        return (None, *of_present(tensors, found), None, None, None)


class LinearScan(torch.autograd.Function):
    """Takes the name, the canonical tensors, and `reverse`."""

    operator = "linear_scan"
    generate_vmap_rule = True

    @staticmethod
    def forward(
        name,
        x,
        x_imag,
        a,
        a_imag,
        state,
        state_imag,
        mask,
        resets,
        reverse,
    ):
        tensors = x, x_imag, a, a_imag, state, state_imag, mask, resets
        return OPERATORS[f"{name}_linear_scan"](*tensors, reverse)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.name, _, x_imag, *others, ctx.reverse = inputs
        y, y_imag, _, end_imag = output
        if x_imag is None:
            ctx.mark_non_differentiable(y_imag, end_imag)
            y_imag = None
        # All that is kept is the output.
        ctx.save_for_backward(y, y_imag, *others)

    @staticmethod
    def backward(ctx, *gradients):
        tensors = ctx.saved_tensors
        if tensors[1] is None:
            gradients = gradients[0], None, gradients[2], None
        found = call(
            *(_LinearGradient, ctx.name, *tensors, *gradients, ctx.reverse)
        )
        return (None, *of_present(tensors[:6], found), None, None, None)


class Once(torch.autograd.Function):
    """A gradient as a function that says that it has none."""

    generate_vmap_rule = True

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.name = inputs[0]

    @staticmethod
    def backward(ctx, *gradients):
        raise NotImplementedError(
            f"The implementation {ctx.name!r} has first derivatives only."
        )


class _ScanGradient(Once):
    operator = "selective_scan_backward"

    @staticmethod
    def forward(
        name,
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
        dstate,
        saved,
        dt_softplus,
        reverse,
    ):
        tensors = (
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
            dstate,
            saved,
        )
        return OPERATORS[f"{name}_selective_scan_backward"](
            *tensors, dt_softplus, reverse
        )


class _ConvolutionGradient(Once):
    operator = "causal_conv1d_backward"

    @staticmethod
    def forward(
        name,
        x,
        weight,
        bias,
        state,
        resets,
        dy,
        activation,
        reverse,
    ):
        tensors = x, weight, bias, state, resets, dy
        return OPERATORS[f"{name}_causal_conv1d_backward"](
            *tensors, activation, reverse
        )


class _LinearGradient(Once):
    operator = "linear_scan_backward"

    @staticmethod
    def forward(
        name,
        y,
        y_imag,
        a,
        a_imag,
        state,
        state_imag,
        mask,
        resets,
        dy,
        dy_imag,
        dstate,
        dstate_imag,
        reverse,
    ):
        tensors = y, y_imag, a, a_imag, state, state_imag, mask, resets
        return OPERATORS[f"{name}_linear_scan_backward"](
            *tensors, dy, dy_imag, dstate, dstate_imag, reverse
        )


def register_gradient(name, arguments, backward, count):
    """Operators return tensors: empty ones for those that are absent."""

    def gradients(*arguments):
        return tuple(
            arguments[0].new_empty(0) if v is None else gradient
            for v, gradient in zip(
                arguments[:count], backward(*arguments), strict=True
            )
        )

    def shapes(*arguments):
        return tuple(
            arguments[0].new_empty(0) if v is None else v.new_empty(v.shape)
            for v in arguments[:count]
        )

    register_operator(name, gradients, arguments, count).register_fake(shapes)


def register_operator(name, function, arguments, count):
    """An operator that returns so many tensors."""
    tensors = ", ".join(["Tensor"] * count)
    operator = torch.library.custom_op(
        f"keras_ssm::{name}",
        function,
        mutates_args=(),
        schema=f"{arguments} -> ({tensors})",
    )
    OPERATORS[name] = getattr(torch.ops.keras_ssm, name).default
    KERNELS[name] = function
    return operator


def register_autograd(operator, name, function):
    """For those who call the operator itself, as `torch.library.opcheck`."""

    def setup_context(ctx, inputs, output):
        function.setup_context(ctx, (name, *inputs), output)

    def backward(ctx, *gradients):
        return function.backward(ctx, *gradients)[1:]

    operator.register_autograd(backward, setup_context=setup_context)


def of_present(tensors, found):
    """The gradients, `None` for absent tensors."""
    return tuple(
        None if v is None else gradient
        for v, gradient in zip(tensors, found, strict=False)
    )
