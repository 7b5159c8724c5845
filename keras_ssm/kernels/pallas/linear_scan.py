"""The linear scan as a kernel of Pallas.

One kernel takes the steps of both passes; `linear_step.py` says in what they
differ. What is left of the backward pass, the gradient of `a`, is a product of
what is there.
"""

import functools

from keras_ssm.kernels import jax_fused
from keras_ssm.kernels.pallas.interpreter import resolve
from keras_ssm.kernels.pallas.limits import unsupported as unsupported


def linear_scan(*tensors, reverse):
    """The op on canonical tensors; see `keras_ssm.ops.linear_scan`."""
    return jax_fused.linear_scan(_KERNELS, reverse, tensors)


def _forward(*arguments, platform):
    *tensors, reverse = arguments
    return _run(tensors, platform, backwards=reverse, adjoint=False)


def _backward(*arguments, platform):
    adjoint = functools.partial(_adjoint, platform)
    return jax_fused.linear_gradients(adjoint, *arguments)


def _adjoint(platform, *tensors, reverse):
    return _run(tensors, platform, backwards=not reverse, adjoint=True)


def _run(tensors, platform, **options):
    """The outputs of all steps, then the last state, both in parts."""
    platform, interpret = resolve(platform)
    # Only what the platform needs: JAX may not have the other any more.
    if platform == "gpu":
        from keras_ssm.kernels.pallas import gpu_linear_scan as kernels
    else:
        from keras_ssm.kernels.pallas import tpu_linear_scan as kernels
    names = "x x_imag a a_imag state state_imag mask resets".split()
    given = dict(zip(names, tensors, strict=True))
    found = kernels.scan(given, interpret=interpret, **options)
    parts = "y", "y_imag", "end", "end_imag"
    return [found[name] for name in parts if name in found]


_KERNELS = jax_fused.Fused(_forward, _backward, exports=("tpu",))
