"""The selective scan in chunks, each in logarithmic steps.

Within a chunk of `CHUNK` steps all decays and updates are computed at once and
composed with `jax.lax.associative_scan`; a loop hands the state from chunk to
chunk. On a GPU that is one round of launches per chunk and not per step.
Chunks keep their first state, and the backward pass recomputes the rest, with
the formulas in `keras_ssm/kernels/lax/selective_scan.py`: the gradients `g` of
a chunk are the same scan in the other direction.
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax

from keras_ssm.kernels import border
from keras_ssm.kernels.lax.selective_scan import Layout, forget, over_channels

CHUNK = 64


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
    outputs, _ = _forward(x, dt, A, B, C, h, resets, reverse)
    return outputs


def _forward(x, dt, A, B, C, h, resets, reverse):
    layout = Layout(x, B)
    decay = layout.decay(A)

    def chunk(h, inputs):
        x, dt, B, C, reset = inputs
        a, carried = jnp.exp(dt * decay), _carried(decay, dt, reverse)
        states = _solve(a, dt * x * B, reset, carried, h, reverse)
        y = (states * C).sum(-2, keepdims=True)
        return states[0 if reverse else -1], (y, h)

    inputs = layout.chunks(layout.inputs(x, dt, B, C, resets), CHUNK)
    h, (y, starts) = lax.scan(chunk, layout.state(h), inputs, reverse=reverse)
    y = layout.from_rows(layout.from_chunks(y))
    return (y, layout.from_state(h)), (x, dt, A, B, C, resets, starts)


def _backward(reverse, residuals, gradients):
    x, dt, A, B, C, resets, starts = residuals
    dy, dh = gradients
    layout = Layout(x, B)
    inputs = layout.inputs(x, dt, B, C, resets)
    inputs, dy = layout.chunks((inputs, layout.rows(dy)), CHUNK)
    g = layout.state(dh)
    (g, dA), gradients = lax.scan(
        functools.partial(_adjoint_chunk, layout.decay(A), reverse),
        (g, jnp.zeros_like(g)),
        (starts, inputs, dy),
        reverse=not reverse,
    )
    return layout.gradients(*layout.from_chunks(gradients), dA, g)


_recurrence.defvjp(_forward, _backward)


def _adjoint_chunk(A, reverse, carry, inputs):
    g, dA = carry
    start, (x, dt, B, C, reset), dy = inputs
    a, carried = jnp.exp(dt * A), _carried(A, dt, reverse)
    states = _solve(a, dt * x * B, reset, carried, start, reverse)
    before = _shift(states, start, reverse)
    # The carried `g` arrives multiplied with the decay of its own step.
    following = _shift(a, 1, not reverse)
    carried = _carried(A, _shift(dt, 0, not reverse), not reverse)
    reset_behind = _shift(reset, False, not reverse)
    dstates = _solve(following, C * dy, reset_behind, carried, g, not reverse)
    dC, dB = over_channels(states, dy), over_channels(dstates, dt * x)
    dB_x = (dstates * B).sum(-2, keepdims=True)
    passed = forget(a * dstates, reset)
    d_exponent = passed * forget(before, reset)
    ddt = (d_exponent * A).sum(-2, keepdims=True) + dB_x * x
    dA = dA + (d_exponent * dt).sum(0)
    return (passed[-1 if reverse else 0], dA), (dB_x * dt, ddt, dB, dC)


def _carried(A, dt, reverse):
    """What is left of the state before the chunk after each of its steps.

    It is the product of the decays, but as the exponential of a sum: products
    of numbers close to 1 are rounded down, which adds up from chunk to chunk.
    """
    return jnp.exp(lax.cumsum(dt, axis=0, reverse=reverse) * A)


def _solve(a, u, reset, carried, h, reverse):
    """All states of `h[t] = a[t] h[t-1] + u[t]`, the first after `h`."""
    _, u, reset = compose_steps(a, u, reset, reverse)
    return carried * forget(h, reset) + u


def compose_steps(a, u, reset, reverse, axis=0):
    """The maps `h -> a h + u` from the start to after each step.

    Where `reset` is True, `h[t] = u[t]`. That is selected and not a decay of
    0, which would hand on an infinity. Afterwards it is True where any step so
    far has started anew.
    """

    def compose(first, second):
        (first_a, first_u, first_reset), (a, u, reset) = first, second
        u = a * forget(first_u, reset) + u
        reset = None if reset is None else first_reset | reset
        return first_a * a, u, reset

    return lax.associative_scan(
        compose, (a, u, reset), reverse=reverse, axis=axis
    )


def _shift(v, first, reverse):
    """`v` one step later in the order of the scan, behind `first`."""
    if v is None:
        return None
    first = jnp.broadcast_to(jnp.asarray(first, v.dtype), v[:1].shape)
    if reverse:
        return jnp.concatenate([v[1:], first])
    return jnp.concatenate([first, v[:-1]])
