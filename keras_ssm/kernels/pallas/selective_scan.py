"""The selective scan as a kernel of Pallas."""

from keras_ssm.kernels import jax_fused
from keras_ssm.kernels.pallas.interpreter import resolve
from keras_ssm.kernels.pallas.limits import unsupported as unsupported


def selective_scan(*tensors, dt_softplus, reverse):
    """The op on canonical tensors; see `keras_ssm.ops.selective_scan`."""
    return jax_fused.selective_scan(_KERNELS, dt_softplus, reverse, *tensors)


def chunk_of(n: int) -> int:
    """Steps between kept states, so that they take about the memory of x."""
    return 16 if n <= 16 else 32


def _forward(*arguments, platform):
    *tensors, dt_softplus, reverse, keep = arguments
    options = dt_softplus, reverse
    kernels, plan = _plan(tensors, options, platform, backwards=False)
    return kernels.forward(plan, tensors, keep)


def _backward(*arguments, platform):
    *tensors, dy, dend, starts, dt_softplus, reverse = arguments
    options = dt_softplus, reverse
    kernels, plan = _plan(tensors, options, platform, backwards=True)
    found = kernels.backward(plan, tensors, dy, dend, starts)
    return [v for v in found if v is not None]


def _plan(tensors, options, platform, backwards):
    platform, interpret = resolve(platform)
    # Only what the platform needs: JAX may not have the other any more.
    if platform == "gpu":
        from keras_ssm.kernels.pallas import gpu_selective_scan as kernels
    else:
        from keras_ssm.kernels.pallas import tpu_selective_scan as kernels
    chunk = chunk_of(tensors[3].shape[3])
    options = *options, interpret, backwards
    return kernels, kernels.make_plan(tensors, chunk, *options)


_KERNELS = jax_fused.Fused(_forward, _backward, chunk_of, exports=("tpu",))
