"""What fused kernels for JAX have in common around the kernel itself.

A kernel computes a whole op, forward or backward. Here it gets a gradient, the
axes that JAX may split over devices, and the same in operations of XLA, for
programs that are exported: what `lax` or, on a GPU, `lax_associative` does.
"""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from keras_ssm.kernels.jax_partitioning import Kernel
from keras_ssm.kernels.lax import causal_conv1d as plain_conv
from keras_ssm.kernels.lax import selective_scan as scan_by_step
from keras_ssm.kernels.lax_associative import selective_scan as scan_by_chunk

# The axes of tensors and of their gradients. In a scan c counts chunks, in a
# convolution s the inputs in the state.
_SCAN = "b l d, b l d, d n, b l g n, b l g n, d, b l d, d, b d n".split(", ")
_SCAN_INPUTS = (*_SCAN, "b l", "b l")
_SCAN_OUTPUTS = ("b l d", "b d n", "b c n d")
_CONV = ("b l d", "k d", "d", "b s d")
_CONV_INPUTS = (*_CONV, "b l")


@dataclasses.dataclass(frozen=True)
class Fused:
    """The kernels of an op.

    Args:
        forward: Function of the canonical tensors and the plain arguments; of
            a scan also whether to keep the state before each chunk. It and
            `backward` take the platform by keyword and return lists.
        backward: Function of what the forward pass took, and of the gradients
            of what it returned, of a scan then of the kept states; returns the
            gradients of the floating tensors that are not `None`.
        chunk_of: Steps in a chunk, for a state of size n.
        exports: The platforms for which a call of the kernel can be exported.
    """

    forward: Callable
    backward: Callable
    chunk_of: Callable | None = None
    exports: tuple = ()


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def selective_scan(fused, dt_softplus, reverse, *tensors):
    """The op on canonical tensors; see `keras_ssm.ops.selective_scan`."""
    return tuple(_run_scan(fused, dt_softplus, reverse, tensors, keep=False))


def _scan_forward(fused, dt_softplus, reverse, *tensors):
    y, end, starts = _run_scan(fused, dt_softplus, reverse, tensors, keep=True)
    return (y, end), (tensors, starts)


