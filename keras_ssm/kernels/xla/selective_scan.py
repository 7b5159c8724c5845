"""The selective scan as loops over time, forward and backward.

The formulas are those of `keras_ssm/kernels/lax/selective_scan.py`, and so is
what is kept for the backward pass: the state at the start of each chunk of
`CHUNK` steps. A chunk is a range of an outer loop over time, so that nothing
is padded and the length may be unknown.

An operation is a pass over the state, with XLA on a CPU too: it runs a loop
operation by operation, in one thread unless the state is large. The backward
pass therefore keeps the decays of the chunk that it recomputes, and sums over
channels are taken in two steps. XLA needs several passes, and products in
memory, for a sum over more than 32 numbers, but fuses a short one; so a step
adds up a 16th of the channels to each other, and the rest follows for a whole
chunk. Small matrix products take six times as long without XLA.
"""

import functools

import tensorflow as tf
from keras import ops

from keras_ssm.kernels import border
from keras_ssm.kernels.xla.custom_gradient import custom_gradient

CHUNK = 32
PARTS = 16  # numbers that are added up at once


def unsupported(*tensors, **options):
    """Nothing: it runs wherever TensorFlow does."""
    return None


def selective_scan(*tensors, dt_softplus, reverse):
    """The op on canonical tensors; see `keras_ssm.ops.selective_scan`."""
    return border.around(
        recurrence, tensors, dt_softplus=dt_softplus, reverse=reverse
    )


def recurrence(x, dt, A, B, C, h, resets, reverse):
    """`h[t] = exp(dt[t] A) h[t-1] + dt[t] B[t] x[t]; y[t] = C[t] h[t]`."""
    return custom_gradient(
        functools.partial(_forward, reverse),
        functools.partial(_backward, reverse),
        *(x, dt, A, B, C, h, resets),
    )


def _forward(reverse, x, dt, A, B, C, h, resets):
    layout = Layout(x, B)
    step = functools.partial(
        _step, layout.decay(A), _inputs(layout, x, dt, B, C, resets)
    )

    def chunk(c, h, y, starts):
        starts = starts.write(c, h)
        h, y = loop(step, (h, y), *layout.chunk(c, CHUNK), reverse)
        return h, y, starts

    start, count = layout.state(h), layout.count(CHUNK)
    y = buffer(layout.length, start[..., :1, :])
    end, y, starts = loop(
        chunk, (start, y, buffer(count, start)), 0, count, reverse
    )
    outputs = layout.from_rows(y.stack()), layout.from_state(end)
    return outputs, (x, dt, A, B, C, resets, starts.stack())


def _backward(reverse, residuals, dy, dh):
    x, dt, A, B, C, resets, starts = residuals
    layout = Layout(x, B)
    A, starts = layout.decay(A), series(starts)
    inputs = _inputs(layout, x, dt, B, C, resets, dy)

    def chunk(c, g, dA, kept, rows, columns):
        span = layout.chunk(c, CHUNK)
        recompute = functools.partial(_recompute, A, inputs)
        *states, dB, dC = kept
        carry = (starts.read(c), tuple(states), dC)
        _, states, dC = loop(recompute, carry, *span, reverse)
        adjoint = functools.partial(_adjoint, A, inputs, states)
        carry = (g, tf.zeros_like(g), rows, dB)
        g, of_chunk, rows, dB = loop(adjoint, carry, *span, not reverse)
        found = (tf.reduce_sum(v.stack(), -1, keepdims=True) for v in (dB, dC))
        # Chunk by chunk: long sums in float32 lose less in two levels.
        dA, columns = dA + of_chunk, write(columns, c, found)
        return g, dA, (*states, dB, dC), rows, columns

    g, q, count = layout.state(dh), layout.at_most(CHUNK), layout.count(CHUNK)
    parts = over_parts(g)
    kept = tuple(buffer(q, v) for v in (g, g, parts, parts))
    row, column = g[..., :1, :], repeated(g[..., :1], q)
    rows = tuple(buffer(layout.length, row) for _ in range(2))
    columns = tuple(buffer(count, column) for _ in range(2))
    carry = (g, tf.zeros_like(g), kept, rows, columns)
    g, dA, _, rows, columns = loop(chunk, carry, 0, count, not reverse)
    dx, ddt = (layout.from_rows(v.stack()) for v in rows)
    dA = layout.from_decay(tf.reduce_sum(dA, 0))
    dB, dC = (layout.from_columns(joined(v)) for v in columns)
    return dx, ddt, dA, dB, dC, layout.from_state(g), None


