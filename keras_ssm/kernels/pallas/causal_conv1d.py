"""The causal convolution as a kernel of Pallas."""

from keras_ssm.kernels import jax_fused
from keras_ssm.kernels.pallas.interpreter import resolve
from keras_ssm.kernels.pallas.limits import unsupported as unsupported


def causal_conv1d(*tensors, activation, reverse):
    """The op on canonical tensors; see `keras_ssm.ops.causal_conv1d`."""
    return jax_fused.causal_conv1d(_KERNELS, activation, reverse, *tensors)


def _forward(*arguments, platform):
    *tensors, activation, reverse = arguments
    kernels, plan = _plan(tensors, activation, reverse, platform)
    return [kernels.forward(plan, *tensors)]


def _backward(*arguments, platform):
    *tensors, activation, reverse = arguments
    kernels, plan = _plan(tensors, activation, reverse, platform)
    return [v for v in kernels.backward(plan, *tensors) if v is not None]


def _plan(tensors, activation, reverse, platform):
    platform, interpret = resolve(platform)
    # Only what the platform needs: JAX may not have the other any more.
    if platform == "gpu":
        from keras_ssm.kernels.pallas import gpu_causal_conv1d as kernels
    else:
        from keras_ssm.kernels.pallas import tpu_causal_conv1d as kernels
    return kernels, kernels.make_plan(tensors, activation, reverse, interpret)


_KERNELS = jax_fused.Fused(_forward, _backward, exports=("tpu",))
