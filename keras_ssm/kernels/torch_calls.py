"""Calls fused kernels of PyTorch by the shortest way.

An operator, and `apply` of a function that `torch.func` can differentiate, take
longer than the kernels of short sequences. Where autograd alone looks on,
neither is needed.
"""

import torch

# What runs in operators, by their names.
KERNELS = {}

# Neither subclasses of tensors nor the sizes of a tracer.
_PLAIN = {torch.Tensor, torch.nn.Parameter, type(None), bool, int, str}


def call(function, name: str, *arguments):
    """`function.apply(name, *arguments)`, or its kernel alone.

    Args:
        function: Of an operator, and named after it by `operator`.
        name: Of the implementation.
        *arguments: Those of the operator.
    """
    if _watched(arguments):
        return function.apply(name, *arguments)
    kernel = KERNELS[f"{name}_{function.operator}"]
    if torch.is_grad_enabled() and any(
        isinstance(v, torch.Tensor) and v.requires_grad for v in arguments
    ):
        return _Direct.apply(function, kernel, name, *arguments)
    return kernel(*arguments)


def _watched(arguments):
    """Whether more than autograd wants to know what is called.

    Compilers, `torch.func` and tracers do. PyTorch has public names for some
    of these questions only.
    """
    return (
        torch.compiler.is_compiling()
        or torch.jit.is_tracing()
        or torch._C._are_functorch_transforms_active()
        or torch._C._len_torch_dispatch_stack() > 0
        or arguments[0].is_meta
        or not _PLAIN.issuperset(map(type, arguments))
    )


class _Direct(torch.autograd.Function):
    """A function and its kernel, for autograd alone."""

    @staticmethod
    def forward(ctx, function, kernel, name, *arguments):
        ctx.function = function
        outputs = kernel(*arguments)
        function.setup_context(ctx, (name, *arguments), outputs)
        return outputs

    @staticmethod
    def backward(ctx, *gradients):
        return (None, None, *ctx.function.backward(ctx, *gradients))
