"""The recurrence of Mamba-3, on `ssd`, and for a single step."""

import keras
from keras import ops

from keras_ssm.ops import dispatch
from keras_ssm.ops.rotary import sum_angles, turn_pairs
from keras_ssm.ops.shapes import check_floating, check_mask, check_shapes
from keras_ssm.ops.ssd import ssd
from keras_ssm.ops.steps import find_resets, next_steps, take_steps
from keras_ssm.ops.symbolic import symbolic
from keras_ssm.ops.tensors import accumulation_dtype, cast, convert

# Exponents of `ssd`, whose inputs are divided by them: one that leaves the
# state as it is, and one that leaves nothing of it.
NO_DECAY, FORGET = 2.0**-52, 2048.0


def _scan_spec(
    x,
    dt,
    A,
    B,
    C,
    D=None,
    *,
    lam,
    theta,
    initial_state=None,
    mask=None,
    segment_ids=None,
    reverse=False,
    return_state=False,
    chunk_size=64,
    implementation=None,
):
    tensors = (x, dt, A, B, C, D, lam, theta, initial_state, mask)
    _check("mamba3_scan", "b l", *tensors, segment_ids)
    y, state = _output_spec(x, B)
    return (y, state) if return_state else y


@symbolic(_scan_spec)
def mamba3_scan(
    x,
    dt,
    A,
    B,
    C,
    D=None,
    *,
    lam,
    theta,
    initial_state=None,
    mask=None,
    segment_ids=None,
    reverse: bool = False,
    return_state: bool = False,
    chunk_size: int = 64,
    implementation: str | None = None,
):
    """Runs the recurrence of Mamba-3 over a sequence.

        v[t] = sum_r x[t,r] B[t,r]'
        h[t] = exp(dt[t] (A[t] - i theta[t])) (h[t-1] + past[t] v[t-1])
               + lam[t] dt[t] v[t],    past[t] = (1 - lam[t]) dt[t]
        y[t,r] = h[t] C[t,r] + D x[t,r]

    for each head. It is that of `ssd` with three changes: an input is spread
    over its own step and the next one (the trapezoidal rule, where `lam` is
    1/2), the state is complex, and it has `r` inputs and outputs at a time
    (MIMO; with one, SISO). Numbers `j` and `a + j` of the `n` of a state are
    the parts of a complex one, for each of the `a` angles of `theta`; those
    behind the first `2a` are real. C reads out real parts: `Re(h conj(C))`.

    Sizes: `b` batch, `l` length, `r` rank, `h` heads, `p` channels of a head,
    `n` state, `a` angles. Inputs are float32, bfloat16 or float16; the state
    and all sums are float32. Where `x` is float64, so is everything. Gradients
    flow to every floating input and through the returned state.

    Ranks are steps of a single `ssd`, so that it takes `r` times as long.
    Training memory is that of B and C in float32. The next step reaches an
    output by rounding errors.

    Args:
        x: Inputs, `(b, l, r, h, p)`.
        dt: Step sizes, positive, `(b, l, h)`.
        A: Decay rates, negative, `(b, l, h)`.
        B: Input maps, `(b, l, r, h, n)`.
        C: Output maps, `(b, l, r, h, n)`.
        D: Skip weights, `(h,)`. `None` for no skip.
        lam: Which part of a step the present input gets, in [0, 1],
            `(b, l, h)`; the previous one gets the rest.
        theta: How fast the state turns, `(b, l, a)`, with `2a <= n`.
        initial_state: A tuple of what was before the first step: the state
            `(b, h, p, n)`, x `(b, r, h, p)` and B `(b, r, h, n)`. Zeros if
            `None`.
        mask: Boolean, `(b, l)`. A masked step is skipped: the state passes
            through it, `y` is 0 there, and its inputs are never used, so that
            even NaN there changes no value and no gradient. The previous
            input is that of the previous unmasked step.
        segment_ids: Integers, `(b, l)`, for several sequences packed into one
            row. The state starts anew where the id differs from that of the
            previous unmasked step; the first step continues `initial_state`.
        reverse: Whether to scan from the end. `y` stays in the order of `x`,
            and the state is that after step 0.
        return_state: Whether to return the state after the last step, too.
        chunk_size: Steps of a chunk of `ssd`, each of one rank. It changes the
            time and the memory, not the result.
        implementation: Of `ssd`. `None` chooses; a name is strict. See
            `keras_ssm.show_implementations()`.

    Returns:
        `y`, `(b, l, r, h, p)`, in the dtype of `x`; with `return_state`, the
        tuple `(y, state)` with a state like `initial_state`, in float32.

    Raises:
        ValueError: If shapes or the size of chunks do not fit, or there is no
            such implementation.
        TypeError: If an input is not floating, or `mask` is not boolean.
        NotImplementedError: If the named implementation cannot compute this.

    Example:

    ```python
    x = keras.random.normal((2, 100, 1, 4, 16))
    dt = keras.random.uniform((2, 100, 4), 0.001, 0.1)
    A = -keras.random.uniform((2, 100, 4), 0.5, 2.0)
    B = C = keras.random.normal((2, 100, 1, 4, 64))
    lam = keras.random.uniform((2, 100, 4))
    theta = keras.random.uniform((2, 100, 16), -3.0, 3.0)
    options = dict(lam=lam, theta=theta, return_state=True)
    y, state = mamba3_scan(x, dt, A, B, C, **options)
    ```

    Reference:
        [Lahoti et al., 2026](https://arxiv.org/abs/2603.15569), section 3.
    """
    x, dt, A, B, C, D, lam, theta = convert(x, dt, A, B, C, D, lam, theta)
    mask, segment_ids = convert(mask, segment_ids)
    if initial_state is not None:
        initial_state = convert(*initial_state)
    tensors = (x, dt, A, B, C, D, lam, theta, initial_state, mask)
    _check("mamba3_scan", "b l", *tensors, segment_ids)
    state = _initial_state(x, B, initial_state)
    if 0 in x.shape:
        return (x, state) if return_state else x
    given = (x, dt, A, B, C, lam, theta, mask, segment_ids)
    if reverse:
        given = (None if v is None else ops.flip(v, axis=1) for v in given)
    *inputs, mask, segment_ids = given
    steps = _Steps(*inputs, mask, segment_ids, accumulation_dtype(x))
    y, h = steps.scan(state, chunk_size, implementation)
    y = _left(y, steps.x, D, x.dtype)
    y = ops.flip(y, axis=1) if reverse else y
    return (
        (y, (steps.turned_back(h), *steps.last(state))) if return_state else y
    )


