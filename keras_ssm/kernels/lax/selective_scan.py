"""The selective scan as a loop over time, forward and backward.

The state is laid out `(b, g, n, d/g)`: channels last, so that every operation
is a vector over channels. The forward pass keeps the state at the start of
each chunk of `CHUNK` steps; the backward pass recomputes a chunk's states from
it, then walks the chunk from its end. Memory is that of the inputs and of
`l / CHUNK` states.

With `a[t] = exp(dt[t] A)`, `f[t] = h[t-1]`, or 0 where the state starts anew,
and `g[t]` the gradient with respect to `h[t]`:

    g[t] = dy[t] C[t] + a[t+1] g[t+1]          (0 from a step that starts anew)
    dC[t] = sum_d dy[t] h[t]                   dB[t] = sum_d g[t] dt[t] x[t]
    dx[t] = dt[t] sum_n g[t] B[t]              dA = sum_t dt[t] a[t] g[t] f[t]
    ddt[t] = x[t] sum_n g[t] B[t] + sum_n A a[t] g[t] f[t]
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax

from keras_ssm.kernels import border

CHUNK = 32


def unsupported(*tensors, **options):
    """Nothing: it runs wherever JAX does."""
    return None


def selective_scan(*tensors, dt_softplus, reverse):
    """The op on canonical tensors; see `keras_ssm.ops.selective_scan`."""
    return border.around(
        recurrence, tensors, dt_softplus=dt_softplus, reverse=reverse
    )


def recurrence(x, dt, A, B, C, h, resets, reverse):
    """`h[t] = exp(dt[t] A) h[t-1] + dt[t] B[t] x[t]; y[t] = C[t] h[t]`."""
    return _recurrence(x, dt, A, B, C, h, resets, reverse)


@functools.partial(jax.custom_vjp, nondiff_argnums=(7,))
def _recurrence(x, dt, A, B, C, h, resets, reverse):
    layout = Layout(x, B)
    step = functools.partial(_step, layout.decay(A))
    inputs = layout.inputs(x, dt, B, C, resets)
    h, y = lax.scan(step, layout.state(h), inputs, reverse=reverse)
    return layout.from_rows(y), layout.from_state(h)


def _forward(x, dt, A, B, C, h, resets, reverse):
    layout = Layout(x, B)
    step = functools.partial(_step, layout.decay(A))

    def chunk(h, inputs):
        end, y = lax.scan(step, h, inputs, reverse=reverse)
        return end, (y, h)

    inputs = layout.chunks(layout.inputs(x, dt, B, C, resets), CHUNK)
    h, (y, starts) = lax.scan(chunk, layout.state(h), inputs, reverse=reverse)
    y = layout.from_rows(layout.from_chunks(y))
    return (y, layout.from_state(h)), (x, dt, A, B, C, resets, starts)


def _backward(reverse, residuals, gradients):
    x, dt, A, B, C, resets, starts = residuals
    dy, dh = gradients
    layout = Layout(x, B)
    decay = layout.decay(A)

    def chunk(carry, inputs):
        g, dA = carry
        start, inputs, dy = inputs
        recompute = functools.partial(_state_before, decay)
        end, before = lax.scan(recompute, start, inputs, reverse=reverse)
        (g, of_chunk, _), gradients = lax.scan(
            functools.partial(_adjoint_step, decay),
            (g, jnp.zeros_like(g), end),
            (inputs, before, dy),
            reverse=not reverse,
        )
        # Chunk by chunk: long sums in float32 lose less in two levels.
        return (g, dA + of_chunk), gradients

    inputs = layout.inputs(x, dt, B, C, resets)
    inputs, dy = layout.chunks((inputs, layout.rows(dy)), CHUNK)
    g = layout.state(dh)
    (g, dA), gradients = lax.scan(
        chunk,
        (g, jnp.zeros_like(g)),
        (starts, inputs, dy),
        reverse=not reverse,
    )
    return layout.gradients(*layout.from_chunks(gradients), dA, g)


_recurrence.defvjp(_forward, _backward)


def _step(A, h, inputs):
    x, dt, B, C, reset = inputs
    h = _advance(A, h, x, dt, B, reset)
    return h, (h * C).sum(-2, keepdims=True)


def _state_before(A, h, inputs):
    x, dt, B, _, reset = inputs
    return _advance(A, h, x, dt, B, reset), h


def _advance(A, h, x, dt, B, reset):
    return jnp.exp(dt * A) * forget(h, reset) + dt * x * B


def _adjoint_step(A, carry, inputs):
    """One step of the formulas above, with the sums over time in `dA`."""
    g, dA, h = carry
    (x, dt, B, C, reset), before, dy = inputs
    g = g + C * dy
    dC, dB = over_channels(h, dy), over_channels(g, dt * x)
    dB_x = (g * B).sum(-2, keepdims=True)
    g = jnp.exp(dt * A) * g
    d_exponent = g * forget(before, reset)
    ddt = (d_exponent * A).sum(-2, keepdims=True) + dB_x * x
    dA = dA + d_exponent * dt
    return (forget(g, reset), dA, before), (dB_x * dt, ddt, dB, dC)


def forget(h, reset):
    """Empties the state of the rows that start anew."""
    return h if reset is None else jnp.where(reset, 0, h)


def over_channels(states, v):
    """sum_e states * v: a matrix product, which XLA vectorises on a CPU."""
    # A TPU would round its operands to bfloat16 otherwise.
    v = jnp.swapaxes(v, -1, -2)
    return jnp.matmul(states, v, precision=lax.Precision.HIGHEST)


class Layout:
    """Moves between the op's layouts and those of the loops.

    A state is `(b, g, n, d/g)`: channels last, so that every operation is a
    vector over channels. What varies over channels alone is a row of it, what
    varies over the state alone a column. A single group has no axis `g`: an
    axis of size 1 there makes XLA's loops several times slower.
    """

    def __init__(self, x, B):
        self._x_shape, self._B_shape = x.shape, B.shape
        self._batch, self._length, d = x.shape
        groups, self._n = B.shape[2:]
        self._groups = () if groups == 1 else (groups,)
        self._width = d // groups

    def inputs(self, x, dt, B, C, resets):
        """What the steps read, time first."""
        if resets is not None:
            ones = (1,) * (len(self._groups) + 2)
            resets = resets.T.reshape(self._length, self._batch, *ones)
        rows, columns = self.rows, self._columns
        return rows(x), rows(dt), columns(B), columns(C), resets

    def rows(self, v):
        """(b, l, d) -> (l, b, g, 1, d/g)."""
        return self._over_time(v, 1, self._width)

    def from_rows(self, v):
        """The inverse of `rows`."""
        return self._from_time(v, self._x_shape)

    def _columns(self, v):
        """(b, l, g, n) -> (l, b, g, n, 1)."""
        return self._over_time(v, self._n, 1)

    def _over_time(self, v, *shape):
        shape = (self._length, self._batch, *self._groups, *shape)
        return jnp.swapaxes(v, 0, 1).reshape(shape)

    def _from_time(self, v, shape):
        v = v.reshape(shape[1], shape[0], *shape[2:])
        return jnp.swapaxes(v, 0, 1)

    def chunks(self, inputs, q):
        """Splits time into chunks, (l, ...) -> (chunks, q, ...).

        Padding is a step of size 0 with input 0, which changes nothing.
        """
        if isinstance(self._length, int):
            q = min(q, self._length)
        count = -(-self._length // q)

        def split(v):
            padding = [(0, 0)] * v.ndim
            padding[0] = (0, count * q - self._length)
            return jnp.pad(v, padding).reshape(count, q, *v.shape[1:])

        return jax.tree.map(split, inputs)

    def from_chunks(self, outputs):
        """The inverse of `chunks`."""

        def join(v):
            v = v.reshape(v.shape[0] * v.shape[1], *v.shape[2:])
            return v[: self._length]

        return jax.tree.map(join, outputs)

    def state(self, h):
        """(b, d, n) -> (b, g, n, d/g)."""
        h = h.reshape(*h.shape[:-2], *self._groups, self._width, self._n)
        return jnp.swapaxes(h, -1, -2)

    def from_state(self, h):
        """The inverse of `state`."""
        h = jnp.swapaxes(h, -1, -2)
        return h.reshape(*h.shape[:1], -1, self._n)

    def decay(self, A):
        """(d, n) -> (g, n, d/g)."""
        return self.state(A)

    def gradients(self, dx, ddt, dB, dC, dA, g):
        """Gradients of x, dt, A, B, C, the initial state and the resets."""
        return (
            self.from_rows(dx),
            self.from_rows(ddt),
            self.from_state(dA.sum(0)[None])[0],
            self._from_time(dB, self._B_shape),
            self._from_time(dC, self._B_shape),
            self.from_state(g),
            None,
        )
