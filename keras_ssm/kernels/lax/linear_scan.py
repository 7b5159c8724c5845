"""The linear scan as a loop over time, forward and backward.

The output is all the states, so that nothing is computed twice. With
`f[t] = h[t-1]`, or 0 where the state starts anew, and `g[t]` the gradient with
respect to `h[t]`, the backward pass is the same scan from the other end:

    g[t] = dy[t] + conj(a[t+1]) g[t+1]         (0 from a step that starts anew)
    dx[t] = g[t]                               da[t] = g[t] conj(f[t])

That is for gradients whose imaginary parts belong to those of the numbers.
JAX's have the opposite sign, which makes all of it, `conj` too, its conjugate.
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax

from keras_ssm.kernels import border
from keras_ssm.kernels.lax.selective_scan import forget


def unsupported(*tensors, **options):
    """Nothing: it runs wherever JAX does."""
    return None


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
    end, y = lax.scan(_step, h, _steps(a, x, resets), reverse=reverse)
    return jnp.swapaxes(y, 0, 1), end


def _forward(a, x, h, resets, reverse):
    y, end = _recurrence(a, x, h, resets, reverse)
    return (y, end), (a, y, h, resets)


def _backward(reverse, residuals, gradients):
    return *adjoint(*residuals, *gradients, reverse), None


_recurrence.defvjp(_forward, _backward)


def adjoint(a, y, h, resets, dy, dh, reverse):
    """Gradients of a, x and the initial state."""
    inputs = _steps(a, dy, resets)
    dh, g = lax.scan(_adjoint_step, dh, inputs, reverse=not reverse)
    g = jnp.swapaxes(g, 0, 1)
    return g * before(y, h, resets, reverse), g, dh


def before(y, h, resets, reverse):
    """The state before each step, 0 where it starts anew."""
    return forget(shift(y, h, reverse), of_channels(resets))


def shift(v, first, reverse):
    """`v` `(b, l, ...)` one step later in the order of the scan."""
    if reverse:
        return jnp.concatenate([v[:, 1:], first[:, None]], axis=1)
    return jnp.concatenate([first[:, None], v[:, :-1]], axis=1)


def of_channels(resets):
    """(b, l) -> (b, l, 1); `None` stays `None`."""
    return None if resets is None else resets[..., None]


def _step(h, inputs):
    a, x, reset = inputs
    h = a * forget(h, reset) + x
    return h, h


def _adjoint_step(carry, inputs):
    """What is carried is multiplied with `a` of the step it comes from."""
    a, dy, reset = inputs
    g = dy + carry
    return forget(a * g, reset), g


def _steps(a, x, resets):
    """What the steps read, time first."""
    return jax.tree.map(
        lambda v: jnp.swapaxes(v, 0, 1), (a, x, of_channels(resets))
    )
