"""The recurrence of Mamba: over a sequence, and for a single step."""

import keras
from keras import ops

from keras_ssm.ops import dispatch
from keras_ssm.ops.shapes import check_floating, check_mask, check_shapes
from keras_ssm.ops.steps import find_resets
from keras_ssm.ops.symbolic import symbolic
from keras_ssm.ops.tensors import accumulation_dtype, cast, convert


def _scan_spec(
    x,
    dt,
    A,
    B,
    C,
    D=None,
    z=None,
    *,
    dt_bias=None,
    dt_softplus=False,
    initial_state=None,
    mask=None,
    segment_ids=None,
    reverse=False,
    return_state=False,
    implementation=None,
):
    tensors = (x, dt, A, B, C, D, z, dt_bias, initial_state, mask)
    _check("selective_scan", "b l", *tensors, segment_ids)
    y = keras.KerasTensor(x.shape, x.dtype)
    state = keras.KerasTensor((x.shape[0], *A.shape), accumulation_dtype(x))
    return (y, state) if return_state else y


@symbolic(_scan_spec)
def selective_scan(
    x,
    dt,
    A,
    B,
    C,
    D=None,
    z=None,
    *,
    dt_bias=None,
    dt_softplus: bool = False,
    initial_state=None,
    mask=None,
    segment_ids=None,
    reverse: bool = False,
    return_state: bool = False,
    implementation: str | None = None,
):
    """Runs the selective state space recurrence of Mamba over a sequence.

        s[t] = dt[t] + dt_bias,  or  softplus(dt[t] + dt_bias)
        h[t] = exp(s[t] * A) * h[t-1] + s[t] * B[t] * x[t]
        y[t] = (sum_n C[t] * h[t] + D * x[t]) * silu(z[t])

    Sizes: `b` batch, `l` length, `d` channels, `n` state, `g` groups. Channels
    `d/g * i` to `d/g * (i+1)` share group `i` of B and C. Inputs are float32,
    bfloat16 or float16; state and accumulation are float32. Where `x` is
    float64, so is everything. Gradients flow to every floating input and
    through the returned state; training memory is linear in `l` and never
    holds `(b, l, d, n)`.

    Args:
        x: Input, `(b, l, d)`.
        dt: Step sizes, `(b, l, d)`: how far each channel moves in time.
        A: Decay rates, negative, `(d, n)`.
        B: Input maps, `(b, l, n)` or `(b, l, g, n)`.
        C: Output maps, shaped like `B`.
        D: Skip weights, `(d,)`. `None` for no skip.
        z: Gate, `(b, l, d)`. `None` for no gate.
        dt_bias: Added to `dt`, `(d,)`.
        dt_softplus: Whether step sizes pass through softplus, after the bias.
        initial_state: `h[-1]`, `(b, d, n)`. Zeros if `None`.
        mask: Boolean, `(b, l)`. A masked step is skipped: the state passes
            through it, `y` is 0 there, and its inputs are never used, so that
            even NaN there changes no value and no gradient.
        segment_ids: Integers, `(b, l)`, for several sequences packed into one
            row. The state starts anew where the id differs from that of the
            previous unmasked step; the first step continues
            `initial_state`.
        reverse: Whether to scan from the end. `y` stays in the order of `x`,
            and the state is that after step 0.
        return_state: Whether to return the state after the last step, too.
        implementation: `None` chooses; a name is strict. See
            `keras_ssm.show_implementations()`.

    Returns:
        `y`, `(b, l, d)`, in the dtype of `x`; with `return_state`, the tuple
        `(y, state)` with the state `(b, d, n)` in float32.

    Raises:
        ValueError: If shapes do not fit, or there is no such implementation.
        TypeError: If an input is not floating, or `mask` is not boolean.
        NotImplementedError: If the named implementation cannot compute this.

    Example:

    ```python
    x = keras.random.normal((2, 100, 8))
    dt = keras.random.uniform((2, 100, 8), 0.001, 0.1)
    A = -keras.ops.ones((8, 16))
    B = C = keras.random.normal((2, 100, 16))
    y, state = selective_scan(x, dt, A, B, C, return_state=True)
    ```

    Reference:
        [Gu & Dao, 2023](https://arxiv.org/abs/2312.00752), Algorithm 2 and
        section 3.3, with the Euler rule for B of the released code.
    """
    x, dt, A, B, C, D, z, dt_bias = convert(x, dt, A, B, C, D, z, dt_bias)
    state, mask, segment_ids = convert(initial_state, mask, segment_ids)
    tensors = (x, dt, A, B, C, D, z, dt_bias, state, mask, segment_ids)
    _check("selective_scan", "b l", *tensors)
    dtype = accumulation_dtype(x)
    A, D, dt_bias, state = (cast(v, dtype) for v in (A, D, dt_bias, state))
    if state is None:
        state = ops.zeros((ops.shape(x)[0], *A.shape), dtype)
    if 0 in x.shape:
        return (x, state) if return_state else x
    resets = None
    if segment_ids is not None:
        resets = find_resets(segment_ids, mask, reverse)
    B, C = _with_groups(B, 4), _with_groups(C, 4)
    y, state = dispatch.run(
        "selective_scan",
        (x, dt, A, B, C, D, z, dt_bias, state, mask, resets),
        {"dt_softplus": dt_softplus, "reverse": reverse},
        implementation,
    )
    return (y, state) if return_state else y