def _run_scan(fused, dt_softplus, reverse, tensors, keep):
    x, B = tensors[0], tensors[3]
    outputs = _SCAN_OUTPUTS if keep else _SCAN_OUTPUTS[:2]
    wide = _wide(x)
    kernel = Kernel(
        direct=fused.forward,
        exported=_plain_scan(fused.chunk_of),
        options=(dt_softplus, reverse, keep),
        inputs=_SCAN_INPUTS,
        outputs=outputs,
        dtypes=(x.dtype, wide, wide)[: len(outputs)],
        split=_split(B),
        sizes=(("c", -(-x.shape[1] // fused.chunk_of(B.shape[3]))),),
        exports=fused.exports,
    )
    return kernel(*tensors)


def _scan_backward(fused, dt_softplus, reverse, residuals, gradients):
    tensors, starts = residuals
    kernel = Kernel(
        direct=fused.backward,
        exported=_plain_scan_gradients,
        options=(dt_softplus, reverse),
        inputs=(*_SCAN_INPUTS, *_SCAN_OUTPUTS),
        **_gradients_of(tensors, _SCAN),
        split=_split(tensors[3]),
        exports=fused.exports,
    )
    found = kernel(*tensors, *gradients, starts)
    return (*_narrow(found, tensors[: len(_SCAN)]), None, None)


selective_scan.defvjp(_scan_forward, _scan_backward)


def _split(B):
    """Channels of several groups stay together, as their B and C do."""
    return ("b", "d") if B.shape[2] == 1 else ("b",)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def causal_conv1d(fused, activation, reverse, *tensors):
    """The op on canonical tensors; see `keras_ssm.ops.causal_conv1d`."""
    kernel = Kernel(
        direct=fused.forward,
        exported=_plain_conv,
        options=(activation, reverse),
        inputs=_CONV_INPUTS,
        outputs=("b l d",),
        dtypes=(tensors[0].dtype,),
        split=("b", "d"),
        exports=fused.exports,
    )
    return kernel(*tensors)[0]


def _conv_forward(fused, activation, reverse, *tensors):
    return causal_conv1d(fused, activation, reverse, *tensors), tensors


def _conv_backward(fused, activation, reverse, tensors, dy):
    kernel = Kernel(
        direct=fused.backward,
        exported=_plain_conv_gradients,
        options=(activation, reverse),
        inputs=(*_CONV_INPUTS, "b l d"),
        **_gradients_of(tensors, _CONV),
        split=("b", "d"),
        exports=fused.exports,
    )
    return (*_narrow(kernel(*tensors, dy), tensors[: len(_CONV)]), None)


causal_conv1d.defvjp(_conv_forward, _conv_backward)


def _wide(x):
    """The dtype that kernels compute in."""
    return jnp.dtype("float64" if x.dtype == jnp.float64 else "float32")


def _gradients_of(tensors, axes):
    """The axes and dtypes in which kernels return gradients.

    What is not as long as x is a sum, which devices may have to go on with.
    """
    x = tensors[0]
    given = [
        (of, v.dtype if of == axes[0] else _wide(x))
        for of, v in zip(axes, tensors, strict=False)
        if v is not None
    ]
    outputs, dtypes = zip(*given, strict=True)
    return {"outputs": outputs, "dtypes": dtypes}


def _narrow(gradients, tensors):
    """Gradients in the dtypes of their tensors, `None` for absent ones."""
    gradients = iter(gradients)
    return [
        None if v is None else next(gradients).astype(v.dtype) for v in tensors
    ]


@functools.cache
def _plain_scan(chunk_of):
    def scan(*arguments, platform):
        *tensors, dt_softplus, reverse, keep = arguments
        results = _scan_of_xla(platform).selective_scan(
            *tensors, dt_softplus=dt_softplus, reverse=reverse
        )
        if not keep:
            return list(results)
        # `_plain_scan_gradients` needs no states.
        x, A = tensors[0], tensors[2]
        chunks = -(-x.shape[1] // chunk_of(A.shape[1]))
        shape = (x.shape[0], chunks, *A.shape[::-1])
        return [*results, jnp.zeros(shape, _wide(x))]

    return scan


def _scan_of_xla(platform):
    return scan_by_chunk if platform == "gpu" else scan_by_step


def _plain_scan_gradients(*arguments, platform):
    *tensors, dy, dend, _, dt_softplus, reverse = arguments
    floating, others = tensors[: len(_SCAN)], tensors[len(_SCAN) :]

    def scan(*floating):
        return _scan_of_xla(platform).selective_scan(
            *floating, *others, dt_softplus=dt_softplus, reverse=reverse
        )

    _, adjoint = jax.vjp(scan, *floating)
    return _as_kernels_return(adjoint((dy, dend)), floating, _SCAN)


def _plain_conv(*arguments, platform):
    *tensors, activation, reverse = arguments
    return [
        plain_conv.causal_conv1d(
            *tensors, activation=activation, reverse=reverse
        )
    ]


def _plain_conv_gradients(*arguments, platform):
    *floating, resets, dy, activation, reverse = arguments

    def convolve(*floating):
        return plain_conv.causal_conv1d(
            *floating, resets, activation=activation, reverse=reverse
        )

    _, adjoint = jax.vjp(convolve, *floating)
    return _as_kernels_return(adjoint(dy), floating, _CONV)


def _as_kernels_return(gradients, tensors, axes):
    dtypes = _gradients_of(tensors, axes)["dtypes"]
    present = (v for v in gradients if v is not None)
    return [v.astype(d) for v, d in zip(present, dtypes, strict=True)]
