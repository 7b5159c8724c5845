"""The short causal convolution before a selective scan, channel by channel."""

import keras
from keras import ops

from keras_ssm.ops import dispatch
from keras_ssm.ops.shapes import check_floating, check_mask, check_shapes
from keras_ssm.ops.steps import Packing, find_resets, take_steps
from keras_ssm.ops.symbolic import symbolic
from keras_ssm.ops.tensors import accumulation_dtype, cast, convert


def _conv_spec(
    x,
    weight,
    bias=None,
    *,
    activation=None,
    initial_state=None,
    mask=None,
    segment_ids=None,
    reverse=False,
    return_state=False,
    implementation=None,
):
    tensors = (x, weight, bias, activation, initial_state, mask, segment_ids)
    _check("causal_conv1d", "b l", *tensors)
    y = keras.KerasTensor(x.shape, x.dtype)
    state = keras.KerasTensor(
        (x.shape[0], weight.shape[0] - 1, x.shape[-1]), accumulation_dtype(x)
    )
    return (y, state) if return_state else y


@symbolic(_conv_spec)
def causal_conv1d(
    x,
    weight,
    bias=None,
    *,
    activation: str | None = None,
    initial_state=None,
    mask=None,
    segment_ids=None,
    reverse: bool = False,
    return_state: bool = False,
    implementation: str | None = None,
):
    """Convolves each channel with the last k inputs.

        y[t] = activation(bias + sum_j weight[k-1-j] * x[t-j]),  j = 0 .. k-1

    Sizes: `b` batch, `l` length, `d` channels, `k` width. Inputs before the
    first are those of the initial state. Accumulates in float32, in float64
    where `x` is. Gradients flow to every floating input and through the
    returned state.

    Args:
        x: Input, `(b, l, d)`.
        weight: Taps, `(k, d)`; the last weighs the current input.
        bias: `(d,)`. `None` for none.
        activation: `None` or `"silu"`.
        initial_state: The `k-1` inputs before the first in the order of the
            scan, oldest first, `(b, k-1, d)`. Zeros if `None`.
        mask: Boolean, `(b, l)`. The taps are the last k unmasked inputs; `y`
            is 0 at masked steps, whose inputs are never used.
        segment_ids: Integers, `(b, l)`. Taps of another segment count as 0. A
            segment starts where the id differs from that of the previous
            unmasked step; the first step continues `initial_state`.
        reverse: Whether to run from the end: `y[t]` sees x[t] to x[t+k-1].
        return_state: Whether to return the last k-1 unmasked inputs, too.
        implementation: `None` chooses; a name is strict. See
            `keras_ssm.show_implementations()`.

    Returns:
        `y`, `(b, l, d)`, in the dtype of `x`; with `return_state`, the tuple
        `(y, state)` with the state `(b, k-1, d)` in float32, where inputs
        from before the last segment are 0.

    Raises:
        ValueError: If shapes do not fit, the activation is unknown, or there
            is no such implementation.
        TypeError: If an input is not floating, or `mask` is not boolean.

    Example:

    ```python
    x = keras.random.normal((2, 100, 8))
    weight = keras.random.normal((4, 8))
    y, state = causal_conv1d(x, weight, activation="silu", return_state=True)
    ```
    """
    x, weight, bias = convert(x, weight, bias)
    state, mask, segment_ids = convert(initial_state, mask, segment_ids)
    tensors = (x, weight, bias, activation, state, mask, segment_ids)
    _check("causal_conv1d", "b l", *tensors)
    dtype = accumulation_dtype(x)
    weight, bias, state = (cast(v, dtype) for v in (weight, bias, state))
    k, d = weight.shape
    if state is None:
        state = ops.zeros((ops.shape(x)[0], k - 1, d), dtype)
    if 0 in x.shape:
        return (x, state) if return_state else x
    packing = None
    if mask is not None:
        # Masked inputs are selected away and moved behind the others, so that
        # implementations see rows without gaps.
        packing = Packing(mask, reverse)
        x = packing.pack(ops.where(ops.expand_dims(mask, -1), x, 0))
        if segment_ids is not None:
            segment_ids = packing.pack(segment_ids)
    resets = None
    if segment_ids is not None:
        resets = find_resets(segment_ids, reverse=reverse)
    y = dispatch.run(
        "causal_conv1d",
        (x, weight, bias, state, resets),
        {"activation": activation, "reverse": reverse},
        implementation,
    )
    if mask is not None:
        y = ops.where(ops.expand_dims(mask, -1), packing.unpack(y), 0)
    if not return_state:
        return y
    return y, _last_inputs(cast(x, dtype), state, packing, resets, reverse)


