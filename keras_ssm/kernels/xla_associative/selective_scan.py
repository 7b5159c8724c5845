"""The selective scan in chunks, each in logarithmic steps.

Within a chunk of `CHUNK` steps all decays and updates are computed at once and
composed in pairs, then in fours, eights and so on (Sklansky, 1960); a loop
hands the state from chunk to chunk. On a GPU that is one round of launches per
chunk and not per step. Chunks keep their first state, and the backward pass
recomputes the rest, with the formulas in
`keras_ssm/kernels/lax/selective_scan.py`: the gradients `g` of a chunk are the
same scan in the other direction.
"""

import functools

import tensorflow as tf
from keras import ops

from keras_ssm.kernels import border
from keras_ssm.kernels.xla.custom_gradient import custom_gradient
from keras_ssm.kernels.xla.selective_scan import (
    Layout,
    buffer,
    forget,
    loop,
    read,
    series,
    write,
)

CHUNK = 64  # a power of two


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
    decay, start = layout.decay(A), layout.state(h)
    inputs = _inputs(layout, x, dt, B, C, resets)

    def chunk(c, h, y, starts):
        x, dt, B, C, reset = read(inputs, c)
        carried = _carried(decay, dt, reset, reverse)
        states = _solve(*_steps(decay, x, dt, B, reset), carried, h, reverse)
        total = tf.reduce_sum(states * C, -2, keepdims=True)
        end = states[0 if reverse else -1]
        return end, y.write(c, total), starts.write(c, h)

    q = _chunk_size(layout)
    count = layout.count(q)
    y = buffer(count, _repeated(start[..., :1, :], q))
    end, y, starts = loop(
        chunk, (start, y, buffer(count, start)), 0, count, reverse
    )
    outputs = layout.from_rows(_joined(y)), layout.from_state(end)
    return outputs, (x, dt, A, B, C, resets, starts.stack())


def _backward(reverse, residuals, dy, dh):
    x, dt, A, B, C, resets, starts = residuals
    layout = Layout(x, B)
    adjoint = functools.partial(
        _adjoint_chunk,
        layout.decay(A),
        reverse,
        series(starts),
        (
            *_inputs(layout, x, dt, B, C, resets),
            _chunks(layout, layout.rows(dy)),
        ),
    )
    g = layout.state(dh)
    q = _chunk_size(layout)
    row, column = (_repeated(v, q) for v in (g[..., :1, :], g[..., :1]))
    gradients = tuple(
        buffer(layout.count(q), v) for v in (row, row, column, column)
    )
    carry = (g, tf.zeros_like(g), gradients)
    g, dA, gradients = loop(adjoint, carry, 0, layout.count(q), not reverse)
    dx, ddt, dB, dC = (_joined(gradient) for gradient in gradients)
    return (
        layout.from_rows(dx),
        layout.from_rows(ddt),
        layout.from_decay(tf.reduce_sum(dA, 0)),
        layout.from_columns(dB),
        layout.from_columns(dC),
        layout.from_state(g),
        None,
    )


def _adjoint_chunk(A, reverse, starts, inputs, c, g, dA, gradients):
    x, dt, B, C, reset, dy = read(inputs, c)
    start = starts.read(c)
    a, u = _steps(A, x, dt, B, reset)
    states = _solve(a, u, _carried(A, dt, reset, reverse), start, reverse)
    before = _shift(states, start, reverse)
    # The carried `g` arrives multiplied with the decay of its own step.
    following = _shift(a, tf.ones_like(start), not reverse)
    carried = _carried(
        A,
        _shift(dt, tf.zeros_like(dt[0]), not reverse),
        _shift_resets(reset, not reverse),
        not reverse,
    )
    dstates = _solve(following, C * dy, carried, g, not reverse)
    dC = tf.reduce_sum(dy * states, -1, keepdims=True)
    dB = tf.reduce_sum(dstates * (dt * x), -1, keepdims=True)
    dB_x = tf.reduce_sum(dstates * B, -2, keepdims=True)
    passed = a * dstates
    d_exponent = passed * before
    ddt = tf.reduce_sum(d_exponent * A, -2, keepdims=True) + dB_x * x
    dA = dA + tf.reduce_sum(d_exponent * dt, 0)
    gradients = write(gradients, c, (dB_x * dt, ddt, dB, dC))
    return passed[-1 if reverse else 0], dA, gradients


