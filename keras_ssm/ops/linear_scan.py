"""The diagonal linear recurrence behind S5, LRU and RG-LRU."""

import keras
from keras import ops

from keras_ssm.ops import dispatch
from keras_ssm.ops.shapes import check_floating, check_mask, check_shapes
from keras_ssm.ops.steps import find_resets
from keras_ssm.ops.symbolic import symbolic
from keras_ssm.ops.tensors import accumulation_dtype, cast, convert


def _scan_spec(
    a,
    x,
    *,
    initial_state=None,
    mask=None,
    segment_ids=None,
    reverse=False,
    return_state=False,
    implementation=None,
):
    numbers = _parts("linear_scan", a, x, initial_state)
    _check("linear_scan", "b l", numbers, mask, segment_ids)
    y, state = _output_spec(numbers)
    return (y, state) if return_state else y


@symbolic(_scan_spec)
def linear_scan(
    a,
    x,
    *,
    initial_state=None,
    mask=None,
    segment_ids=None,
    reverse: bool = False,
    return_state: bool = False,
    implementation: str | None = None,
):
    """Runs a linear recurrence over a sequence, channel by channel.

        h[t] = a[t] * h[t-1] + x[t]
        y[t] = h[t]

    Sizes: `b` batch, `l` length, `d` channels. A complex number is a pair
    `(real, imag)` of real tensors, as in `keras.ops.fft`: where `x` is one, so
    are the state and the output, and `a` may be. A complex `a` needs a complex
    `x`. Inputs are float32, bfloat16 or float16; the state is float32. Where
    `x` is float64, so is everything. Gradients flow to every floating input
    and through the returned state; that of a pair is the pair of the gradients
    of its parts. Training memory is that of `a` and of the output.

    Args:
        a: What is left of the state after a step, `(b, l, d)`, or `(d,)` if it
            is the same at all steps; a tensor or a pair.
        x: Input, `(b, l, d)`; a tensor or a pair.
        initial_state: `h[-1]`, `(b, d)`; a pair where `x` is. Zeros if `None`.
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
        `(y, state)` with the state `(b, d)` in float32. Both are pairs where
        `x` is.

    Raises:
        ValueError: If shapes do not fit, something is complex that must not
            be, or there is no such implementation.
        TypeError: If an input is not floating, or `mask` is not boolean.
        NotImplementedError: If the named implementation cannot compute this.

    Example:

    ```python
    x = keras.random.normal((2, 100, 8))
    a = keras.random.uniform((2, 100, 8), 0.9, 0.999)
    y, state = linear_scan(a, x, return_state=True)

    # An oscillation that fades away, its frequency another in each channel.
    frequency = keras.ops.arange(8, dtype="float32")
    spin = 0.99 * keras.ops.cos(frequency), 0.99 * keras.ops.sin(frequency)
    real, imag = linear_scan(spin, (x, keras.ops.zeros_like(x)))
    ```

    Reference:
        [Smith et al., 2022](https://arxiv.org/abs/2208.04933) (S5),
        [Orvieto et al., 2023](https://arxiv.org/abs/2303.06349) (LRU) and
        [De et al., 2024](https://arxiv.org/abs/2402.19427) (RG-LRU).
    """
    numbers = convert(*_parts("linear_scan", a, x, initial_state))
    mask, segment_ids = convert(mask, segment_ids)
    _check("linear_scan", "b l", numbers, mask, segment_ids)
    a, a_imag, x, x_imag, *state = numbers
    dtype = accumulation_dtype(x)
    if state[0] is None:
        # Each its own: PyTorch's compiler takes no tensor twice.
        shape = ops.shape(x)[0], x.shape[-1]
        state = [
            None if part is None else ops.zeros(shape, dtype)
            for part in (x, x_imag)
        ]
    state = [cast(v, dtype) for v in state]
    if 0 in x.shape:
        outputs = [v for v in (x, x_imag, *state) if v is not None]
    else:
        resets = None
        if segment_ids is not None:
            resets = find_resets(segment_ids, mask, reverse)
        outputs = dispatch.run(
            "linear_scan",
            (x, x_imag, a, a_imag, *state, mask, resets),
            {"reverse": reverse},
            implementation,
        )
    y, state = _outputs(outputs)
    return (y, state) if return_state else y


def _step_spec(a, x, state, *, mask=None, implementation=None):
    numbers = _parts("linear_scan_step", a, x, state)
    _check("linear_scan_step", "b", numbers, mask)
    return _output_spec(numbers)


