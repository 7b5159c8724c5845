"""What the kernels of the causal convolution have in common."""

import jax
import jax.numpy as jnp

# Up to this width the taps are written out; wider, they are looped over.
UNROLLED = 8


def visible(resets, k, reverse):
    """How many inputs before its own each step sees, (b, l), or `None`."""
    if resets is None:
        return None
    step = jax.lax.broadcasted_iota(jnp.int32, resets.shape, 1)
    step = resets.shape[1] - 1 - step if reverse else step
    # Steps of the first segment see all of the state.
    start = jnp.where(resets, step, -k)
    return step - jax.lax.cummax(start, axis=1, reverse=reverse)


def over_taps(k, tap, carry):
    """Calls `tap(j, carry)` for each tap, j steps before the current one."""
    if k > UNROLLED:
        return jax.lax.fori_loop(0, k, tap, carry)
    for j in range(k):
        carry = tap(j, carry)
    return carry


def activate(p, activation):
    """The activation and its slope."""
    if activation is None:
        return p, jnp.ones_like(p)
    gate = 1 / (1 + jnp.exp(-p))
    return p * gate, gate * (1 + p * (1 - gate))
