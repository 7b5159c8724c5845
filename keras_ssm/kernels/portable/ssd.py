"""The dual form of Mamba-2, all chunks at once, for inference.

The states between chunks are composed in logarithmic steps, and no gradient is
promised.
"""

from keras import ops

from keras_ssm.kernels import border
from keras_ssm.kernels.portable.maps import compose
from keras_ssm.kernels.ssd_chunk import Chunk, join_heads, split_heads


def unsupported(*tensors, **options):
    """Nothing: it runs on every backend."""
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
    chunks = _Chunks(ops.shape(x)[1], chunk_size)
    chunk = Chunk(*chunks.rows(x, dt, B, C, resets), A, reverse)
    u = chunk.update()
    # Spread here: TensorFlow cannot where a batch of chunks has a sixth axis.
    a = ops.broadcast_to(chunk.decay(), ops.shape(u))
    (a,), (u,) = compose((chunks.of_rows(a),), (chunks.of_rows(u),), reverse)
    first = ops.expand_dims(split_heads(h, B.shape[2]), 1)
    ends = a * first + u
    if reverse:
        starts = ops.concatenate([ends, first], axis=1)[:, 1:]
    else:
        starts = ops.concatenate([first, ends], axis=1)[:, :-1]
    y = chunk.outputs(ops.reshape(starts, (-1, *starts.shape[2:])))
    return chunks.join(y), join_heads(ends[:, 0 if reverse else -1])


class _Chunks:
    """The chunks of a row as rows of their own.

    Args:
        length: The number of steps, which may be a tensor.
        q: Steps of a chunk.
    """

    def __init__(self, length, q):
        self._length = length
        self._q = min(q, length) if isinstance(length, int) else q
        self._count = (length + self._q - 1) // self._q
        time = ops.arange(self._count * self._q)
        self._source = ops.minimum(time, length - 1)
        self._exists = time < length

    def rows(self, x, dt, B, C, resets):
        """(b, l, ...) -> (b * count, q, ...) of each.

        Behind the end, the last step is repeated, but with size 0, so that it
        changes nothing.
        """
        x, dt, B, C = (ops.take(v, self._source, axis=1) for v in (x, dt, B, C))
        dt = ops.where(self._exists[:, None], dt, 0.0)
        if resets is not None:
            resets = ops.take(resets, self._source, axis=1)
            resets = ops.logical_and(resets, self._exists)
        return tuple(
            None if v is None else ops.reshape(v, (-1, self._q, *v.shape[2:]))
            for v in (x, dt, B, C, resets)
        )

    def of_rows(self, v):
        """(b * count, ...) -> (b, count, ...)."""
        return ops.reshape(v, (-1, self._count, *v.shape[1:]))

    def join(self, y):
        """(b * count, q, ...) -> (b, l, ...)."""
        shape = (-1, self._count * self._q, *y.shape[2:])
        return ops.reshape(y, shape)[:, : self._length]
