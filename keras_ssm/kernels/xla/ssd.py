"""The dual form of Mamba-2 as a loop over chunks, forward and backward.

What a chunk computes is in `keras_ssm/kernels/ssd_chunk.py`, and what is kept
is that of `keras_ssm/kernels/lax/ssd.py`. The length may be unknown.
"""

import functools

import tensorflow as tf
from keras import ops

from keras_ssm.kernels import border
from keras_ssm.kernels.ssd_chunk import Chunk, join_heads, split_heads
from keras_ssm.kernels.xla.custom_gradient import custom_gradient
from keras_ssm.kernels.xla.selective_scan import (
    buffer,
    loop,
    read,
    series,
    write,
)

BLOCK = 4  # chunks


def unsupported(*tensors, **options):
    """Nothing: it runs wherever TensorFlow does."""
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
    return custom_gradient(
        functools.partial(_forward, reverse, chunk_size),
        functools.partial(_backward, reverse, chunk_size),
        *(x, dt, A, B, C, h, resets),
    )


def _forward(reverse, chunk_size, x, dt, A, B, C, h, resets):
    k = _at_once(x.shape[1], chunk_size)
    blocks = _Chunks(x, chunk_size, k)
    inputs = blocks.split(x, dt, B, C, resets)
    order = range(k)[::-1] if reverse else range(k)

    def step(c, h, y, starts):
        chunk = Chunk(*(_as_rows(v, k) for v in read(inputs, c)), A, reverse)
        decays = _of_each(chunk.decay(), k)
        updates = _of_each(chunk.update(), k)
        before = [None] * k
        for i in order:
            before[i], starts = h, starts.write(c * k + i, h)
            h = decays[i] * h + updates[i]
        outputs = chunk.outputs(_as_rows(tf.concat(before, 1), k))
        return h, y.write(c, blocks.as_one(outputs)), starts

    start = split_heads(h, B.shape[2])
    carry = (start, blocks.buffer(x), buffer(blocks.count * k, start))
    end, y, starts = loop(step, carry, 0, blocks.count, reverse)
    outputs = blocks.join(y), join_heads(end)
    return outputs, (x, dt, A, B, C, resets, starts.stack())


def _at_once(length, q):
    """How many chunks the forward pass computes at once, at most `BLOCK`.

    Few steps of a loop are faster. Blocks are about equally long, so that
    padding is short.
    """
    if length is None:
        return 1
    chunks = -(-length // q)
    blocks = -(-chunks // BLOCK)
    return -(-chunks // blocks)


def _as_rows(v, k):
    """(b, k * m, ...) -> (b * k, m, ...)."""
    if v is None:
        return None
    return tf.reshape(v, (-1, v.shape[1] // k, *v.shape[2:]))


def _of_each(v, k):
    """(b * k, ...) -> k of (b, ...)."""
    return tf.unstack(tf.reshape(v, (-1, k, *v.shape[1:])), axis=1)


def _backward(reverse, chunk_size, residuals, dy, dh):
    x, dt, A, B, C, resets, starts = residuals
    chunks = _Chunks(x, chunk_size)
    inputs = (series(starts), *chunks.split(dy, x, dt, B, C, resets))

    def step(c, g, dA, outputs):
        start, dy, *of_chunk = read(inputs, c)
        chunk = Chunk(*of_chunk, A, reverse)
        dx, ddt, of_chunk, dB, dC, g = chunk.adjoint(start, dy, g)
        # Chunk by chunk: long sums in float32 lose less in two levels.
        return g, dA + of_chunk, write(outputs, c, (dx, ddt, dB, dC))

    outputs = tuple(chunks.buffer(v) for v in (x, dt, B, C))
    carry = (split_heads(dh, B.shape[2]), tf.zeros_like(dh[..., 0, 0]), outputs)
    g, dA, outputs = loop(step, carry, 0, chunks.count, not reverse)
    dx, ddt, dB, dC = (chunks.join(v) for v in outputs)
    dA = tf.reduce_sum(dA, 0)
    return dx, ddt, dA, dB, dC, join_heads(g), None


class _Chunks:
    """Splits time into chunks.

    Args:
        x: `(b, l, h, p)`; both sizes may be unknown.
        q: Steps of a chunk.
        k: How many of them are one here.
    """

    def __init__(self, x, q, k=1):
        self._batch, length = ops.shape(x)[:2]
        self._length = length
        self._q = k * (min(q, length) if isinstance(length, int) else q)
        self.count = (length + self._q - 1) // self._q

    def split(self, *inputs):
        """(b, l, ...) -> a series of (b, q, ...), for each.

        Padding is a step of size 0 with input 0, which changes nothing.
        """
        return [None if v is None else series(self._split(v)) for v in inputs]

    def _split(self, v):
        missing = self.count * self._q - self._length
        v = tf.pad(v, [(0, 0), (0, missing)] + [(0, 0)] * (v.shape.rank - 2))
        v = tf.reshape(v, (self._batch, self.count, self._q, *v.shape[2:]))
        return tf.transpose(v, (1, 0, *range(2, v.shape.rank)))

    def as_one(self, rows):
        """Rows of shorter chunks -> (b, q, ...)."""
        return tf.reshape(rows, (-1, self._q, *rows.shape[2:]))

    def buffer(self, like):
        """An unwritten series of (b, q, ...), for (b, l, ...)."""
        shape = (self._batch, self._q, *like.shape[2:])
        return buffer(self.count, tf.zeros(shape, like.dtype))

    def join(self, chunks):
        """A series of (b, q, ...) -> (b, l, ...)."""
        v = chunks.stack()[: self.count]
        v = tf.transpose(v, (1, 0, *range(2, v.shape.rank)))
        steps = self.count * self._q
        v = tf.reshape(v, (self._batch, steps, *v.shape[3:]))
        return v[:, : self._length]
