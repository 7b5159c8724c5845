"""The recurrence of a time-invariant system for each channel: S4D and S4."""

import keras
from keras import ops

from keras_ssm.ops import dispatch
from keras_ssm.ops.shapes import check_floating, check_mask, check_shapes
from keras_ssm.ops.steps import Packing
from keras_ssm.ops.symbolic import symbolic
from keras_ssm.ops.tensors import accumulation_dtype, cast, convert


def _scan_spec(
    x,
    A,
    B,
    C,
    D=None,
    *,
    initial_state=None,
    mask=None,
    reverse=False,
    return_state=False,
    implementation=None,
):
    system = _parts("ssm_scan", A, B, C)
    _check("ssm_scan", "b l", x, system, D, initial_state, mask)
    y, state = _output_spec(x, system)
    return (y, state) if return_state else y


@symbolic(_scan_spec)
def ssm_scan(
    x,
    A,
    B,
    C,
    D=None,
    *,
    initial_state=None,
    mask=None,
    reverse: bool = False,
    return_state: bool = False,
    implementation: str | None = None,
):
    """Runs a linear system that is the same at all steps on each channel.

        h[t] = A h[t-1] + B x[t]
        y[t] = 2 Re(C h[t]) + D x[t]

    Sizes: `b` batch, `l` length, `d` channels, `n` complex numbers of the
    state of a channel, each of which stands for itself and its conjugate. It
    is the recurrence whose convolution kernel `s4d_conv_kernel` or
    `s4_conv_kernel` computes, with `A` and `B` from `discretize` or
    `discretize_dplr`. Inputs are float32, bfloat16 or float16; the state is
    float32. Where `x` is float64, so is everything. Gradients flow to every
    floating input and through the returned state. `(b, l, d, n)` is never
    held, but two states for every 64 steps.

    Args:
        x: Input, `(b, l, d)`.
        A: What is left of the state after a step: diagonal, `(d, n)`, a pair
            `(real, imag)` of tensors; or dense, one tensor `(d, 2n, 2n)` of
            real matrices that act on `[real; imag]`.
        B: What an input adds to the state, `(d, n)`, a pair.
        C: Output maps, `(d, n)`, a pair.
        D: Skip weights, `(d,)`. `None` for no skip.
        initial_state: `h[-1]`, `(b, d, 2n)`, real and then imaginary parts.
            Zeros if `None`.
        mask: Boolean, `(b, l)`. A masked step is skipped: the state passes
            through it, `y` is 0 there, and its input is never used, so that
            even NaN there changes no value and no gradient.
        reverse: Whether to scan from the end. `y` stays in the order of `x`,
            and the state is that after step 0.
        return_state: Whether to return the state after the last step, too.
        implementation: `None` chooses; a name is strict. See
            `keras_ssm.show_implementations()`.

    Returns:
        `y`, `(b, l, d)`, in the dtype of `x`; with `return_state`, the tuple
        `(y, state)` with the state `(b, d, 2n)` in float32.

    Raises:
        ValueError: If shapes do not fit, `B` or `C` is no pair, or there is
            no such implementation.
        TypeError: If an input is not floating, or `mask` is not boolean.

    Example:

    ```python
    dt = keras.random.uniform((8,), 0.001, 0.1)
    A = -0.5 * keras.ops.ones((8, 16)), keras.random.uniform((8, 16), 0, 50)
    B = keras.ops.ones((8, 16)), keras.ops.zeros((8, 16))
    C = keras.random.normal((8, 16)), keras.random.normal((8, 16))
    x = keras.random.normal((2, 100, 8))
    A_bar, B_bar = discretize(dt, A, B)
    y, state = ssm_scan(x, A_bar, B_bar, C, return_state=True)

    # The same, without a state.
    y = fft_conv(x, s4d_conv_kernel(dt, A, B, C, length=100))
    ```

    Reference:
        [Gu et al., 2021](https://arxiv.org/abs/2111.00396), equation 3.
    """
    x, D, state, mask = convert(x, D, initial_state, mask)
    system = convert(*_parts("ssm_scan", A, B, C))
    _check("ssm_scan", "b l", x, system, D, state, mask)
    dtype = accumulation_dtype(x)
    D, state, *system = (cast(v, dtype) for v in (D, state, *system))
    if state is None:
        d, n = system[2].shape
        state = ops.zeros((ops.shape(x)[0], d, 2 * n), dtype)
    if 0 in x.shape:
        return (x, state) if return_state else x
    inputs, packing = cast(x, dtype), None
    if mask is not None:
        # Masked inputs are selected away and moved behind the others, so that
        # implementations see rows that are full up to a step.
        packing = Packing(mask, reverse)
        inputs = packing.pack(ops.where(ops.expand_dims(mask, -1), inputs, 0))
    y, state = dispatch.run(
        "ssm_scan",
        (inputs, *system, state, None if mask is None else packing.count),
        {"reverse": reverse},
        implementation,
    )
    y = y if D is None else y + D * inputs
    if mask is not None:
        y = ops.where(ops.expand_dims(mask, -1), packing.unpack(y), 0)
    y = cast(y, x.dtype)
    return (y, state) if return_state else y


