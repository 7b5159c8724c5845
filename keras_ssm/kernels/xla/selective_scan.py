"""The selective scan as loops over time, forward and backward.

The formulas are those of `keras_ssm/kernels/lax/selective_scan.py`, and so is
what is kept for the backward pass: the state at the start of each chunk of
`CHUNK` steps. A chunk is a range of an outer loop over time, so that nothing
is padded and the length may be unknown.

Without XLA each operation is a pass over the state. Sums are therefore
products and reductions, since small matrix products take six times as long
there, and the backward pass keeps the decays of the chunk that it recomputes.
"""

import functools

import tensorflow as tf
from keras import ops

from keras_ssm.kernels import border
from keras_ssm.kernels.xla.custom_gradient import custom_gradient

CHUNK = 32


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

    def chunk(c, g, dA, kept, gradients):
        span = layout.chunk(c, CHUNK)
        recompute = functools.partial(_recompute, A, inputs)
        carry = (starts.read(c), kept, gradients[3])
        _, kept, dC = loop(recompute, carry, *span, reverse)
        adjoint = functools.partial(_adjoint, A, inputs, kept)
        carry = (g, tf.zeros_like(g), gradients[:3])
        g, of_chunk, gradients = loop(adjoint, carry, *span, not reverse)
        # Chunk by chunk: long sums in float32 lose less in two levels.
        return g, dA + of_chunk, kept, (*gradients, dC)

    g = layout.state(dh)
    kept = tuple(buffer(layout.at_most(CHUNK), g) for _ in range(2))
    row, column = g[..., :1, :], g[..., :1]
    gradients = tuple(
        buffer(layout.length, v) for v in (row, row, column, column)
    )
    carry = (g, tf.zeros_like(g), kept, gradients)
    g, dA, _, gradients = loop(
        chunk, carry, 0, layout.count(CHUNK), not reverse
    )
    dx, ddt, dB, dC = (gradient.stack() for gradient in gradients)
    return (
        layout.from_rows(dx),
        layout.from_rows(ddt),
        layout.from_decay(tf.reduce_sum(dA, 0)),
        layout.from_columns(dB),
        layout.from_columns(dC),
        layout.from_state(g),
        None,
    )


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
    _, _, h = _advance(A, h, dt, u, B, reset)
    return h, y.write(t, tf.reduce_sum(h * C, -2, keepdims=True))


def _recompute(A, inputs, t, h, kept, dC):
    """One step forward that keeps what the step backward needs."""
    dt, u, B, reset, *_, dy = read(inputs, t)
    decay, before, h = _advance(A, h, dt, u, B, reset)
    dC = dC.write(t, tf.reduce_sum(dy * h, -1, keepdims=True))
    return h, write(kept, t % CHUNK, (decay, before)), dC


def _advance(A, h, dt, u, B, reset):
    decay = tf.exp(dt * A)  # (b, g, n, d/g)
    h = forget(h, reset)
    return decay, h, decay * h + u * B


def _adjoint(A, inputs, kept, t, g, dA, gradients):
    """One step of the formulas, with the sums over time in `dA`."""
    dt, u, B, reset, C, x, dy = read(inputs, t)
    decay, before = read(kept, t % CHUNK)
    g = g + C * dy
    dB = tf.reduce_sum(g * u, -1, keepdims=True)
    dB_x = tf.reduce_sum(g * B, -2, keepdims=True)
    g = decay * g
    d_exponent = g * before
    ddt = tf.reduce_sum(d_exponent * A, -2, keepdims=True) + dB_x * x
    gradients = write(gradients, t, (dB_x * dt, ddt, dB))
    return forget(g, reset), dA + d_exponent * dt, gradients


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


class Layout:
    """Moves between the op's layouts and those of the loops.

    A state is `(b, g, n, d/g)`: channels last, so that every operation is a
    vector over channels. What varies over channels alone is a row of it, what
    varies over the state alone a column. A single group has no axis `g`: an
    axis of size 1 there makes XLA's loops several times slower.
    """

    def __init__(self, x, B):
        self._batch, self.length, d = ops.shape(x)
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

    def count(self, q):
        """The number of chunks of `q` steps."""
        return (self.length + q - 1) // q

    def chunk(self, c, q):
        """The first step of chunk `c`, and that behind its last."""
        return c * q, tf.minimum(c * q + q, self.length)

    def at_most(self, q):
        """`q`, or the length where it is less."""
        return tf.minimum(q, self.length)

    def _over_time(self, v, *shape):
        if v is None:
            return None
        v = tf.transpose(v, (1, 0, *range(2, v.shape.rank)))
        shape = (self.length, self._batch, *self._groups, *shape)
        return tf.reshape(v, shape)

    def _from_time(self, v, *shape):
        v = tf.reshape(v[: self.length], (self.length, self._batch, *shape))
        return tf.transpose(v, (1, 0, *range(2, v.shape.rank)))
