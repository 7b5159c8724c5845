"""The dual form of Mamba-2 as a loop over chunks, forward and backward.

What a chunk computes is in `keras_ssm/kernels/ssd_chunk.py`. The forward pass
keeps the state at the start of each chunk; the backward pass walks the chunks
from the end and computes the rest again. Memory is that of the inputs, of one
state for each chunk, and of the matrices of a single chunk.
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax

from keras_ssm.kernels import border
from keras_ssm.kernels.ssd_chunk import Chunk, join_heads, split_heads


def unsupported(*tensors, **options):
    """Nothing: it runs wherever JAX does."""
    return None


def ssd(*tensors, dt_softplus, reverse, chunk_size):
    """The op on canonical tensors; see `keras_ssm.ops.ssd`."""
    return border.around_ssd(
        recurrence,
        tensors,
        dt_softplus=dt_softplus,
        reverse=reverse,
        chunk_size=chunk_size,
    )


def recurrence(x, dt, A, B, C, h, resets, reverse, chunk_size):
    """`h[t] = exp(dt[t] A) h[t-1] + dt[t] x[t] B[t]; y[t] = h[t] C[t]`."""
    return _recurrence(x, dt, A, B, C, h, resets, reverse, chunk_size)


@functools.partial(jax.custom_vjp, nondiff_argnums=(7, 8))
def _recurrence(x, dt, A, B, C, h, resets, reverse, chunk_size):
    outputs, _ = _forward(x, dt, A, B, C, h, resets, reverse, chunk_size)
    return outputs


def _forward(x, dt, A, B, C, h, resets, reverse, chunk_size):
    def step(h, inputs):
        chunk = Chunk(*inputs, A, reverse)
        end = chunk.decay() * h + chunk.update()
        return end, (chunk.outputs(h), h)

    inputs = _split((x, dt, B, C, resets), chunk_size)
    start = split_heads(h, B.shape[2])
    # A TPU would round the operands to bfloat16 otherwise.
    with jax.default_matmul_precision("highest"):
        end, (y, starts) = lax.scan(step, start, inputs, reverse=reverse)
    y = _join(y, x.shape[1])
    return (y, join_heads(end)), (x, dt, A, B, C, resets, starts)


def _backward(reverse, chunk_size, residuals, gradients):
    x, dt, A, B, C, resets, starts = residuals
    dy, dh = gradients

    def step(carry, inputs):
        (g, dA), (start, dy, *inputs) = carry, inputs
        chunk = Chunk(*inputs, A, reverse)
        dx, ddt, of_chunk, dB, dC, g = chunk.adjoint(start, dy, g)
        # Chunk by chunk: long sums in float32 lose less in two levels.
        return (g, dA + of_chunk), (dx, ddt, dB, dC)

    inputs = _split((dy, x, dt, B, C, resets), chunk_size)
    with jax.default_matmul_precision("highest"):
        (g, dA), gradients = lax.scan(
            step,
            (split_heads(dh, B.shape[2]), jnp.zeros_like(dh[..., 0, 0])),
            (starts, *inputs),
            reverse=not reverse,
        )
    dx, ddt, dB, dC = (_join(v, x.shape[1]) for v in gradients)
    return dx, ddt, dA.sum(0), dB, dC, join_heads(g), None


_recurrence.defvjp(_forward, _backward)


def _split(inputs, q):
    """Chunks of time, (b, l, ...) -> (count, b, q, ...) of each.

    Padding is a step of size 0 with input 0, which changes nothing.
    """
    length = inputs[0].shape[1]
    if isinstance(length, int):
        q = min(q, length)
    count = -(-length // q)

    def split(v):
        padding = [(0, 0)] * v.ndim
        padding[1] = (0, count * q - length)
        v = jnp.pad(v, padding).reshape(v.shape[0], count, q, *v.shape[2:])
        return jnp.swapaxes(v, 0, 1)

    return jax.tree.map(split, inputs)


def _join(v, length):
    """The inverse of `_split`, for one of them."""
    v = jnp.swapaxes(v, 0, 1)
    v = v.reshape(v.shape[0], v.shape[1] * v.shape[2], *v.shape[3:])
    return v[:, :length]