def _inputs(layout, x, dt, B, C, resets, dy=None):
    """What the steps read, in the order in which they unpack it."""
    return (
        series(layout.rows(dt)),
        series(layout.rows(dt * x)),
        series(layout.columns(B)),
        series(layout.resets(resets)),
        series(layout.columns(C)),
        series(layout.rows(x)),
        series(layout.rows(dy)),
    )


def _step(A, inputs, t, h, y):
    dt, u, B, reset, C, *_ = read(inputs, t)
    h = tf.exp(dt * A) * forget(h, reset) + u * B
    return h, y.write(t, tf.reduce_sum(h * C, -2, keepdims=True))


def _recompute(A, inputs, t, h, kept, dC):
    """One step forward that keeps what the step backward needs."""
    dt, u, B, reset, *_, dy = read(inputs, t)
    # Read from where it is kept: XLA would copy it if anything else used it.
    kept = write(kept, t % CHUNK, (tf.exp(dt * A), forget(h, reset)))
    decay, before = read(kept, t % CHUNK)
    h = decay * before + u * B
    return h, kept, dC.write(t % CHUNK, over_parts(dy * h))


def _adjoint(A, inputs, kept, t, g, dA, gradients, dB):
    """One step of the formulas, with the sums over time in `dA`."""
    dt, u, B, reset, C, x, dy = read(inputs, t)
    decay, before = read(kept, t % CHUNK)
    g = g + C * dy
    dB = dB.write(t % CHUNK, over_parts(g * u))
    dB_x = tf.reduce_sum(g * B, -2, keepdims=True)
    g = decay * g
    d_exponent = g * before
    ddt = tf.reduce_sum(d_exponent * A, -2, keepdims=True) + dB_x * x
    gradients = write(gradients, t, (dB_x * dt, ddt))
    return forget(g, reset), dA + d_exponent * dt, gradients, dB