def _step_spec(x, A, B, C, D=None, *, state, mask=None, implementation=None):
    system = _parts("ssm_scan_step", A, B, C)
    _check("ssm_scan_step", "b", x, system, D, state, mask)
    return _output_spec(x, system)


@symbolic(_step_spec)
def ssm_scan_step(
    x,
    A,
    B,
    C,
    D=None,
    *,
    state,
    mask=None,
    implementation: str | None = None,
):
    """Runs one step of `ssm_scan`: constant time, constant memory.

    Args:
        x: Input, `(b, d)`.
        A: What is left of the state, as in `ssm_scan`: a pair of `(d, n)`, or
            real matrices `(d, 2n, 2n)`.
        B: What an input adds to the state, `(d, n)`, a pair.
        C: Output maps, `(d, n)`, a pair.
        D: Skip weights, `(d,)`. `None` for no skip.
        state: `h[t-1]`, `(b, d, 2n)`. It is not changed.
        mask: Boolean, `(b,)`: rows where it is False keep their state and
            give 0.
        implementation: `None` chooses; a name is strict.

    Returns:
        `(y, state)`: `y` `(b, d)` in the dtype of `x`, and `h[t]`
        `(b, d, 2n)` in float32.

    Raises:
        ValueError: If shapes do not fit, `B` or `C` is no pair, or there is
            no such implementation.
        TypeError: If an input is not floating, or `mask` is not boolean.

    Example:

    ```python
    for t in range(100):  # goes on from the example of `ssm_scan`
        y, state = ssm_scan_step(x[:, t], A_bar, B_bar, C, state=state)
    ```
    """
    x, D, state, mask = convert(x, D, state, mask)
    system = convert(*_parts("ssm_scan_step", A, B, C))
    _check("ssm_scan_step", "b", x, system, D, state, mask)
    dtype = accumulation_dtype(x)
    D, state, *system = (cast(v, dtype) for v in (D, state, *system))
    inputs = cast(x, dtype)
    if mask is not None:
        inputs = ops.where(mask[:, None], inputs, 0)
    y, after = dispatch.run(
        "ssm_scan_step", (inputs, *system, state), {}, implementation
    )
    y = y if D is None else y + D * inputs
    if mask is not None:
        y = ops.where(mask[:, None], y, 0)
        after = ops.where(mask[:, None, None], after, state)
    return cast(y, x.dtype), after


def _parts(op, A, B, C):
    """The parts of `A`, `B` and `C`; a dense `A` has no imaginary part."""
    for name, value in (("A", A), ("B", B), ("C", C)):
        tensor = not isinstance(value, tuple)
        if (tensor and name != "A") or (not tensor and len(value) != 2):
            kind = "a tensor" if tensor else f"a tuple of {len(value)}"
            matrices = " or real matrices" if name == "A" else ""
            raise ValueError(
                f"`{op}`: `{name}` must be a pair `(real, imag)` of tensors"
                f"{matrices}. Received: {kind}."
            )
    return *(A if isinstance(A, tuple) else (A, None)), *B, *C


def _check(op, steps, x, system, D, state, mask):
    """Checks what both ops take; `steps` is "b l", or "b" for one step."""
    A, A_imag, B, B_imag, C, C_imag = system
    state_name = "state" if steps == "b" else "initial_state"
    size = 2 * B.shape[-1]
    of_A = {"A[0]": (A, "d n"), "A[1]": (A_imag, "d n")}
    if A_imag is None:
        of_A = {"A": (A, f"d {size} {size}")}
    specs = {
        "x": (x, f"{steps} d"),
        "B[0]": (B, "d n"),
        "B[1]": (B_imag, "d n"),
        "C[0]": (C, "d n"),
        "C[1]": (C_imag, "d n"),
        **of_A,
        "D": (D, "d"),
        state_name: (state, f"b d {size}"),
    }
    check_shapes(op, **specs, mask=(mask, steps))
    check_floating(op, **{name: v for name, (v, _) in specs.items()})
    check_mask(op, mask)


def _output_spec(x, system):
    d, n = system[2].shape
    state = keras.KerasTensor((x.shape[0], d, 2 * n), accumulation_dtype(x))
    return keras.KerasTensor(x.shape, x.dtype), state
