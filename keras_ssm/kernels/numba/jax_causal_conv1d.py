"""The causal convolution as a kernel of JAX."""

import functools

import jax

from keras_ssm.kernels.lax import causal_conv1d as plain
from keras_ssm.kernels.numba.conv_loops import sizes
from keras_ssm.kernels.numba.jax_binding import narrow, run, threads, widen
from keras_ssm.kernels.numba.jax_primitive import Kernel

# The axes of tensors and of their gradients; s counts inputs in the state.
_FLOATING = ("b l d", "k d", "d", "b s d")
_INPUTS = (*_FLOATING, "b l")


def causal_conv1d(*tensors, activation, reverse):
    """The op on canonical tensors; see `keras_ssm.ops.causal_conv1d`."""
    return _convolve(activation, reverse, *tensors)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _convolve(activation, reverse, *tensors):
    kernel = Kernel(
        direct=_forward_kernel,
        exported=_forward_plain,
        options=(activation, reverse),
        inputs=_INPUTS,
        outputs=("b l d",),
        split=("b", "d"),
    )
    (y,) = kernel(*widen(tensors))
    return y.astype(tensors[0].dtype)


def _forward(activation, reverse, *tensors):
    return _convolve(activation, reverse, *tensors), tensors


def _backward(activation, reverse, tensors, dy):
    kernel = Kernel(
        direct=_backward_kernel,
        exported=_backward_plain,
        options=(activation, reverse),
        inputs=(*_INPUTS, "b l d"),
        outputs=tuple(
            axes
            for axes, v in zip(_FLOATING, tensors, strict=False)
            if v is not None
        ),
        split=("b", "d"),
    )
    found = kernel(*widen([*tensors, dy]))
    return (*narrow(found, tensors[:4]), None)


_convolve.defvjp(_forward, _backward)


def _forward_kernel(*arguments):
    *tensors, activation, reverse = arguments
    x, k = tensors[0], len(tensors[1])
    return run(
        "conv_forward",
        sizes(x.shape, k, threads(), activation, reverse),
        tensors,
        [x.shape],
        x.size * k,
    )


def _backward_kernel(*arguments):
    *tensors, activation, reverse = arguments
    x, weight, _, state = tensors[:4]
    (b, _, d), k = x.shape, len(weight)
    dx, dweight, dbias, dstate = run(
        "conv_backward",
        sizes(x.shape, k, threads(), activation, reverse),
        tensors,
        [x.shape, (b, k, d), (b, d), state.shape],
        x.size * k,
    )
    sums = dx, dweight.sum(0), dbias.sum(0), dstate
    return [v for v, of in zip(sums, tensors, strict=False) if of is not None]


def _forward_plain(*arguments):
    *tensors, activation, reverse = arguments
    return [
        plain.causal_conv1d(*tensors, activation=activation, reverse=reverse)
    ]


def _backward_plain(*arguments):
    *floating, resets, dy, activation, reverse = arguments

    def convolve(*floating):
        return plain.causal_conv1d(
            *floating, resets, activation=activation, reverse=reverse
        )

    _, adjoint = jax.vjp(convolve, *floating)
    return [v for v in adjoint(dy) if v is not None]