class _Steps:
    """The steps of a sequence, in the order of time.

    Its arguments are those of `mamba3_scan`, and the dtype of the state.
    """

    def __init__(self, x, dt, A, B, C, lam, theta, mask, segment_ids, dtype):
        given = (x, dt, A, B, C, lam, theta)
        x, dt, A, B, C, lam, theta = _entered(given, mask, dtype)
        self.x, self._B, self._C, self._mask = x, B, C, mask
        angle = sum_angles(_angles(dt, theta))
        angle = ops.expand_dims(angle, 2)  # (b, l, 1, h, a), of all ranks
        self._cos, self._sin = dispatch.cos(angle), dispatch.sin(angle)
        self._decay, self._present = -dt * A, lam * dt
        if segment_ids is not None:
            resets = ops.expand_dims(find_resets(segment_ids, mask), -1)
            self._decay = ops.where(resets, FORGET, self._decay)
        self._later, self._first = next_steps((1 - lam) * dt, mask)

    def scan(self, state, chunk_size, implementation):
        """`y` without a skip, and the state behind the last step, turned."""
        b, l, r = ops.shape(self.x)[:3]

        def flat(v):
            return ops.reshape(v, (b, l * r, *v.shape[3:]))

        h, x, B = state
        h = h + ops.expand_dims(self._first, (2, 3)) * _outer(x, B)
        # Of a step, the first rank brings all of the decay.
        decay = ops.where(self._decay > NO_DECAY, self._decay, NO_DECAY)
        further = ops.reshape(ops.arange(r) > 0, (r, 1))
        decay = ops.where(further, NO_DECAY, ops.expand_dims(decay, 2))
        # An input gets both of its weights at once; `ssd` multiplies it with
        # what it is divided by.
        weight = ops.expand_dims(self._present + self._later, 2) / decay
        y, h = ssd(
            flat(self.x * ops.expand_dims(weight, -1)),
            flat(decay),
            ops.full((decay.shape[-1],), -1.0, h.dtype),
            flat(turn_pairs(self._B, self._cos, self._sin)),
            flat(turn_pairs(self._C, self._cos, self._sin)),
            initial_state=h,
            return_state=True,
            chunk_size=chunk_size,
            implementation=implementation,
        )
        return self._corrected(ops.reshape(y, ops.shape(self.x))), h

    def _corrected(self, y):
        """`y` with the weights that inputs have at their own steps.

        A rank has seen the ranks up to itself with the weight of the next step
        too much, and the others not yet.
        """
        r = self.x.shape[2]
        rank = ops.reshape(ops.arange(r), (r, 1))
        present, later = (
            ops.expand_dims(v, 2) for v in (self._present, self._later)
        )
        for i in range(r):
            x, B = self.x[:, :, i : i + 1], self._B[:, :, i : i + 1]
            weight = ops.where(rank >= i, -later, present)
            weight = weight * ops.sum(self._C * B, axis=-1)  # (b, l, r, h)
            y = y + ops.expand_dims(weight, -1) * x
        return y

    def turned_back(self, h):
        """The state of `ssd` behind the last step, as that of the op."""
        ends = (v[:, -1, 0] for v in (self._cos, self._sin))
        cos, sin = (ops.expand_dims(v, 2) for v in ends)
        return turn_pairs(h, cos, -sin)

    def last(self, state):
        """x and B of the last unmasked step, or those before the first."""
        if self._mask is None:
            return self.x[:, -1], self._B[:, -1]
        live = ops.cast(self._mask, "int32")
        index = ops.argmax(ops.flip(live, axis=1), axis=1)
        index = ops.expand_dims(ops.shape(live)[1] - 1 - index, 1)
        any_live = ops.max(live, axis=1) > 0
        return tuple(
            ops.where(_spread(any_live, old), take_steps(v, index)[:, 0], old)
            for v, old in zip((self.x, self._B), state[1:], strict=True)
        )


