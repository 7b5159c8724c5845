"""State space models as convolution kernels: S4D and S4."""

import keras

from keras_ssm.ops import dispatch
from keras_ssm.ops.discretize import (
    canonical,
    check_discretization,
    check_system,
)
from keras_ssm.ops.symbolic import symbolic
from keras_ssm.ops.tensors import accumulation_dtype, convert


def _s4d_spec(
    dt,
    A,
    B,
    C,
    length,
    *,
    discretization="zoh",
    rate=1.0,
    implementation=None,
):
    check_system("s4d_conv_kernel", dt, rate, A=A, B=B, C=C)
    check_discretization("s4d_conv_kernel", discretization)
    return _kernel_spec("s4d_conv_kernel", dt, length)


@symbolic(_s4d_spec)
def s4d_conv_kernel(
    dt,
    A,
    B,
    C,
    length,
    *,
    discretization: str = "zoh",
    rate: float = 1.0,
    implementation: str | None = None,
):
    """The convolution kernel of a diagonal state space model (S4D).

        kernel[t] = 2 Re(sum_n C * Ā^t * B̄),  t = 0 .. length-1

    with Ā and B̄ of `discretize`. Each of the `n` complex numbers stands for
    itself and its conjugate, hence twice the real part: a model with `n` of
    them has a state of `2n`. `(d, n, length)` is never held. Powers are
    accurate at any length: their angles are reduced in float64.

    Args:
        dt: Step sizes, `(d,)`.
        A: Diagonals, real parts negative, `(d, n)`: a pair `(real, imag)` of
            tensors, as are the following.
        B: Input maps, `(d, n)`.
        C: Output maps, `(d, n)`.
        length: How many steps of the kernel: an integer, or an integer tensor
            where TensorFlow does not know it.
        discretization: `"zoh"` or `"bilinear"`, as in `discretize`.
        rate: As in `discretize`.
        implementation: `None` chooses; a name is strict. See
            `keras_ssm.show_implementations()`.

    Returns:
        The kernel, `(length, d)`, in float32, in float64 where `dt` is.

    Raises:
        ValueError: If shapes do not fit, the discretization is unknown, or
            the rate or the length is not positive.
        TypeError: If an input is not floating.

    Example:

    ```python
    dt = keras.random.uniform((8,), 0.001, 0.1)
    A = -0.5 * keras.ops.ones((8, 16)), keras.random.uniform((8, 16), 0, 50)
    B = keras.ops.ones((8, 16)), keras.ops.zeros((8, 16))
    C = keras.random.normal((8, 16)), keras.random.normal((8, 16))
    kernel = s4d_conv_kernel(dt, A, B, C, length=100)
    y = fft_conv(keras.random.normal((2, 100, 8)), kernel)
    ```

    Reference:
        [Gu et al., 2022](https://arxiv.org/abs/2206.11893), sections 3.1 to
        3.3.
    """
    tensors = check_system("s4d_conv_kernel", dt, rate, A=A, B=B, C=C)
    check_discretization("s4d_conv_kernel", discretization)
    _check_length("s4d_conv_kernel", length)
    dt, *parts = convert(*tensors)
    return dispatch.run(
        "s4d_conv_kernel",
        canonical(dt, rate, parts),
        {"length": length, "rule": discretization},
        implementation,
    )


def _s4_spec(dt, A, P, B, C, length, *, rate=1.0, implementation=None):
    check_system("s4_conv_kernel", dt, rate, A=A, P=P, B=B, C=C)
    return _kernel_spec("s4_conv_kernel", dt, length)


@symbolic(_s4_spec)
def s4_conv_kernel(
    dt,
    A,
    P,
    B,
    C,
    length,
    *,
    rate: float = 1.0,
    implementation: str | None = None,
):
    """The convolution kernel of a diagonal plus low rank model (S4).

        kernel[t] = 2 Re(sum_n C * Ā^t * B̄),  t = 0 .. length-1

    where Ā and B̄ are the bilinear steps of `h' = (A - P P*) h + B x`, as in
    `discretize_dplr`. It is computed from powers of Ā, or, by "portable", from
    its generating function at roots of unity, a Cauchy product; both are exact
    at any length: `C` is that of the recurrence. Each of the `n` complex
    numbers stands for itself and its conjugate.

    Args:
        dt: Step sizes, `(d,)`.
        A: Diagonals, real parts negative, `(d, n)`: a pair `(real, imag)` of
            tensors, as are the following.
        P: Low rank parts, `(d, n)`.
        B: Input maps, `(d, n)`.
        C: Output maps, `(d, n)`.
        length: How many steps of the kernel: an integer, or an integer tensor
            where TensorFlow does not know it.
        rate: As in `discretize`.
        implementation: `None` chooses; a name is strict. See
            `keras_ssm.show_implementations()`.

    Returns:
        The kernel, `(length, d)`, in float32, in float64 where `dt` is.

    Raises:
        ValueError: If shapes do not fit, or the rate or the length is not
            positive.
        TypeError: If an input is not floating.

    Example:

    ```python
    dt = keras.random.uniform((8,), 0.001, 0.1)
    A = -0.5 * keras.ops.ones((8, 16)), keras.random.uniform((8, 16), 0, 50)
    P = keras.ops.ones((8, 16)), keras.ops.zeros((8, 16))
    B = keras.ops.ones((8, 16)), keras.ops.zeros((8, 16))
    C = keras.random.normal((8, 16)), keras.random.normal((8, 16))
    kernel = s4_conv_kernel(dt, A, P, B, C, length=100)
    y = fft_conv(keras.random.normal((2, 100, 8)), kernel)
    ```

    Reference:
        [Gu et al., 2021](https://arxiv.org/abs/2111.00396), Algorithm 1 and
        appendix C.3.
    """
    tensors = check_system("s4_conv_kernel", dt, rate, A=A, P=P, B=B, C=C)
    _check_length("s4_conv_kernel", length)
    dt, *parts = convert(*tensors)
    return dispatch.run(
        "s4_conv_kernel",
        canonical(dt, rate, parts),
        {"length": length},
        implementation,
    )


def _kernel_spec(op, dt, length):
    _check_length(op, length)
    known = length if isinstance(length, int) else None
    return keras.KerasTensor((known, dt.shape[0]), accumulation_dtype(dt))


def _check_length(op, length):
    if isinstance(length, float) or (isinstance(length, int) and length < 1):
        raise ValueError(
            f"`{op}`: `length` must be a positive integer. "
            f"Received: length={length}."
        )
