"""The linear scan in logarithmic steps, by `jax.lax.associative_scan`.

It holds what a number for each step takes, as the output does, so that there
is no need of chunks. The formulas of the backward pass, which is the same scan
from the other end, are in `keras_ssm/kernels/lax/linear_scan.py`.
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax

from keras_ssm.kernels import border
from keras_ssm.kernels.lax.linear_scan import before, of_channels, shift
from keras_ssm.kernels.lax.selective_scan import forget
from keras_ssm.kernels.lax_associative.selective_scan import compose_steps


def unsupported(*tensors, **options):
    """Why these tensors cannot be scanned so, or `None`."""
    length = tensors[0].shape[1]
    return None if isinstance(length, int) else "needs a known length"


def linear_scan(*tensors, reverse):
    """The op on canonical tensors; see `keras_ssm.ops.linear_scan`."""
    return border.around_linear_scan(
        recurrence, lax.complex, tensors, reverse=reverse
    )


def recurrence(a, x, h, resets, reverse):
    """`h[t] = a[t] h[t-1] + x[t]`: all of it, and the last one."""
    return _recurrence(a, x, h, resets, reverse)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def _recurrence(a, x, h, resets, reverse):
    y = _states(a, x, h, of_channels(resets), reverse)
    return y, y[:, 0 if reverse else -1]


def _forward(a, x, h, resets, reverse):
    y, end = _recurrence(a, x, h, resets, reverse)
    return (y, end), (a, y, h, resets)


def _backward(reverse, residuals, gradients):
    a, y, h, resets = residuals
    dy, dh = gradients
    reset, following = of_channels(resets), None
    if resets is not None:
        following = shift(reset, jnp.zeros_like(reset[:, 0]), not reverse)
    # The gradient of the last state counts for the last step as it is.
    decays = shift(a, jnp.ones_like(h), not reverse)
    g = _states(decays, dy, dh, following, not reverse)
    passed = forget(a * g, reset)[:, -1 if reverse else 0]
    return g * before(y, h, resets, reverse), g, passed, None


_recurrence.defvjp(_forward, _backward)


def _states(a, x, h, reset, reverse):
    """All states of `h[t] = a[t] h[t-1] + x[t]`, `reset` `(b, l, 1)`."""
    first = -1 if reverse else 0
    of_first = None if reset is None else reset[:, first]
    x = x.at[:, first].add(a[:, first] * forget(h, of_first))
    _, y, _ = compose_steps(a, x, reset, reverse, axis=1)
    return y