def _step_spec(x, dt, A, B, C, D=None, *, lam, theta, state, mask=None):
    tensors = (x, dt, A, B, C, D, lam, theta, state, mask)
    _check("mamba3_scan_step", "b", *tensors)
    return _output_spec(x, B)


@symbolic(_step_spec)
def mamba3_scan_step(x, dt, A, B, C, D=None, *, lam, theta, state, mask=None):
    """Runs one step of `mamba3_scan`: constant time, constant memory.

    Args:
        x: Inputs, `(b, r, h, p)`.
        dt: Step sizes, positive, `(b, h)`.
        A: Decay rates, negative, `(b, h)`.
        B: Input maps, `(b, r, h, n)`.
        C: Output maps, `(b, r, h, n)`.
        D: Skip weights, `(h,)`. `None` for no skip.
        lam: Which part of the step the present input gets, `(b, h)`.
        theta: How fast the state turns, `(b, a)`.
        state: A tuple of what was before the step: the state `(b, h, p, n)`,
            x `(b, r, h, p)` and B `(b, r, h, n)`. It is not changed.
        mask: Boolean, `(b,)`: rows where it is False keep their state and
            give 0.

    Returns:
        `(y, state)`: `y` `(b, r, h, p)` in the dtype of `x`, and the tuple
        after the step, in float32.

    Raises:
        ValueError: If shapes do not fit.
        TypeError: If an input is not floating, or `mask` is not boolean.

    Example:

    ```python
    for t in range(100):  # goes on from the example of `mamba3_scan`
        of_step = (v[:, t] for v in (x, dt, A, B, C))
        y, state = mamba3_scan_step(
            *of_step, lam=lam[:, t], theta=theta[:, t], state=state
        )
    ```
    """
    x, dt, A, B, C, D, lam, theta = convert(x, dt, A, B, C, D, lam, theta)
    (mask,), state = convert(mask), convert(*state)
    tensors = (x, dt, A, B, C, D, lam, theta, state, mask)
    _check("mamba3_scan_step", "b", *tensors)
    dtype = accumulation_dtype(x)
    before = tuple(cast(v, dtype) for v in state)
    given = (x, dt, A, B, C, lam, theta)
    of_x = x.dtype
    x, dt, A, B, C, lam, theta = _entered(given, mask, dtype)
    angle = ops.expand_dims(_angles(dt, theta), 2)  # (b, h, 1, a)
    h, *previous = before
    present, past, decay = (
        ops.expand_dims(v, (2, 3))
        for v in (lam * dt, (1 - lam) * dt, ops.exp(dt * A))
    )
    h = h + past * _outer(*previous)
    h = turn_pairs(h, dispatch.cos(angle), -dispatch.sin(angle))
    h = decay * h + present * _outer(x, B)
    y = ops.sum(ops.expand_dims(h, 1) * ops.expand_dims(C, 3), axis=-1)
    after = (h, x, B)
    if mask is not None:
        after = tuple(
            ops.where(_spread(mask, v), v, kept)
            for v, kept in zip(after, before, strict=True)
        )
    return _left(y, x, D, of_x), after