def _step_spec(
    x,
    dt,
    A,
    B,
    C,
    D=None,
    z=None,
    *,
    state,
    dt_bias=None,
    dt_softplus=False,
    mask=None,
    implementation=None,
):
    tensors = (x, dt, A, B, C, D, z, dt_bias, state, mask)
    _check("selective_scan_step", "b", *tensors)
    dtype = accumulation_dtype(x)
    return (
        keras.KerasTensor(x.shape, x.dtype),
        keras.KerasTensor((x.shape[0], *A.shape), dtype),
    )


@symbolic(_step_spec)
def selective_scan_step(
    x,
    dt,
    A,
    B,
    C,
    D=None,
    z=None,
    *,
    state,
    dt_bias=None,
    dt_softplus: bool = False,
    mask=None,
    implementation: str | None = None,
):
    """Runs one step of `selective_scan`: constant time, constant memory.

    Args:
        x: Input, `(b, d)`.
        dt: Step sizes, `(b, d)`.
        A: Decay rates, negative, `(d, n)`.
        B: Input maps, `(b, n)` or `(b, g, n)`.
        C: Output maps, shaped like `B`.
        D: Skip weights, `(d,)`. `None` for no skip.
        z: Gate, `(b, d)`. `None` for no gate.
        state: `h[t-1]`, `(b, d, n)`. It is not changed.
        dt_bias: Added to `dt`, `(d,)`.
        dt_softplus: Whether step sizes pass through softplus, after the bias.
        mask: Boolean, `(b,)`: rows where it is False keep their state and
            give 0.
        implementation: `None` chooses; a name is strict.

    Returns:
        `(y, state)`: `y` `(b, d)` in the dtype of `x`, and `h[t]`
        `(b, d, n)` in float32.

    Raises:
        ValueError: If shapes do not fit, or there is no such implementation.
        TypeError: If an input is not floating, or `mask` is not boolean.

    Example:

    ```python
    for t in range(100):  # goes on from the example of `selective_scan`
        y, state = selective_scan_step(
            x[:, t], dt[:, t], A, B[:, t], C[:, t], state=state
        )
    ```
    """
    x, dt, A, B, C, D, z, dt_bias = convert(x, dt, A, B, C, D, z, dt_bias)
    state, mask = convert(state, mask)
    tensors = (x, dt, A, B, C, D, z, dt_bias, state, mask)
    _check("selective_scan_step", "b", *tensors)
    dtype = accumulation_dtype(x)
    A, D, dt_bias, state = (cast(v, dtype) for v in (A, D, dt_bias, state))
    B, C = _with_groups(B, 3), _with_groups(C, 3)
    return dispatch.run(
        "selective_scan_step",
        (x, dt, A, B, C, D, z, dt_bias, state, mask),
        {"dt_softplus": dt_softplus},
        implementation,
    )


def _check(
    op, steps, x, dt, A, B, C, D, z, dt_bias, state, mask, segment_ids=None
):
    """Checks what both ops take; `steps` is "b l", or "b" for one step."""
    state_name = "state" if steps == "b" else "initial_state"
    grouped = len(B.shape) == len(steps.split()) + 2
    maps = f"{steps} g n" if grouped else f"{steps} n"
    sizes = check_shapes(
        op,
        x=(x, f"{steps} d"),
        dt=(dt, f"{steps} d"),
        A=(A, "d n"),
        B=(B, maps),
        C=(C, maps),
        D=(D, "d"),
        z=(z, f"{steps} d"),
        dt_bias=(dt_bias, "d"),
        mask=(mask, steps),
        segment_ids=(segment_ids, steps),
        **{state_name: (state, "b d n")},
    )
    if grouped and sizes["d"] and sizes["d"] % (sizes["g"] or 1):
        raise ValueError(
            f"`{op}`: the channels of `x` must be a multiple of the groups of "
            f"`B`. Received: x.shape={tuple(x.shape)}, "
            f"B.shape={tuple(B.shape)}."
        )
    floating = dict(x=x, dt=dt, A=A, B=B, C=C, D=D, z=z, dt_bias=dt_bias)
    check_floating(op, **floating, **{state_name: state})
    check_mask(op, mask)


def _with_groups(maps, rank):
    """Gives B or C its axis of groups, `(..., g, n)`."""
    return maps if len(maps.shape) == rank else ops.expand_dims(maps, -2)