@symbolic(_step_spec)
def linear_scan_step(
    a, x, state, *, mask=None, implementation: str | None = None
):
    """Runs one step of `linear_scan`: constant time, constant memory.

    Args:
        a: What is left of the state, `(b, d)` or `(d,)`; a tensor or a pair.
        x: Input, `(b, d)`; a tensor or a pair.
        state: `h[t-1]`, `(b, d)`; a pair where `x` is. It is not changed.
        mask: Boolean, `(b,)`: rows where it is False keep their state and
            give 0.
        implementation: `None` chooses; a name is strict.

    Returns:
        `(y, state)`: `y` `(b, d)` in the dtype of `x`, and `h[t]` `(b, d)` in
        float32. Both are pairs where `x` is.

    Raises:
        ValueError: If shapes do not fit, something is complex that must not
            be, or there is no such implementation.
        TypeError: If an input is not floating, or `mask` is not boolean.

    Example:

    ```python
    for t in range(100):  # goes on from the example of `linear_scan`
        y, state = linear_scan_step(a[:, t], x[:, t], state)
    ```
    """
    numbers = convert(*_parts("linear_scan_step", a, x, state))
    (mask,) = convert(mask)
    _check("linear_scan_step", "b", numbers, mask)
    a, a_imag, x, x_imag, *state = numbers
    state = [cast(v, accumulation_dtype(x)) for v in state]
    outputs = dispatch.run(
        "linear_scan_step",
        (x, x_imag, a, a_imag, *state, mask),
        {},
        implementation,
    )
    return _outputs(outputs)


def _parts(op, a, x, state):
    """The real and imaginary parts of each, `None` where there is none."""
    name = "state" if op.endswith("_step") else "initial_state"
    parts = []
    for title, value in (("a", a), ("x", x), (name, state)):
        pair = value if isinstance(value, tuple) else (value, None)
        if len(pair) != 2:
            raise ValueError(
                f"`{op}`: `{title}` must be a tensor, or the pair "
                f"`(real, imag)` of a complex one. "
                f"Received: a tuple of {len(pair)}."
            )
        parts += pair
    _, a_imag, _, x_imag, real, imag = parts
    if a_imag is not None and x_imag is None:
        raise ValueError(
            f"`{op}`: a complex `a` needs a complex `x`. Received: a pair "
            f"`a` and a tensor `x`; `(x, keras.ops.zeros_like(x))` makes a "
            f"pair of it."
        )
    if real is not None and (imag is None) != (x_imag is None):
        raise ValueError(
            f"`{op}`: `{name}` must be a pair `(real, imag)` where `x` is, "
            f"and only there. Received: {_kind(x_imag)} `x` and "
            f"{_kind(imag)} `{name}`."
        )
    return tuple(parts)


def _kind(imag):
    return "a tensor" if imag is None else "a pair"


def _check(op, steps, numbers, mask, segment_ids=None):
    """Checks what both ops take; `steps` is "b l", or "b" for one step."""
    a, a_imag, x, x_imag, state, state_imag = numbers
    of_a = "d" if len(a.shape) == 1 else f"{steps} d"
    state_name = "state" if steps == "b" else "initial_state"
    specs = {
        **_named("x", x, x_imag, f"{steps} d"),
        **_named("a", a, a_imag, of_a),
        **_named(state_name, state, state_imag, "b d"),
    }
    others = dict(mask=(mask, steps), segment_ids=(segment_ids, steps))
    check_shapes(op, **specs, **others)
    check_floating(op, **{name: v for name, (v, _) in specs.items()})
    check_mask(op, mask)


def _named(name, real, imag, spec):
    """The parts as messages name them."""
    if imag is None:
        return {name: (real, spec)}
    return {f"{name}[0]": (real, spec), f"{name}[1]": (imag, spec)}


def _output_spec(numbers):
    _, _, x, x_imag, _, _ = numbers
    y = keras.KerasTensor(x.shape, x.dtype)
    state = keras.KerasTensor((x.shape[0], x.shape[-1]), accumulation_dtype(x))
    if x_imag is None:
        return y, state
    # Each output of a functional model is a tensor of its own.
    y_imag = keras.KerasTensor(y.shape, y.dtype)
    state_imag = keras.KerasTensor(state.shape, state.dtype)
    return (y, y_imag), (state, state_imag)


def _outputs(outputs):
    """`(y, state)`, as pairs where there are imaginary parts."""
    if len(outputs) == 2:
        return tuple(outputs)
    y, y_imag, state, state_imag = outputs
    return (y, y_imag), (state, state_imag)
