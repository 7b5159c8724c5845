"""From `h' = A h + B x` in continuous time to steps of a given size.

Zero-order hold keeps x constant during a step, the bilinear rule averages its
two ends:

    zoh       Ā = exp(dt A)                    B̄ = (Ā - 1) / A B
    bilinear  Ā = (1 + dt A/2) / (1 - dt A/2)  B̄ = dt / (1 - dt A/2) B

Complex numbers are pairs; `d` channels of `n` states each.
"""

import math

from keras import ops

from keras_ssm.kernels import exact, pairs


def log_transition(dt, A, discretization):
    """`log Ā`, `(d, n)`; `dt` is `(d,)`, `A` `(d, n)`."""
    real, imag = pairs.scale(A, ops.expand_dims(dt, -1))
    if discretization == "zoh":
        return real, imag
    size = (real**2 + imag**2) / 4
    below = 1 - real + size
    above = (1 + real / 2) ** 2 + imag**2 / 4
    # 2 log|Ā| = log(above / below): near 1 from the difference of the two,
    # which is exact, near 0 from their quotient.
    change = 2 * real / below
    near_one = change > -0.5
    decay = ops.where(
        near_one,
        ops.log1p(ops.where(near_one, change, 0.0)),
        ops.log(ops.where(above > 1e-30, above, 1e-30) / below),
    )
    return decay / 2, exact.arctan2(imag, 1 - size)


def powers(dt, A, steps, discretization):
    """`Ā ** steps`, `(d, n, s)`, for whole numbers `steps` `(s,)`.

    The angle of a high power is many turns and would lose its digits in
    float32: it is taken modulo a turn in float64, and gets its gradient, that
    of `steps * log Ā`, by adding 0.
    """
    decay, angle = log_transition(dt, A, discretization)
    within = _angles(dt, A, steps, discretization)
    steps = ops.cast(steps, decay.dtype)
    angle = ops.expand_dims(angle - ops.stop_gradient(angle), -1) * steps
    angle = within + angle
    size = ops.exp(ops.expand_dims(decay, -1) * steps)
    return size * exact.cos(angle), size * exact.sin(angle)


def _angles(dt, A, steps, discretization):
    dtype = dt.dtype
    dt, *A = (ops.stop_gradient(v) for v in (dt, *A))
    with exact.float64():
        dt, *A = (ops.cast(v, "float64") for v in (dt, *A))
        _, angle = log_transition(dt, A, discretization)
        turns = ops.expand_dims(angle / (2 * math.pi), -1)
        turns = turns * ops.cast(steps, "float64")
        angle = (turns - ops.round(turns)) * (2 * math.pi)
        return ops.cast(angle, dtype)


def input_gain(dt, A, discretization):
    """What `B̄` is for `B = 1`, `(d, n)`."""
    dt = ops.expand_dims(dt, -1)
    real, imag = pairs.scale(A, dt)
    if discretization == "bilinear":
        return pairs.scale(pairs.invert((1 - real / 2, -imag / 2)), dt)
    # (exp(x) - 1) / x: near 0, the derivative of the quotient has no digits.
    near = real**2 + imag**2 < 0.25
    quotient = ops.where(near, 1.0, real), ops.where(near, 0.0, imag)
    quotient = pairs.divide(pairs.expm1(quotient), quotient)
    series = _gain_series(
        (ops.where(near, real, 0.0), ops.where(near, imag, 0.0))
    )
    gain = (
        ops.where(near, *parts) for parts in zip(series, quotient, strict=True)
    )
    return pairs.scale(tuple(gain), dt)


def _gain_series(x):
    """`1 + x/2 + x^2/6 + ...`, exact in float64 for `|x| <= 1/2`."""
    real, imag = ops.ones_like(x[0]), ops.zeros_like(x[1])
    for k in range(16, 1, -1):
        real, imag = pairs.multiply((real, imag), pairs.scale(x, 1 / k))
        real = 1 + real
    return real, imag


def dplr_steps(dt, A, P, B):
    """The bilinear step of `A - P P*` on the real state `[real; imag]`.

    `Ā - 1` instead of `Ā`, of which powers would add up the rounding errors.

    A state of `n` conjugate pairs is kept as the `2n` real numbers of one
    number of each pair, on which `h -> A h - 2 P Re(P* h)` acts. With
    `M(c)` the matrix that multiplies by the complex diagonal `c`,
    `P` and `B` as real vectors, and `c = 1 / (1 - dt A/2)`:

        S = (1 - dt/2 (A - P P*))^-1 = M(c) - dt g f^T / (1 + dt P^T g),
        g = c P,  f = conj(c) P,  Ā - 1 = 2 (S - 1),  B̄ = dt S B

    Returns:
        `Ā - 1` `(d, 2n, 2n)` and `B̄` `(d, 2n)`, both real.
    """
    step = ops.expand_dims(dt, -1)
    real, imag = pairs.scale(A, step)
    c = pairs.invert((1 - real / 2, -imag / 2))
    g = _real(pairs.multiply(c, P))
    f = _real(pairs.multiply((c[0], -c[1]), P))
    size = 1 + step * ops.sum(_real(P) * g, axis=-1, keepdims=True)
    g = ops.expand_dims(step * g / size, -1)
    # c - 1 = c dt A/2, without cancellation.
    change = _multiplication(pairs.multiply(c, (real / 2, imag / 2)))
    change = change - g * ops.expand_dims(f, -2)  # S - 1
    B = _real(B)
    gain = B + exact.matmul(change, ops.expand_dims(B, -1))[..., 0]
    return 2 * change, step * gain


def _real(v):
    """A complex vector as its real and then its imaginary parts."""
    return ops.concatenate(v, axis=-1)


def _multiplication(c):
    """The real matrices that multiply by complex diagonals."""
    real, imag = (
        ops.expand_dims(v, -1) * ops.eye(v.shape[-1], dtype=v.dtype) for v in c
    )
    above = ops.concatenate([real, -imag], axis=-1)
    below = ops.concatenate([imag, real], axis=-1)
    return ops.concatenate([above, below], axis=-2)
