"""What surrounds a recurrence: casts, masks, softplus, skip and gate.

Plain implementations compute a bare recurrence and leave the rest, which is
element by element, to these functions; a fused kernel does all of it itself.
They work on sequences `(b, l, ...)` and on single steps `(b, ...)` alike.
"""

from keras import ops


def enter(x, dt, B, C, z, dt_bias, mask, *, dtype, dt_softplus):
    """Casts to `dtype`, selects masked steps away, and makes step sizes.

    Masked inputs become 0 before anything is computed from them, so that
    neither they nor their gradients can be NaN, and a masked step size
    becomes 0 last: `exp(0 * A) = 1` leaves the state as it is.
    """
    x, dt, B, C = (ops.cast(v, dtype) for v in (x, dt, B, C))
    z = None if z is None else ops.cast(z, dtype)
    if mask is not None:
        x, dt, B, C = (select(mask, v) for v in (x, dt, B, C))
        z = None if z is None else select(mask, z)
    dt = dt if dt_bias is None else dt + dt_bias
    dt = ops.softplus(dt) if dt_softplus else dt
    dt = dt if mask is None else select(mask, dt)
    return x, dt, B, C, z


def leave(y, x, D, z, mask, *, dtype):
    """Adds the skip, gates, zeroes masked steps, and casts to `dtype`."""
    y = y if D is None else y + D * x
    y = y if z is None else y * ops.silu(z)
    y = y if mask is None else select(mask, y)
    return ops.cast(y, dtype)


def select(mask, v):
    """`v` where the mask is True, else 0; the mask has the leading axes."""
    mask = ops.reshape(mask, (*ops.shape(mask), *(1,) * (v.ndim - mask.ndim)))
    return ops.where(mask, v, ops.zeros_like(v))


def around(recurrence, tensors, *, dt_softplus, **options):
    """Computes a whole selective scan with a bare recurrence.

    Args:
        recurrence: Function of `(x, dt, A, B, C, state, resets)` and the
            options that returns `(y, state)`, everything in the dtype of the
            state.
        tensors: The canonical tensors of `selective_scan`.
        dt_softplus: Whether step sizes pass through softplus.
        **options: Handed to the recurrence.
    """
    x, dt, A, B, C, D, z, dt_bias, state, mask, resets = tensors
    dtype = x.dtype
    x, dt, B, C, z = enter(
        *(x, dt, B, C, z, dt_bias, mask),
        dtype=state.dtype,
        dt_softplus=dt_softplus,
    )
    y, state = recurrence(x, dt, A, B, C, state, resets, **options)
    return leave(y, x, D, z, mask, dtype=dtype), state


def around_ssd(recurrence, tensors, *, dt_softplus, **options):
    """Computes a whole `ssd` with a bare recurrence.

    Args:
        recurrence: As for `around`, with the shapes of `ssd`.
        tensors: The canonical tensors of `ssd`.
        dt_softplus: Whether step sizes pass through softplus.
        **options: Handed to the recurrence.
    """
    *inputs, D, dt_bias, state, mask, resets = tensors
    D = None if D is None else D[:, None]  # for all channels of a head
    tensors = (*inputs, D, None, dt_bias, state, mask, resets)
    return around(recurrence, tensors, dt_softplus=dt_softplus, **options)


def around_linear_scan(recurrence, make_complex, tensors, **options):
    """Computes a whole linear scan with a bare recurrence.

    Args:
        recurrence: Function of `(a, x, state, resets)` and the options that
            returns `(y, state)`. `a` has the shape of `x`, and all are real or
            all are complex, in the precision of the state.
        make_complex: Makes a complex tensor of a real and an imaginary part.
        tensors: The canonical tensors of `linear_scan`.
        **options: Handed to the recurrence.
    """
    x, a, state, mask, resets = as_numbers(tensors)
    dtype = x[0].dtype
    a, x = enter_linear(a, x, mask, dtype=state[0].dtype)
    if len(x) == 1:
        y, end = recurrence(*a, *x, *state, resets, **options)
        return *leave_linear((y,), mask, dtype=dtype), end
    a = a if len(a) == 2 else (*a, ops.zeros_like(a[0]))
    a, x, state = (make_complex(*v) for v in (a, x, state))
    y, end = (
        (ops.real(v), ops.imag(v))
        for v in recurrence(a, x, state, resets, **options)
    )
    return *leave_linear(y, mask, dtype=dtype), *end


def as_numbers(tensors):
    """The canonical tensors of a linear scan, parts of numbers together.

    A number is a tuple of its real and, if it is complex, its imaginary part.

    Returns:
        `x`, `a` and the state as numbers, then the other tensors.
    """
    parts, others = tensors[:6], tensors[6:]
    pairs = zip(parts[::2], parts[1::2], strict=True)
    numbers = (tuple(v for v in pair if v is not None) for pair in pairs)
    return *numbers, *others


def enter_linear(a, x, mask, *, dtype):
    """Casts numbers to `dtype`, and makes masked steps `h = 1 h + 0`.

    Selected away before anything is computed from them, masked inputs and
    their gradients cannot be NaN.
    """
    a, x = (tuple(ops.cast(v, dtype) for v in parts) for parts in (a, x))
    shape = ops.shape(x[0])
    a = tuple(ops.broadcast_to(v, shape) for v in a)
    if mask is not None:
        x = tuple(select(mask, v) for v in x)
        stay = select(ops.logical_not(mask), ops.ones_like(a[0]))
        a = select(mask, a[0]) + stay, *(select(mask, v) for v in a[1:])
    return a, x


def leave_linear(y, mask, *, dtype):
    """Zeroes masked steps of a number, and casts to `dtype`."""
    if mask is not None:
        y = tuple(select(mask, v) for v in y)
    return tuple(ops.cast(v, dtype) for v in y)
