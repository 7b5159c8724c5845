"""The recurrence of Mamba-2 in its dual form, and for a single step."""

import keras
from keras import ops

from keras_ssm.ops import dispatch
from keras_ssm.ops.shapes import check_floating, check_mask, check_shapes
from keras_ssm.ops.steps import find_resets
from keras_ssm.ops.symbolic import symbolic
from keras_ssm.ops.tensors import accumulation_dtype, cast, convert

# Sums over more steps would lose what `kernels/ssd_chunk.py` keeps exact.
LARGEST_CHUNK = 1024


def _ssd_spec(
    x,
    dt,
    A,
    B,
    C,
    D=None,
    *,
    dt_bias=None,
    dt_softplus=False,
    initial_state=None,
    mask=None,
    segment_ids=None,
    reverse=False,
    return_state=False,
    chunk_size=64,
    implementation=None,
):
    tensors = (x, dt, A, B, C, D, dt_bias, initial_state, mask)
    _check("ssd", "b l", *tensors, segment_ids)
    _check_chunk_size(chunk_size)
    y, state = _output_spec(x, B)
    return (y, state) if return_state else y


@symbolic(_ssd_spec)
def ssd(
    x,
    dt,
    A,
    B,
    C,
    D=None,
    *,
    dt_bias=None,
    dt_softplus: bool = False,
    initial_state=None,
    mask=None,
    segment_ids=None,
    reverse: bool = False,
    return_state: bool = False,
    chunk_size: int = 64,
    implementation: str | None = None,
):
    """Runs the recurrence of Mamba-2 over a sequence (state space duality).

        s[t] = dt[t] + dt_bias,  or  softplus(dt[t] + dt_bias)
        h[t] = exp(s[t] * A) * h[t-1] + s[t] * x[t] B[t]'
        y[t] = h[t] C[t] + D * x[t]

    for each head. It is a `selective_scan` in which all `p` channels and all
    `n` states of a head share one decay rate. That makes a chunk of steps a
    few products of matrices, and only the states between chunks take turns:
    for a large state it is much faster.

    Sizes: `b` batch, `l` length, `h` heads, `p` channels of a head, `n` state,
    `g` groups. Heads `h/g * i` to `h/g * (i+1)` share group `i` of B and C.
    Inputs are float32, bfloat16 or float16; state and accumulation are
    float32. Where `x` is float64, so is everything. Gradients flow to every
    floating input and through the returned state; training memory is linear
    in `l`, with one state for each chunk.

    Args:
        x: Input, `(b, l, h, p)`.
        dt: Step sizes, `(b, l, h)`: how far each head moves in time.
        A: Decay rates, negative, `(h,)`.
        B: Input maps, `(b, l, n)` or `(b, l, g, n)`.
        C: Output maps, shaped like `B`.
        D: Skip weights, `(h,)`. `None` for no skip.
        dt_bias: Added to `dt`, `(h,)`.
        dt_softplus: Whether step sizes pass through softplus, after the bias.
        initial_state: `h[-1]`, `(b, h, p, n)`. Zeros if `None`.
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
        chunk_size: Steps of a chunk, at most 1024. It changes the time and
            the memory, not the result. Kernels for a GPU take shorter ones
            where these do not fit.
        implementation: `None` chooses; a name is strict. See
            `keras_ssm.show_implementations()`.

    Returns:
        `y`, `(b, l, h, p)`, in the dtype of `x`; with `return_state`, the
        tuple `(y, state)` with the state `(b, h, p, n)` in float32.

    Raises:
        ValueError: If shapes or the size of chunks do not fit, or there is no
            such implementation.
        TypeError: If an input is not floating, or `mask` is not boolean.
        NotImplementedError: If the named implementation cannot compute this.

    Example:

    ```python
    x = keras.random.normal((2, 100, 4, 16))
    dt = keras.random.uniform((2, 100, 4), 0.001, 0.1)
    A = -keras.ops.arange(1.0, 5.0)
    B = C = keras.random.normal((2, 100, 64))
    y, state = ssd(x, dt, A, B, C, return_state=True)
    ```

    Reference:
        [Dao & Gu, 2024](https://arxiv.org/abs/2405.21060), section 6.
    """
    x, dt, A, B, C, D, dt_bias = convert(x, dt, A, B, C, D, dt_bias)
    state, mask, segment_ids = convert(initial_state, mask, segment_ids)
    tensors = (x, dt, A, B, C, D, dt_bias, state, mask, segment_ids)
    _check("ssd", "b l", *tensors)
    _check_chunk_size(chunk_size)
    dtype = accumulation_dtype(x)
    A, D, dt_bias, state = (cast(v, dtype) for v in (A, D, dt_bias, state))
    if state is None:
        shape = (ops.shape(x)[0], *x.shape[2:], B.shape[-1])
        state = ops.zeros(shape, dtype)
    if 0 in x.shape:
        return (x, state) if return_state else x
    resets = None
    if segment_ids is not None:
        resets = find_resets(segment_ids, mask, reverse)
    B, C = _with_groups(B, 4), _with_groups(C, 4)
    y, state = dispatch.run(
        "ssd",
        (x, dt, A, B, C, D, dt_bias, state, mask, resets),
        {
            "dt_softplus": dt_softplus,
            "reverse": reverse,
            "chunk_size": chunk_size,
        },
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
    *,
    state,
    dt_bias=None,
    dt_softplus=False,
    mask=None,
    implementation=None,
):
    _check("ssd_step", "b", x, dt, A, B, C, D, dt_bias, state, mask)
    return _output_spec(x, B)


