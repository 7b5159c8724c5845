"""From continuous time to steps: what S4's recurrent form needs."""

import keras

from keras_ssm.ops import dispatch
from keras_ssm.ops.shapes import check_floating, check_shapes
from keras_ssm.ops.symbolic import symbolic
from keras_ssm.ops.tensors import accumulation_dtype, cast, convert

DISCRETIZATIONS = ("zoh", "bilinear")


def _diagonal_spec(
    dt, A, B, *, discretization="zoh", rate=1.0, implementation=None
):
    tensors = check_system("discretize", dt, rate, A=A, B=B)
    check_discretization("discretize", discretization)
    A_bar, B_bar = (
        tuple(_like(tensors[1], dt) for _ in range(2)) for _ in range(2)
    )
    return A_bar, B_bar


@symbolic(_diagonal_spec)
def discretize(
    dt,
    A,
    B,
    *,
    discretization: str = "zoh",
    rate: float = 1.0,
    implementation: str | None = None,
):
    """Turns a diagonal system into the steps of a recurrence.

        h' = A h + B x    ->    h[t] = Ā h[t-1] + B̄ x[t]

        zoh:       Ā = exp(dt A),                    B̄ = (Ā - 1) / A * B
        bilinear:  Ā = (1 + dt A/2) / (1 - dt A/2),  B̄ = dt / (1 - dt A/2) * B

    It is the recurrence whose convolution kernel `s4d_conv_kernel` computes;
    `ssm_scan` and `ssm_scan_step` run it.

    Args:
        dt: Step sizes, `(d,)`.
        A: Diagonals, `(d, n)`: a pair `(real, imag)` of tensors.
        B: Input maps, `(d, n)`, a pair.
        discretization: `"zoh"`, which holds the input during a step, or
            `"bilinear"`, which averages it over the ends of one.
        rate: Sampling steps to one of the sequences that the parameters are
            for: 2 for every other sample, 0.5 for two where there was one.
        implementation: `None` chooses; a name is strict.

    Returns:
        `(A_bar, B_bar)`, pairs of `(d, n)` in float32, in float64 where `dt`
        is.

    Raises:
        ValueError: If shapes do not fit, the discretization is unknown, or
            the rate is not positive.
        TypeError: If an input is not floating.

    Example:

    ```python
    dt = keras.random.uniform((8,), 0.001, 0.1)
    A = -0.5 * keras.ops.ones((8, 16)), keras.random.uniform((8, 16), 0, 50)
    B = keras.ops.ones((8, 16)), keras.ops.zeros((8, 16))
    C = keras.random.normal((8, 16)), keras.random.normal((8, 16))
    A_bar, B_bar = discretize(dt, A, B)
    x = keras.random.normal((2, 100, 8))
    y = ssm_scan(x, A_bar, B_bar, C)
    ```

    Reference:
        [Gu et al., 2022](https://arxiv.org/abs/2206.11893), section 3.1.
    """
    dt, *parts = convert(*check_system("discretize", dt, rate, A=A, B=B))
    check_discretization("discretize", discretization)
    real, imag, B_real, B_imag = dispatch.run(
        "discretize",
        canonical(dt, rate, parts),
        {"rule": discretization},
        implementation,
    )
    return (real, imag), (B_real, B_imag)


def _dplr_spec(dt, A, P, B, *, rate=1.0, implementation=None):
    check_system("discretize_dplr", dt, rate, A=A, P=P, B=B)
    d, n = A[0].shape
    A_bar = keras.KerasTensor((d, 2 * n, 2 * n), accumulation_dtype(dt))
    return A_bar, tuple(_like(A[0], dt) for _ in range(2))


@symbolic(_dplr_spec)
def discretize_dplr(
    dt, A, P, B, *, rate: float = 1.0, implementation: str | None = None
):
    """Turns a diagonal plus low rank system into the steps of a recurrence.

        h' = (A - P P*) h + B x    ->    h[t] = Ā h[t-1] + B̄ x[t]

    by the bilinear rule. It is the recurrence whose convolution kernel
    `s4_conv_kernel` computes; `ssm_scan` and `ssm_scan_step` run it. Each of
    the `n` numbers stands for itself and its conjugate, which `P` mixes: Ā is
    a matrix that acts on the `2n` real numbers `[real; imag]`.

    Args:
        dt: Step sizes, `(d,)`.
        A: Diagonals, `(d, n)`: a pair `(real, imag)` of tensors.
        P: Low rank parts, `(d, n)`, a pair.
        B: Input maps, `(d, n)`, a pair.
        rate: As in `discretize`.
        implementation: `None` chooses; a name is strict.

    Returns:
        `(A_bar, B_bar)`: real matrices `(d, 2n, 2n)` and a pair of `(d, n)`,
        in float32, in float64 where `dt` is.

    Raises:
        ValueError: If shapes do not fit, or the rate is not positive.
        TypeError: If an input is not floating.

    Example:

    ```python
    dt = keras.random.uniform((8,), 0.001, 0.1)
    A = -0.5 * keras.ops.ones((8, 16)), keras.random.uniform((8, 16), 0, 50)
    P = keras.ops.ones((8, 16)), keras.ops.zeros((8, 16))
    B = keras.ops.ones((8, 16)), keras.ops.zeros((8, 16))
    C = keras.random.normal((8, 16)), keras.random.normal((8, 16))
    A_bar, B_bar = discretize_dplr(dt, A, P, B)
    x = keras.random.normal((2, 100, 8))
    y = ssm_scan(x, A_bar, B_bar, C)
    ```

    Reference:
        [Gu et al., 2021](https://arxiv.org/abs/2111.00396), section 2.3 and
        appendix C.2.
    """
    tensors = check_system("discretize_dplr", dt, rate, A=A, P=P, B=B)
    dt, *parts = convert(*tensors)
    A, *B = dispatch.run(
        "discretize_dplr", canonical(dt, rate, parts), {}, implementation
    )
    return A, tuple(B)


def check_system(op, dt, rate, **numbers):
    """Checks a system; returns `dt` and the parts of its complex numbers."""
    for name, value in numbers.items():
        if not isinstance(value, (tuple, list)) or len(value) != 2:
            raise ValueError(
                f"`{op}`: `{name}` must be a pair `(real, imag)` of tensors; "
                f"for a real one, `({name}, keras.ops.zeros_like({name}))`. "
                f"Received: {_kind(value)}."
            )
    parts = {
        f"{name}[{i}]": part
        for name, value in numbers.items()
        for i, part in enumerate(value)
    }
    specs = {name: (part, "d n") for name, part in parts.items()}
    check_shapes(op, dt=(dt, "d"), **specs)
    check_floating(op, dt=dt, **parts)
    if not rate > 0:
        raise ValueError(
            f"`{op}`: `rate` must be positive. Received: rate={rate}."
        )
    return dt, *parts.values()


def check_discretization(op, discretization):
    """Raises a `ValueError` unless it is known."""
    if discretization not in DISCRETIZATIONS:
        raise ValueError(
            f"`{op}`: `discretization` must be one of {DISCRETIZATIONS}. "
            f"Received: discretization={discretization!r}."
        )


def canonical(dt, rate, parts):
    """`dt` at the rate, and all parts, in the dtype of the computation."""
    dtype = accumulation_dtype(dt)
    return cast(dt, dtype) * rate, *(cast(part, dtype) for part in parts)


def _kind(value):
    if isinstance(value, (tuple, list)):
        return f"a sequence of {len(value)}"
    return f"a tensor of shape {tuple(value.shape)}"


def _like(part, dt):
    return keras.KerasTensor(part.shape, accumulation_dtype(dt))
