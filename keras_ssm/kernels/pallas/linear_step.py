"""One step of a linear scan or of its adjoint, for the kernels.

    forward    v = a h + x,    h = v
    adjoint    v = h + x,      h = conj(a) v

The output is `v`. Numbers are tuples: the real part, and the imaginary one if
there is one; `a` may be real where the others are complex.
"""

import jax.numpy as jnp


def step(h, x, a, live, anew, adjoint: bool):
    """Returns the state after a step, and its output.

    Args:
        h: The state before the step, in the order in which they are taken.
        x: The input.
        a: The factor.
        live: Whether the step counts; where it does not, the state passes.
        anew: Whether the state starts anew at this step, or `None`.
        adjoint: Whether this is a step of the adjoint.
    """
    if adjoint:
        v = added(h, x)
        after = forgotten(multiply(a, v, conjugate=True), anew)
    else:
        v = after = added(multiply(a, forgotten(h, anew)), x)
    return chosen(live, after, h), chosen(live, v, (0,) * len(v))


def multiply(a, h, conjugate: bool = False):
    """`a h`, or `conj(a) h`."""
    if len(a) == 1:
        return tuple(a[0] * part for part in h)
    real, imag = a[0], -a[1] if conjugate else a[1]
    return real * h[0] - imag * h[1], real * h[1] + imag * h[0]


def added(h, x):
    """`h + x`."""
    return tuple(a + b for a, b in zip(h, x, strict=True))


def forgotten(h, anew):
    """0 where the state starts anew, which even infinity does not survive."""
    return h if anew is None else chosen(anew, (0,) * len(h), h)


def chosen(condition, h, other):
    """`h` where the condition holds, and `other` elsewhere."""
    return tuple(
        jnp.where(condition, a, b) for a, b in zip(h, other, strict=True)
    )