@symbolic(_step_spec)
def ssd_step(
    x,
    dt,
    A,
    B,
    C,
    D=None,
    *,
    state,
    dt_bias=None,
    dt_softplus: bool = False,
    mask=None,
    implementation: str | None = None,
):
    """Runs one step of `ssd`: constant time, constant memory.

    Args:
        x: Input, `(b, h, p)`.
        dt: Step sizes, `(b, h)`.
        A: Decay rates, negative, `(h,)`.
        B: Input maps, `(b, n)` or `(b, g, n)`.
        C: Output maps, shaped like `B`.
        D: Skip weights, `(h,)`. `None` for no skip.
        state: `h[t-1]`, `(b, h, p, n)`. It is not changed.
        dt_bias: Added to `dt`, `(h,)`.
        dt_softplus: Whether step sizes pass through softplus, after the bias.
        mask: Boolean, `(b,)`: rows where it is False keep their state and
            give 0.
        implementation: `None` chooses; a name is strict.

    Returns:
        `(y, state)`: `y` `(b, h, p)` in the dtype of `x`, and `h[t]`
        `(b, h, p, n)` in float32.

    Raises:
        ValueError: If shapes do not fit, or there is no such implementation.
        TypeError: If an input is not floating, or `mask` is not boolean.

    Example:

    ```python
    for t in range(100):  # goes on from the example of `ssd`
        y, state = ssd_step(
            x[:, t], dt[:, t], A, B[:, t], C[:, t], state=state
        )
    ```
    """
    x, dt, A, B, C, D, dt_bias = convert(x, dt, A, B, C, D, dt_bias)
    state, mask = convert(state, mask)
    _check("ssd_step", "b", x, dt, A, B, C, D, dt_bias, state, mask)
    dtype = accumulation_dtype(x)
    A, D, dt_bias, state = (cast(v, dtype) for v in (A, D, dt_bias, state))
    B, C = _with_groups(B, 3), _with_groups(C, 3)
    return dispatch.run(
        "ssd_step",
        (x, dt, A, B, C, D, dt_bias, state, mask),
        {"dt_softplus": dt_softplus},
        implementation,
    )


def _check(
    op, steps, x, dt, A, B, C, D, dt_bias, state, mask, segment_ids=None
):
    """Checks what both ops take; `steps` is "b l", or "b" for one step."""
    state_name = "state" if steps == "b" else "initial_state"
    grouped = len(B.shape) == len(steps.split()) + 2
    maps = f"{steps} g n" if grouped else f"{steps} n"
    sizes = check_shapes(
        op,
        x=(x, f"{steps} h p"),
        dt=(dt, f"{steps} h"),
        A=(A, "h"),
        B=(B, maps),
        C=(C, maps),
        D=(D, "h"),
        dt_bias=(dt_bias, "h"),
        mask=(mask, steps),
        segment_ids=(segment_ids, steps),
        **{state_name: (state, "b h p n")},
    )
    if grouped and sizes["h"] and sizes["h"] % (sizes["g"] or 1):
        raise ValueError(
            f"`{op}`: the heads of `x` must be a multiple of the groups of "
            f"`B`. Received: x.shape={tuple(x.shape)}, "
            f"B.shape={tuple(B.shape)}."
        )
    floating = dict(x=x, dt=dt, A=A, B=B, C=C, D=D, dt_bias=dt_bias)
    check_floating(op, **floating, **{state_name: state})
    check_mask(op, mask)


def _check_chunk_size(size):
    known = isinstance(size, int) and not isinstance(size, bool)
    if not known or not 1 <= size <= LARGEST_CHUNK:
        raise ValueError(
            f"`ssd`: `chunk_size` must be an integer from 1 to "
            f"{LARGEST_CHUNK}. Received: chunk_size={size!r}."
        )


def _with_groups(maps, rank):
    """Gives B or C its axis of groups, `(..., g, n)`."""
    return maps if len(maps.shape) == rank else ops.expand_dims(maps, -2)


def _output_spec(x, B):
    """Of a sequence and of a step: y, and the state after it."""
    *_, h, p = x.shape
    shape = (x.shape[0], h, p, B.shape[-1])
    y = keras.KerasTensor(x.shape, x.dtype)
    return y, keras.KerasTensor(shape, accumulation_dtype(x))
