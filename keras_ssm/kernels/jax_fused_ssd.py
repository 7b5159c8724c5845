"""What `keras_ssm/kernels/jax_fused.py` is for other ops, for `ssd`.

Kernels compute the bare recurrence, in float32; what surrounds it is that of
`border.py`, with JAX' own gradient.
"""

import functools

import jax
import jax.numpy as jnp

from keras_ssm.kernels.jax_partitioning import Kernel
from keras_ssm.kernels.lax import ssd as plain

# The axes of x, dt, A, B, C, the state, and resets; c counts chunks.
_FLOATING = ("b l h p", "b l h", "h", "b l g n", "b l g n", "b h p n")
_INPUTS = (*_FLOATING, "b l")
_OUTPUTS = ("b l h p", "b h p n", "b h c n p")


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def recurrence(fused, reverse, chunk_size, *tensors):
    """`h[t] = exp(dt[t] A) h[t-1] + dt[t] x[t] B[t]; y[t] = h[t] C[t]`.

    Args:
        fused: The kernels, a `Fused` whose `chunk_of` takes `chunk_size`.
        reverse: Whether to scan from the end.
        chunk_size: What the caller wants of a chunk.
        *tensors: x, dt, A, B, C, the state, and resets or `None`.
    """
    return tuple(_run(fused, reverse, chunk_size, tensors, keep=False))


def _forward(fused, reverse, chunk_size, *tensors):
    y, end, starts = _run(fused, reverse, chunk_size, tensors, keep=True)
    return (y, end), (tensors, starts)


def _run(fused, reverse, chunk_size, tensors, keep):
    outputs = _OUTPUTS if keep else _OUTPUTS[:2]
    length, steps = tensors[0].shape[1], fused.chunk_of(chunk_size)
    kernel = Kernel(
        direct=fused.forward,
        exported=functools.partial(_plain, steps),
        options=(reverse, chunk_size, keep),
        inputs=_INPUTS,
        outputs=outputs,
        dtypes=(jnp.dtype("float32"),) * len(outputs),
        split=_split(tensors[3]),
        sizes=(("c", -(-length // steps)),),
        exports=fused.exports,
    )
    return kernel(*tensors)


def _backward(fused, reverse, chunk_size, residuals, gradients):
    tensors, starts = residuals
    kernel = Kernel(
        direct=fused.backward,
        exported=_plain_gradients,
        options=(reverse, chunk_size),
        inputs=(*_INPUTS, *_OUTPUTS),
        outputs=_FLOATING,
        dtypes=(jnp.dtype("float32"),) * len(_FLOATING),
        split=_split(tensors[3]),
        exports=fused.exports,
    )
    return *kernel(*tensors, *gradients, starts), None


recurrence.defvjp(_forward, _backward)


def _split(B):
    """Heads of several groups stay together, as their B and C do."""
    return ("b", "h") if B.shape[2] == 1 else ("b",)


def _plain(steps, *arguments, platform):
    *tensors, reverse, chunk_size, keep = arguments
    y, end = plain.recurrence(*tensors, reverse, chunk_size)
    if not keep:
        return [y, end]
    # `_plain_gradients` needs no states.
    (b, l, h, p), n = tensors[0].shape, tensors[3].shape[3]
    return [y, end, jnp.zeros((b, h, -(-l // steps), n, p), y.dtype)]


def _plain_gradients(*arguments, platform):
    *tensors, resets, dy, dend, _, reverse, chunk_size = arguments

    def recur(*tensors):
        return plain.recurrence(*tensors, resets, reverse, chunk_size)

    return list(jax.vjp(recur, *tensors)[1]((dy, dend)))