def over_parts(v):
    """Begins a sum over channels: (..., d/g) -> (..., d/g/16), rounded up."""
    short = -v.shape[-1] % PARTS
    if short:
        v = tf.pad(v, [(0, 0)] * (v.shape.rank - 1) + [(0, short)])
    v = tf.reshape(v, (*ops.shape(v)[:-1], PARTS, v.shape[-1] // PARTS))
    return tf.reduce_sum(v, -2)


def forget(h, reset):
    """Empties the state of the rows that start anew."""
    return h if reset is None else tf.where(reset, tf.zeros_like(h), h)


def loop(step, carry, first, last, backward):
    """Runs `carry = step(t, *carry)` from `first` to `last - 1`, or back."""

    def unfinished(i, *carry):
        return i < last

    def body(i, *carry):
        t = first + last - 1 - i if backward else i
        results = step(t, *carry)
        # A loop keeps its static shapes, but a batch known of the state may
        # be unknown of the inputs.
        for v, result in zip(
            *map(tf.nest.flatten, (carry, results)), strict=True
        ):
            if tf.is_tensor(v):
                result.set_shape(v.shape)
        return i + 1, *results

    return tf.while_loop(unfinished, body, (first, *carry))[1:]


def series(v):
    """A tensor as the series of its slices; `None` stays `None`."""
    if v is None:
        return None
    size = tf.shape(v)[0]
    if v.shape[0] is None:
        # XLA compiles a loop that never runs, and its reads must be valid.
        after = tf.maximum(1 - size, 0)
        v = tf.pad(v, [(0, after)] + [(0, 0)] * (v.shape.rank - 1))
    size = tf.maximum(size, 1)
    return tf.TensorArray(v.dtype, size, clear_after_read=False).unstack(v)


def buffer(size, like):
    """An unwritten series of tensors like `like`."""
    # An empty one could not be stacked where another size is unknown.
    size = tf.maximum(size, 1)
    empty = tf.TensorArray(
        like.dtype, size, element_shape=like.shape, clear_after_read=False
    )
    return empty.write(0, tf.zeros_like(like))


def read(many, t):
    """Step `t` of each series."""
    return tuple(None if v is None else v.read(t) for v in many)


def write(many, t, values):
    """Writes step `t` of each series."""
    return tuple(
        v.write(t, value) for v, value in zip(many, values, strict=True)
    )


def repeated(v, q):
    """(...) -> (q, ...)."""
    return tf.repeat(v[None], q, axis=0)


def joined(chunks):
    """A series of (q, ...) as one tensor, (count * q, ...)."""
    v = chunks.stack()
    shape = ops.shape(v)
    return tf.reshape(v, (shape[0] * shape[1], *shape[2:]))


class Time:
    """The axis of time, and its chunks.

    Args:
        length: The number of steps, which may be a tensor.
    """

    def __init__(self, length):
        self.length = length

    def count(self, q):
        """The number of chunks of `q` steps."""
        return (self.length + q - 1) // q

    def chunk(self, c, q):
        """The first step of chunk `c`, and that behind its last."""
        return c * q, tf.minimum(c * q + q, self.length)

    def at_most(self, q):
        """`q`, or the length where it is less, but not 0."""
        return tf.maximum(tf.minimum(q, self.length), 1)


class Layout(Time):
    """Moves between the op's layouts and those of the loops.

    A state is `(b, g, n, d/g)`: channels last, so that every operation is a
    vector over channels. What varies over channels alone is a row of it, what
    varies over the state alone a column. A single group has no axis `g`: an
    axis of size 1 there makes XLA's loops several times slower.
    """

    def __init__(self, x, B):
        self._batch, length, d = ops.shape(x)
        super().__init__(length)
        groups, self._n = B.shape[2:]
        self._groups = () if groups == 1 else (groups,)
        self._d, self._width = d, d // groups

    def rows(self, v):
        """(b, l, d) -> (l, b, g, 1, d/g)."""
        return self._over_time(v, 1, self._width)

    def from_rows(self, v):
        """The inverse of `rows`."""
        return self._from_time(v, self._d)

    def columns(self, v):
        """(b, l, g, n) -> (l, b, g, n, 1)."""
        return self._over_time(v, self._n, 1)

    def from_columns(self, v):
        """The inverse of `columns`."""
        return self._from_time(v, *(self._groups or (1,)), self._n)

    def resets(self, v):
        """(b, l) -> (l, b, 1, 1, 1)."""
        if v is None:
            return None
        ones = (1,) * (len(self._groups) + 2)
        return tf.reshape(tf.transpose(v), (self.length, self._batch, *ones))

    def state(self, h):
        """(b, d, n) -> (b, g, n, d/g)."""
        shape = (self._batch, *self._groups, self._width, self._n)
        return tf.linalg.matrix_transpose(tf.reshape(h, shape))

    def from_state(self, h):
        """The inverse of `state`."""
        h = tf.linalg.matrix_transpose(h)
        return tf.reshape(h, (self._batch, self._d, self._n))

    def decay(self, A):
        """(d, n) -> (g, n, d/g)."""
        shape = (*self._groups, self._width, self._n)
        return tf.linalg.matrix_transpose(tf.reshape(A, shape))

    def from_decay(self, A):
        """The inverse of `decay`."""
        A = tf.linalg.matrix_transpose(A)
        return tf.reshape(A, (self._d, self._n))

    def _over_time(self, v, *shape):
        if v is None:
            return None
        v = tf.transpose(v, (1, 0, *range(2, v.shape.rank)))
        shape = (self.length, self._batch, *self._groups, *shape)
        return tf.reshape(v, shape)

    def _from_time(self, v, *shape):
        v = tf.reshape(v[: self.length], (self.length, self._batch, *shape))
        return tf.transpose(v, (1, 0, *range(2, v.shape.rank)))
