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
    joined,
    loop,
    read,
    repeated,
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
        a, carried = tf.exp(dt * decay), _carried(decay, dt, reverse)
        states = _solve(a, dt * x * B, reset, carried, h, reverse)
        total = tf.reduce_sum(states * C, -2, keepdims=True)
        end = states[0 if reverse else -1]
        return end, y.write(c, total), starts.write(c, h)

    q = chunk_size(layout)
    count = layout.count(q)
    y = buffer(count, repeated(start[..., :1, :], q))
    end, y, starts = loop(
        chunk, (start, y, buffer(count, start)), 0, count, reverse
    )
    outputs = layout.from_rows(joined(y)), layout.from_state(end)
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
            chunks(layout, layout.rows(dy)),
        ),
    )
    g = layout.state(dh)
    q = chunk_size(layout)
    row, column = (repeated(v, q) for v in (g[..., :1, :], g[..., :1]))
    gradients = tuple(
        buffer(layout.count(q), v) for v in (row, row, column, column)
    )
    carry = (g, tf.zeros_like(g), gradients)
    g, dA, gradients = loop(adjoint, carry, 0, layout.count(q), not reverse)
    dx, ddt, dB, dC = (joined(gradient) for gradient in gradients)
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
    start, a = starts.read(c), tf.exp(dt * A)
    carried = _carried(A, dt, reverse)
    states = _solve(a, dt * x * B, reset, carried, start, reverse)
    before = shift(states, start, reverse)
    # The carried `g` arrives multiplied with the decay of its own step.
    following = shift(a, tf.ones_like(start), not reverse)
    carried = _carried(
        A, shift(dt, tf.zeros_like(dt[0]), not reverse), not reverse
    )
    reset_behind = shift_resets(reset, not reverse)
    dstates = _solve(following, C * dy, reset_behind, carried, g, not reverse)
    dC = tf.reduce_sum(dy * states, -1, keepdims=True)
    dB = tf.reduce_sum(dstates * (dt * x), -1, keepdims=True)
    dB_x = tf.reduce_sum(dstates * B, -2, keepdims=True)
    passed = forget(a * dstates, reset)
    d_exponent = passed * forget(before, reset)
    ddt = tf.reduce_sum(d_exponent * A, -2, keepdims=True) + dB_x * x
    dA = dA + tf.reduce_sum(d_exponent * dt, 0)
    gradients = write(gradients, c, (dB_x * dt, ddt, dB, dC))
    return passed[-1 if reverse else 0], dA, gradients


def _carried(A, dt, reverse):
    """What is left of the state before the chunk after each of its steps.

    It is the product of the decays, but as the exponential of a sum: products
    of numbers close to 1 are rounded down, which adds up from chunk to chunk.
    """
    return tf.exp(tf.cumsum(dt, reverse=reverse) * A)


def _solve(a, u, reset, carried, h, reverse):
    """All states of `h[t] = a[t] h[t-1] + u[t]`, the first after `h`."""
    _, u, reset = compose_steps(a, u, reset, reverse)
    return carried * forget(h, reset) + u


def compose_steps(a, u, reset, reverse):
    """The maps `h -> a h + u` from the start to after each step.

    Where `reset` is True, `h[t] = u[t]`. That is selected and not a decay of
    0, which would hand on an infinity. Afterwards it is True where any step so
    far has started anew.
    """
    width = 1
    while width < a.shape[0]:
        a, u, reset = _compose(a, u, reset, width, reverse)
        width *= 2
    return a, u, reset


def _compose(a, u, reset, width, reverse):
    """Appends to every other run of `width` maps the map before it."""
    (early_a, later_a), (early_u, later_u) = (
        _runs(v, width, reverse) for v in (a, u)
    )
    edge = slice(0, 1) if reverse else slice(width - 1, width)
    before = early_u[:, edge]
    if reset is not None:
        early, later = _runs(reset, width, reverse)
        before = forget(before, later)
        later = tf.logical_or(later, early[:, edge])
        reset = _alternate(early, later, reset, reverse)
    later_u = later_a * before + later_u
    later_a = later_a * early_a[:, edge]
    a = _alternate(early_a, later_a, a, reverse)
    return a, _alternate(early_u, later_u, u, reverse), reset


def _runs(v, width, reverse):
    """Every other run of `width` steps, and the runs that come after them."""
    shape = ops.shape(v)
    v = tf.reshape(v, (shape[0] // (2 * width), 2, width, *shape[1:]))
    return (v[:, 1], v[:, 0]) if reverse else (v[:, 0], v[:, 1])


def _alternate(early, later, like, reverse):
    """The inverse of `_runs`."""
    pair = [later, early] if reverse else [early, later]
    return tf.reshape(tf.stack(pair, axis=1), ops.shape(like))


def shift(v, first, reverse):
    """`v` one step later in the order of the scan, behind `first`."""
    if reverse:
        return tf.concat([v[1:], first[None]], axis=0)
    return tf.concat([first[None], v[:-1]], axis=0)


def shift_resets(reset, reverse):
    if reset is None:
        return None
    return shift(reset, tf.zeros_like(reset[0]), reverse)


def _inputs(layout, x, dt, B, C, resets):
    rows = (layout.rows(x), layout.rows(dt))
    columns = (layout.columns(B), layout.columns(C))
    steps = (*rows, *columns, layout.resets(resets))
    return tuple(chunks(layout, v) for v in steps)


def chunk_size(time):
    """A power of two, for a known length no larger than need be."""
    if isinstance(time.length, int):
        return min(CHUNK, 1 << (time.length - 1).bit_length())
    return CHUNK


def chunks(time, v, padding=0):
    """(l, ...) -> a series of (q, ...).

    Padding has to change nothing: here, a step of size 0 with input 0 does.
    """
    if v is None:
        return None
    q = chunk_size(time)
    count = time.count(q)
    after = [(0, count * q - time.length)] + [(0, 0)] * (v.shape.rank - 1)
    v = tf.pad(v, after, constant_values=tf.cast(padding, v.dtype))
    return series(tf.reshape(v, (count, q, *ops.shape(v)[1:])))