def _steps(A, x, dt, B, reset):
    """Each step as a map `h -> a h + u`, both (q, b, g, n, d/g)."""
    return forget(tf.exp(dt * A), reset), dt * x * B


def _carried(A, dt, reset, reverse):
    """What is left of the state before the chunk after each of its steps.

    It is the product of the decays, but as the exponential of a sum: products
    of numbers close to 1 are rounded down, which adds up from chunk to chunk.
    """
    total = tf.cumsum(dt, reverse=reverse)
    if reset is not None:
        reset = tf.cumsum(tf.cast(reset, tf.int32), reverse=reverse) > 0
    return forget(tf.exp(total * A), reset)


def _solve(a, u, carried, h, reverse):
    """All states of `h[t] = a[t] h[t-1] + u[t]`, the first after `h`."""
    width = 1
    while width < a.shape[0]:
        a, u = _compose(a, u, width, reverse)
        width *= 2
    return carried * h + u


def _compose(a, u, width, reverse):
    """Appends to every other run of `width` maps the map before it."""
    shape = ops.shape(a)
    runs = (shape[0] // (2 * width), 2, width, *shape[1:])
    a, u = tf.reshape(a, runs), tf.reshape(u, runs)
    early, late = (1, 0) if reverse else (0, 1)
    edge = slice(0, 1) if reverse else slice(width - 1, width)
    later_a, later_u = a[:, late], u[:, late]
    composed_a = [a[:, early], later_a * a[:, early, edge]]
    composed_u = [u[:, early], later_a * u[:, early, edge] + later_u]
    a, u = (
        tf.stack(pair[::-1] if reverse else pair, axis=1)
        for pair in (composed_a, composed_u)
    )
    return tf.reshape(a, shape), tf.reshape(u, shape)


def _shift(v, first, reverse):
    """`v` one step later in the order of the scan, behind `first`."""
    if reverse:
        return tf.concat([v[1:], first[None]], axis=0)
    return tf.concat([first[None], v[:-1]], axis=0)


def _shift_resets(reset, reverse):
    if reset is None:
        return None
    return _shift(reset, tf.zeros_like(reset[0]), reverse)


def _inputs(layout, x, dt, B, C, resets):
    rows = (layout.rows(x), layout.rows(dt))
    columns = (layout.columns(B), layout.columns(C))
    steps = (*rows, *columns, layout.resets(resets))
    return tuple(_chunks(layout, v) for v in steps)


def _chunk_size(layout):
    """A power of two, for a known length no larger than need be."""
    if isinstance(layout.length, int):
        return min(CHUNK, 1 << (layout.length - 1).bit_length())
    return CHUNK


def _chunks(layout, v):
    """(l, ...) -> a series of (q, ...).

    Padding is a step of size 0 with input 0, which changes nothing.
    """
    if v is None:
        return None
    q = _chunk_size(layout)
    count = layout.count(q)
    after = count * q - layout.length
    v = tf.pad(v, [(0, after)] + [(0, 0)] * (v.shape.rank - 1))
    return series(tf.reshape(v, (count, q, *ops.shape(v)[1:])))


def _joined(chunks):
    """The inverse of `_chunks`, with the padding."""
    v = chunks.stack()
    shape = ops.shape(v)
    return tf.reshape(v, (shape[0] * shape[1], *shape[2:]))


def _repeated(v, q):
    """(...) -> (q, ...)."""
    return tf.repeat(v[None], q, axis=0)