def _entered(tensors, mask, dtype):
    """In the dtype of the state, and 0 where masked, even for NaN."""
    tensors = (cast(v, dtype) for v in tensors)
    if mask is None:
        return tuple(tensors)
    return tuple(ops.where(_spread(mask, v), v, 0) for v in tensors)


def _left(y, x, D, dtype):
    """`y` with its skip in the dtype of the input; 0 where x and C are."""
    if D is not None:
        y = y + ops.expand_dims(cast(D, x.dtype), -1) * x
    return cast(y, dtype)


def _spread(mask, v):
    """The mask with axes of 1 for those of `v` that it lacks."""
    return ops.reshape(mask, (*ops.shape(mask), *(1,) * (v.ndim - mask.ndim)))


def _outer(x, B):
    """`sum_r x[r] B[r]'` of a step, `(b, h, p, n)`."""
    return ops.sum(ops.expand_dims(x, -1) * ops.expand_dims(B, 3), axis=1)


def _angles(dt, theta):
    """How far each head turns in a step, `(..., h, a)`."""
    return ops.expand_dims(dt, -1) * ops.expand_dims(theta, -2)


def _initial_state(x, B, state):
    dtype = accumulation_dtype(x)
    if state is not None:
        return tuple(cast(v, dtype) for v in state)
    shapes = _state_shapes(ops.shape(x)[0], x, B)
    return tuple(ops.zeros(shape, dtype) for shape in shapes)


def _state_shapes(b, x, B):
    (r, h, p), n = x.shape[-3:], B.shape[-1]
    return (b, h, p, n), (b, r, h, p), (b, r, h, n)


def _check(
    op, steps, x, dt, A, B, C, D, lam, theta, state, mask, segment_ids=None
):
    """Checks what both ops take; `steps` is "b l", or "b" for one step."""
    name = "state" if steps == "b" else "initial_state"
    states = (None,) * 3 if state is None else tuple(state)
    if len(states) != 3:
        raise ValueError(
            f"`{op}`: `{name}` must be a tuple of three tensors: the state, "
            f"and the x and B of the step before. Received: {len(states)}."
        )
    specs = {
        "x": (x, f"{steps} r h p"),
        "dt": (dt, f"{steps} h"),
        "A": (A, f"{steps} h"),
        "B": (B, f"{steps} r h n"),
        "C": (C, f"{steps} r h n"),
        "D": (D, "h"),
        "lam": (lam, f"{steps} h"),
        "theta": (theta, f"{steps} a"),
        f"{name}[0]": (states[0], "b h p n"),
        f"{name}[1]": (states[1], "b r h p"),
        f"{name}[2]": (states[2], "b r h n"),
    }
    others = dict(mask=(mask, steps), segment_ids=(segment_ids, steps))
    sizes = check_shapes(op, **specs, **others)
    if 2 * sizes["a"] > sizes["n"]:
        raise ValueError(
            f"`{op}`: `theta` must have at most one angle for two numbers of "
            f"the state. Received: theta.shape={tuple(theta.shape)}, "
            f"B.shape={tuple(B.shape)}."
        )
    check_floating(op, **{name: v for name, (v, _) in specs.items()})
    check_mask(op, mask)


def _output_spec(x, B):
    """Of a sequence and of a step: y, and the state after it."""
    dtype, shapes = accumulation_dtype(x), _state_shapes(x.shape[0], x, B)
    state = tuple(keras.KerasTensor(shape, dtype) for shape in shapes)
    return keras.KerasTensor(x.shape, x.dtype), state
