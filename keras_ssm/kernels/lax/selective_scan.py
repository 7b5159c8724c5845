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
    inputs = [layout.over_time(v) for v in (x, dt, B, C, resets)]
    step = functools.partial(_step, layout.decay(A))
    h, y = lax.scan(step, layout.state(h), inputs, reverse=reverse)
    y = jnp.swapaxes(y, 0, 1).reshape(x.shape)
    return y, layout.from_state(h)


def _forward(x, dt, A, B, C, h, resets, reverse):
    layout = Layout(x, B)
    step = functools.partial(_step, layout.decay(A))

    def chunk(h, inputs):
        end, y = lax.scan(step, h, inputs, reverse=reverse)
        return end, (y, h)

    inputs = [layout.chunks(v, CHUNK) for v in (x, dt, B, C, resets)]
    h, (y, starts) = lax.scan(chunk, layout.state(h), inputs, reverse=reverse)
    y = layout.from_chunks(y).reshape(x.shape)
    return (y, layout.from_state(h)), (x, dt, A, B, C, resets, starts)


def _backward(reverse, residuals, gradients):
    x, dt, A, B, C, resets, starts = residuals
    dy, dh = gradients
    layout = Layout(x, B)
    decay = layout.decay(A)

    def chunk(carry, inputs):
        g, dA = carry
        start, inputs, dy = inputs
        end, before = lax.scan(
            functools.partial(_state_before, decay),
            start,
            inputs,
            reverse=reverse,
        )
        (g, of_chunk, _), gradients = lax.scan(
            functools.partial(_adjoint_step, decay),
            (g, jnp.zeros_like(g), end),
            (inputs, before, dy),
            reverse=not reverse,
        )
        # Chunk by chunk: long sums in float32 lose less in two levels.
        return (g, dA + of_chunk), gradients

    inputs = [layout.chunks(v, CHUNK) for v in (x, dt, B, C, resets)]
    g = layout.state(dh)
    (g, dA), (dx, ddt, dB, dC) = lax.scan(
        chunk,
        (g, jnp.zeros_like(g)),
        (starts, inputs, layout.chunks(dy, CHUNK)),
        reverse=not reverse,
    )
    dx, ddt, dB, dC = (
        layout.from_chunks(gradient).reshape(v.shape)
        for gradient, v in ((dx, x), (ddt, dt), (dB, B), (dC, C))
    )
    dA = layout.from_decay(dA.sum(0))
    return dx, ddt, dA, dB, dC, layout.from_state(g), None


_recurrence.defvjp(_forward, _backward)


def _step(A, h, inputs):
    x, dt, B, C, reset = inputs
    h = _advance(A, h, x, dt, B, reset)
    return h, (h * C[..., None]).sum(-2)


def _state_before(A, h, inputs):
    x, dt, B, _, reset = inputs
    return _advance(A, h, x, dt, B, reset), h


def _advance(A, h, x, dt, B, reset):
    decay = jnp.exp(dt[..., None, :] * A)  # (b, g, n, d/g)
    update = (dt * x)[..., None, :] * B[..., None]
    return decay * forget(h, reset) + update


def _adjoint_step(A, carry, inputs):
    """One step of the formulas above, with the sums over time in `dA`."""
    g, dA, h = carry
    (x, dt, B, C, reset), before, dy = inputs
    g = g + C[..., None] * dy[..., None, :]
    dC = jnp.einsum("bge,bgne->bgn", dy, h)
    dB = jnp.einsum("bge,bgne->bgn", dt * x, g)
    dB_x = (g * B[..., None]).sum(-2)
    g = jnp.exp(dt[..., None, :] * A) * g
    d_exponent = g * forget(before, reset)
    ddt = (d_exponent * A).sum(-2) + dB_x * x
    dA = dA + d_exponent * dt[..., None, :]
    return (forget(g, reset), dA, before), (dB_x * dt, ddt, dB, dC)


def forget(h, reset):
    """Empties the state of the rows that start anew."""
    if reset is None:
        return h
    return jnp.where(reset[:, None, None, None], 0, h)


class Layout:
    """Moves between the op's layouts and those of the loops."""

    def __init__(self, x, B):
        self.length, self.groups = x.shape[1], B.shape[2]

    def over_time(self, v):
        """(b, l, d) -> (l, b, g, d/g); maps and resets likewise."""
        if v is None:
            return None
        if v.ndim == 3:
            v = v.reshape(*v.shape[:2], self.groups, -1)
        return jnp.swapaxes(v, 0, 1)

    def chunks(self, v, q):
        """`over_time`, padded and split: (chunks, q, b, g, ...).

        Padding is a step of size 0 with input 0, which changes nothing.
        """
        if v is None:
            return None
        v = self.over_time(v)
        if isinstance(self.length, int):
            q = min(q, self.length)
        count = -(-self.length // q)
        padding = [(0, count * q - self.length)] + [(0, 0)] * (v.ndim - 1)
        return jnp.pad(v, padding).reshape(count, q, *v.shape[1:])

    def from_chunks(self, v):
        """The inverse of `chunks`, (b, l, g, ...)."""
        v = v.reshape(v.shape[0] * v.shape[1], *v.shape[2:])
        return jnp.swapaxes(v[: self.length], 0, 1)

    def state(self, h):
        """(b, d, n) -> (b, g, n, d/g)."""
        b, _, n = h.shape
        return h.reshape(b, self.groups, -1, n).swapaxes(2, 3)

    def from_state(self, h):
        """The inverse of `state`."""
        b, _, n, _ = h.shape
        return h.swapaxes(2, 3).reshape(b, -1, n)

    def decay(self, A):
        """(d, n) -> (g, n, d/g)."""
        return self.state(A[None])[0]

    def from_decay(self, A):
        """The inverse of `decay`."""
        return self.from_state(A[None])[0]