def _last_inputs(x, state, packing, resets, reverse):
    """The last k-1 inputs in the order of the scan, `(b, k-1, d)`."""
    taps = state.shape[1]
    if taps == 0:
        return state
    # Of a long sequence, only its end is copied; but the end of one with a
    # symbolic length would keep a tracer from lengths below `taps`.
    concrete = x.shape[1] is None or isinstance(x.shape[1], int)
    if packing is None and resets is None and concrete:
        x = x[:, :taps] if reverse else x[:, -taps:]
    if reverse:
        x = ops.flip(x, axis=1)
        resets = None if resets is None else ops.flip(resets, axis=1)

    def last(history):
        if packing is None:
            return history[:, -taps:]
        steps = ops.expand_dims(packing.count, 1) + ops.arange(taps)
        return take_steps(history, steps)

    inputs = last(ops.concatenate([state, x], axis=1))
    inputs = ops.reshape(inputs, ops.shape(state))  # its shape is known
    if resets is None:
        return inputs
    # The segments of a row, numbered; the initial state belongs to the first.
    segment = ops.cumsum(ops.cast(resets, "int32"), axis=1)
    # Not `ops.pad`: it names a new object each time, and `torch.compile`
    # compiles anew for each name.
    before = ops.zeros_like(state[..., 0], dtype="int32")
    segment = last(ops.concatenate([before, segment], axis=1))
    same = ops.equal(segment, segment[:, -1:])
    return ops.where(ops.expand_dims(same, -1), inputs, 0)


def _step_spec(
    x,
    weight,
    bias=None,
    *,
    state,
    activation=None,
    mask=None,
    implementation=None,
):
    _check("causal_conv1d_step", "b", x, weight, bias, activation, state, mask)
    return (
        keras.KerasTensor(x.shape, x.dtype),
        keras.KerasTensor(state.shape, accumulation_dtype(x)),
    )


@symbolic(_step_spec)
def causal_conv1d_step(
    x,
    weight,
    bias=None,
    *,
    state,
    activation: str | None = None,
    mask=None,
    implementation: str | None = None,
):
    """Runs one step of `causal_conv1d`: constant time, constant memory.

    Args:
        x: Input, `(b, d)`.
        weight: Taps, `(k, d)`; the last weighs the current input.
        bias: `(d,)`. `None` for none.
        state: The k-1 inputs before, oldest first, `(b, k-1, d)`. It is not
            changed.
        activation: `None` or `"silu"`.
        mask: Boolean, `(b,)`: rows where it is False keep their state and
            give 0.
        implementation: `None` chooses; a name is strict.

    Returns:
        `(y, state)`: `y` `(b, d)` in the dtype of `x`, and the last k-1
        inputs, `(b, k-1, d)`, in float32.

    Raises:
        ValueError: If shapes do not fit, the activation is unknown, or there
            is no such implementation.
        TypeError: If an input is not floating, or `mask` is not boolean.

    Example:

    ```python
    for t in range(100):  # goes on from the example of `causal_conv1d`
        y, state = causal_conv1d_step(x[:, t], weight, state=state)
    ```
    """
    x, weight, bias, state, mask = convert(x, weight, bias, state, mask)
    _check("causal_conv1d_step", "b", x, weight, bias, activation, state, mask)
    dtype = accumulation_dtype(x)
    weight, bias, state = (cast(v, dtype) for v in (weight, bias, state))
    return dispatch.run(
        "causal_conv1d_step",
        (x, weight, bias, state, mask),
        {"activation": activation},
        implementation,
    )


def _check(
    op, steps, x, weight, bias, activation, state, mask, segment_ids=None
):
    """Checks what both ops take; `steps` is "b l", or "b" for one step."""
    state_name = "state" if steps == "b" else "initial_state"
    check_shapes(
        op,
        x=(x, f"{steps} d"),
        weight=(weight, "k d"),
        bias=(bias, "d"),
        mask=(mask, steps),
        segment_ids=(segment_ids, steps),
        **{state_name: (state, f"b {max(weight.shape[0] - 1, 0)} d")},
    )
    if weight.shape[0] < 1:
        raise ValueError(
            f"`{op}`: `weight` must have at least one tap. "
            f"Received: weight.shape={tuple(weight.shape)}."
        )
    if activation not in (None, "silu"):
        raise ValueError(
            f'`{op}`: `activation` must be None or "silu". '
            f"Received: activation={activation!r}."
        )
    check_floating(op, x=x, weight=weight, bias=bias, **{state_name: state})
    check_mask(op, mask)
