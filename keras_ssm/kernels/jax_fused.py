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
from keras_ssm.kernels.lax import linear_scan as plain_linear
from keras_ssm.kernels.lax import selective_scan as scan_by_step
from keras_ssm.kernels.lax_associative import selective_scan as scan_by_chunk

# The axes of tensors and of their gradients. In a scan c counts chunks, in a
# convolution s the inputs in the state.
_SCAN = "b l d, b l d, d n, b l g n, b l g n, d, b l d, d, b d n".split(", ")
_SCAN_INPUTS = (*_SCAN, "b l", "b l")
_SCAN_OUTPUTS = ("b l d", "b d n", "b c n d")
_CONV = ("b l d", "k d", "d", "b s d")
_CONV_INPUTS = (*_CONV, "b l")
_STEP, _ROW = "b l d", "b d"


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


def linear_scan(fused, reverse, tensors):
    """The op on canonical tensors; see `keras_ssm.ops.linear_scan`."""
    *numbers, state, state_imag, mask, resets = tensors
    numbers = (None if v is None else v.astype(state.dtype) for v in numbers)
    outputs = _linear_scan(
        fused, reverse, *numbers, state, state_imag, mask, resets
    )
    count = len(outputs) // 2
    y, end = outputs[:count], outputs[count:]
    return *(v.astype(tensors[0].dtype) for v in y), *end


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _linear_scan(fused, reverse, *tensors):
    """In the dtype of the state."""
    x, x_imag, a, *_ = tensors
    count = 1 if x_imag is None else 2
    kernel = Kernel(
        direct=fused.forward,
        exported=_plain_linear,
        options=(reverse,),
        inputs=_linear_inputs(a),
        outputs=(*[_STEP] * count, *[_ROW] * count),
        dtypes=(x.dtype,) * 2 * count,
        split=("b", "d"),
        exports=fused.exports,
    )
    return tuple(kernel(*tensors))


def _linear_forward(fused, reverse, *tensors):
    outputs = _linear_scan(fused, reverse, *tensors)
    y = (outputs[0], None) if len(outputs) == 2 else outputs[:2]
    # All that is kept is the output.
    return outputs, (*y, *tensors[2:])


def _linear_backward(fused, reverse, tensors, gradients):
    if len(gradients) == 2:
        gradients = gradients[0], None, gradients[1], None
    axes = _linear_inputs(tensors[2])
    kernel = Kernel(
        direct=fused.backward,
        exported=_plain_linear_gradients,
        options=(reverse,),
        inputs=(*axes, _STEP, _STEP, _ROW, _ROW),
        **_gradients_of(tensors[:6], axes),
        split=("b", "d"),
        exports=fused.exports,
    )
    found = kernel(*tensors, *gradients)
    return *_narrow(found, tensors[:6]), None, None


_linear_scan.defvjp(_linear_forward, _linear_backward)


def _linear_inputs(a):
    of_a = "d" if a.ndim == 1 else _STEP
    return _STEP, _STEP, of_a, of_a, _ROW, _ROW, "b l", "b l"


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


def _plain_linear(*arguments, platform):
    *tensors, reverse = arguments
    return list(plain_linear.linear_scan(*tensors, reverse=reverse))


def _plain_linear_gradients(*arguments, platform):
    return linear_gradients(_plain_adjoint, *arguments)


def _plain_adjoint(dy, dy_imag, a, a_imag, dh, dh_imag, mask, resets, reverse):
    def scan(x, x_imag, h, h_imag):
        return plain_linear.linear_scan(
            x, x_imag, a, a_imag, h, h_imag, mask, resets, reverse=reverse
        )

    cotangents = dy, dy_imag, dh, dh_imag
    # It is linear in x and the state: their values do not matter.
    _, adjoint = jax.vjp(scan, *cotangents)
    found = adjoint(tuple(v for v in cotangents if v is not None))
    return [v for v in found if v is not None]


def linear_gradients(adjoint, *arguments):
    """The backward pass of a linear scan of which only the output is known.

    Args:
        adjoint: Function of the gradients of y, both parts, `a`, the gradients
            of the last state, mask and resets, and `reverse` by keyword, that
            returns the gradients of x and of the first state, in parts.
        *arguments: Those of the backward pass.
    """
    *tensors, dy, dy_imag, dh, dh_imag, reverse = arguments
    y, y_imag, a, a_imag, h, h_imag, mask, resets = tensors
    found = adjoint(
        *(dy, dy_imag, a, a_imag, dh, dh_imag, mask, resets), reverse=reverse
    )
    count = len(found) // 2
    dx, dstate = found[:count], found[count:]
    before = [
        _state_before(*of_part, mask, resets, reverse)
        for of_part in ((y, h), (y_imag, h_imag))[:count]
    ]
    da = [sum(g * v for g, v in zip(dx, before, strict=True))]
    if a_imag is not None:
        da.append(dx[1] * before[0] - dx[0] * before[1])
    if a.ndim == 1:
        da = [v.sum((0, 1)) for v in da]
    return [*dx, *da, *dstate]


def _state_before(y, h, mask, resets, reverse):
    """The state before each step, 0 where it starts anew."""
    if mask is not None:
        y = _through_masked(y, h, mask, reverse)
    return plain_linear.before(y, h, resets, reverse)


def _through_masked(y, h, mask, reverse):
    """The state after each step: at masked ones, that of the step before."""
    step = jax.lax.broadcasted_iota(jnp.int32, mask.shape, 1)
    if reverse:
        none = mask.shape[1]
        last = jax.lax.cummin(jnp.where(mask, step, none), 1, reverse=True)
    else:
        none = -1
        last = jax.lax.cummax(jnp.where(mask, step, none), 1)
    held = jnp.take_along_axis(y, last[..., None], axis=1, mode="clip")
    return jnp.where((last == none)[..., None], h[:, None], held)


def _as_kernels_return(gradients, tensors, axes):
    dtypes = _gradients_of(tensors, axes)["dtypes"]
    present = (v for v in gradients if v is not None)
    return [v.astype(d) for v, d in zip(present, dtypes, strict=True)]
