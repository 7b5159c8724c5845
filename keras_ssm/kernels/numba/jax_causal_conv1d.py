"""The causal convolution as a kernel of JAX."""

from keras_ssm.kernels import jax_fused
from keras_ssm.kernels.numba.conv_loops import sizes
from keras_ssm.kernels.numba.jax_binding import run, threads, widen


def causal_conv1d(*tensors, activation, reverse):
    """The op on canonical tensors; see `keras_ssm.ops.causal_conv1d`."""
    return jax_fused.causal_conv1d(_KERNELS, activation, reverse, *tensors)


def _forward(*arguments, platform):
    *tensors, activation, reverse = arguments
    x, k = tensors[0], len(tensors[1])
    (y,) = run(
        "conv_forward",
        sizes(x.shape, k, threads(), activation, reverse),
        widen(tensors),
        [x.shape],
        x.size * k,
    )
    return [y.astype(x.dtype)]


def _backward(*arguments, platform):
    *tensors, activation, reverse = arguments
    x, weight, _, state = tensors[:4]
    (b, _, d), k = x.shape, len(weight)
    dx, dweight, dbias, dstate = run(
        "conv_backward",
        sizes(x.shape, k, threads(), activation, reverse),
        widen(tensors),
        [x.shape, (b, k, d), (b, d), state.shape],
        x.size * k,
    )
    sums = dx.astype(x.dtype), dweight.sum(0), dbias.sum(0), dstate
    return [v for v, of in zip(sums, tensors, strict=False) if of is not None]


_KERNELS = jax_fused.Fused(_forward, _backward)
