"""The linear scan, forward and backward.

A program takes a block of channels of one row through all of the time, step by
step, and asks for `STEPS` steps at once, so that it seldom waits for memory.
The formulas of the backward pass, which walks from the end, are those of
`keras_ssm/kernels/lax/linear_scan.py`. Imaginary parts that are `None` are not
computed.
"""

import triton
import triton.language as tl

from keras_ssm.kernels.triton.steps import (
    between,
    pointer_to,
    read_flags,
    read_steps,
)


@triton.jit
def _locate(d, BLOCK: tl.constexpr):
    """The row of this program, and the channels of its lanes."""
    blocks = tl.cdiv(d, BLOCK)
    program = tl.program_id(0)
    channel = program % blocks * BLOCK + tl.arange(0, BLOCK)
    return (program // blocks).to(tl.int64), channel, channel < d


@triton.jit
def _where_set(within, flag):
    """The lanes that count, if a flag is set."""
    # As a block: Triton's interpreter makes no masks of single flags.
    return within & (tl.zeros(within.shape, tl.int32) + flag > 0)


@triton.jit
def _load(p, row, d, channel, within):
    """A row of states, 0 for none."""
    v = tl.zeros(channel.shape, tl.float32)
    if p is not None:
        v += tl.load(p + row * d + channel, mask=within, other=0.0)
    return v


@triton.jit
def _store(p, channel, v, within):
    tl.store(p + channel, v, mask=within)


@triton.jit
def _read(p, step, s, length, channel, within, COUNT: tl.constexpr, REVERSE):
    found = ()
    if p is not None:
        found = read_steps(p, step, s, length, channel, within, COUNT, REVERSE)
    return found


@triton.jit(do_not_specialize=["length"])
def forward_kernel(
    x,
    x_imag,
    a,
    a_imag,
    state,
    state_imag,
    mask,
    resets,
    y,
    y_imag,
    end,
    end_imag,
    rows,
    steps,
    length,
    d,
    BLOCK: tl.constexpr,
    STEPS: tl.constexpr,
    REVERSE: tl.constexpr,
):
    """y and the last state; `rows` and `steps` are of the numbers before."""
    row, channel, within = _locate(d, BLOCK)
    x, a, y = x + row * rows[0], a + row * rows[2], y + row * length * d
    if x_imag is not None:
        x_imag, y_imag = x_imag + row * rows[1], y_imag + row * length * d
    if a_imag is not None:
        a_imag += row * rows[3]
    if mask is not None:
        mask += row * length
    if resets is not None:
        resets += row * length
    h = _load(state, row, d, channel, within)
    h_imag = _load(state_imag, row, d, channel, within)
    for s in range(0, length, STEPS):
        at = (s, length, channel, within)
        xs = _read(x, steps[0], *at, STEPS, REVERSE)
        xs_imag = _read(x_imag, steps[1], *at, STEPS, REVERSE)
        decays = _read(a, steps[2], *at, STEPS, REVERSE)
        decays_imag = _read(a_imag, steps[3], *at, STEPS, REVERSE)
        live = read_flags(mask, s, length, STEPS, REVERSE)
        anew = read_flags(resets, s, length, STEPS, REVERSE)
        for u in tl.static_range(STEPS):
            here = between(within, s + u, 0, length)
            counts = here
            if mask is not None:
                counts = _where_set(here, live[u])
            kept, kept_imag = h, h_imag
            if resets is not None:
                kept = tl.where(anew[u], 0.0, h)
                kept_imag = tl.where(anew[u], 0.0, h_imag)
            v = decays[u] * kept + xs[u]
            place = pointer_to(y, d, s + u, length, REVERSE) + channel
            if x_imag is not None:
                v_imag = decays[u] * kept_imag + xs_imag[u]
                if a_imag is not None:
                    v -= decays_imag[u] * kept_imag
                    v_imag += decays_imag[u] * kept
                h_imag = tl.where(counts, v_imag, h_imag)
                at_imag = pointer_to(y_imag, d, s + u, length, REVERSE)
                out = tl.where(counts, v_imag, 0.0)
                tl.store(at_imag + channel, out, mask=here)
            h = tl.where(counts, v, h)
            tl.store(place, tl.where(counts, v, 0.0), mask=here)
    _store(end + row * d, channel, h, within)
    if end_imag is not None:
        _store(end_imag + row * d, channel, h_imag, within)


@triton.jit(do_not_specialize=["length"])
def backward_kernel(
    y,
    y_imag,
    a,
    a_imag,
    state,
    state_imag,
    mask,
    resets,
    dy,
    dy_imag,
    dend,
    dend_imag,
    dx,
    dx_imag,
    da,
    da_imag,
    dstate,
    dstate_imag,
    rows,
    steps,
    length,
    d,
    BLOCK: tl.constexpr,
    STEPS: tl.constexpr,
    CONSTANT: tl.constexpr,
    REVERSE: tl.constexpr,
):
    """All gradients, that of a constant `a` for each row.

    That of `a` has to wait for the state before its step, which is the output
    of the next unmasked step on the way from the end. `rows` and `steps` are
    of y, `a` and dy, both parts of each.
    """
    BACK: tl.constexpr = not REVERSE
    row, channel, within = _locate(d, BLOCK)
    distance = row * d if CONSTANT else row * length * d
    y, a, dy = y + row * rows[0], a + row * rows[2], dy + row * rows[4]
    dx, da = dx + row * length * d, da + distance
    if y_imag is not None:
        y_imag, dy_imag = y_imag + row * rows[1], dy_imag + row * rows[5]
        dx_imag += row * length * d
    if a_imag is not None:
        a_imag, da_imag = a_imag + row * rows[3], da_imag + distance
    if mask is not None:
        mask += row * length
    if resets is not None:
        resets += row * length
    carry = _load(dend, row, d, channel, within)
    carry_imag = _load(dend_imag, row, d, channel, within)
    none = tl.zeros(channel.shape, tl.float32)
    # The step whose gradient of `a` waits, and the gradient of its state.
    waits = tl.full(channel.shape, -1, tl.int32)
    g, g_imag, total, total_imag = none, none, none, none
    for s in range(0, length, STEPS):
        at = (s, length, channel, within)
        ys = _read(y, steps[0], *at, STEPS, BACK)
        ys_imag = _read(y_imag, steps[1], *at, STEPS, BACK)
        decays = _read(a, steps[2], *at, STEPS, BACK)
        decays_imag = _read(a_imag, steps[3], *at, STEPS, BACK)
        dys = _read(dy, steps[4], *at, STEPS, BACK)
        dys_imag = _read(dy_imag, steps[5], *at, STEPS, BACK)
        live = read_flags(mask, s, length, STEPS, BACK)
        anew = read_flags(resets, s, length, STEPS, BACK)
        sums, sums_imag = none, none
        for u in tl.static_range(STEPS):
            here = between(within, s + u, 0, length)
            counts = here
            if mask is not None:
                counts = _where_set(here, live[u])
            goes_on = counts
            if resets is not None:
                goes_on = _where_set(counts, anew[u] == 0)
            there = counts & (waits >= 0)
            before_imag = none
            if y_imag is not None:
                before_imag = ys_imag[u]
            of_a, of_a_imag = _gradient_of_a(g, g_imag, ys[u], before_imag)
            if CONSTANT:
                sums += tl.where(there, of_a, 0.0)
                sums_imag += tl.where(there, of_a_imag, 0.0)
            else:
                settled = here & (goes_on == 0)
                place = pointer_to(da, d, waits, length, BACK)
                _store(place, channel, of_a, there)
                place = pointer_to(da, d, s + u, length, BACK)
                _store(place, channel, none, settled)
                if a_imag is not None:
                    place = pointer_to(da_imag, d, waits, length, BACK)
                    _store(place, channel, of_a_imag, there)
                    place = pointer_to(da_imag, d, s + u, length, BACK)
                    _store(place, channel, none, settled)
            v, v_imag = carry + dys[u], none
            place = pointer_to(dx, d, s + u, length, BACK)
            _store(place, channel, tl.where(counts, v, 0.0), here)
            passed, passed_imag = decays[u] * v, none
            if y_imag is not None:
                v_imag = carry_imag + dys_imag[u]
                place = pointer_to(dx_imag, d, s + u, length, BACK)
                _store(place, channel, tl.where(counts, v_imag, 0.0), here)
                passed_imag = decays[u] * v_imag
                if a_imag is not None:
                    passed += decays_imag[u] * v_imag
                    passed_imag -= decays_imag[u] * v
            if resets is not None:
                passed = tl.where(anew[u], 0.0, passed)
                passed_imag = tl.where(anew[u], 0.0, passed_imag)
            g, g_imag = tl.where(counts, v, g), tl.where(counts, v_imag, g_imag)
            carry = tl.where(counts, passed, carry)
            carry_imag = tl.where(counts, passed_imag, carry_imag)
            waits = tl.where(counts, -1, waits)
            waits = tl.where(goes_on, s + u, waits)
        # In two levels: long sums in float32 lose less so.
        total, total_imag = total + sums, total_imag + sums_imag
    of_a, of_a_imag = _gradient_of_a(
        g,
        g_imag,
        _load(state, row, d, channel, within),
        _load(state_imag, row, d, channel, within),
    )
    there = within & (waits >= 0)
    if CONSTANT:
        total += tl.where(there, of_a, 0.0)
        total_imag += tl.where(there, of_a_imag, 0.0)
        _store(da, channel, total, within)
        if a_imag is not None:
            _store(da_imag, channel, total_imag, within)
    else:
        _store(pointer_to(da, d, waits, length, BACK), channel, of_a, there)
        if a_imag is not None:
            place = pointer_to(da_imag, d, waits, length, BACK)
            _store(place, channel, of_a_imag, there)
    _store(dstate + row * d, channel, carry, within)
    if dstate_imag is not None:
        _store(dstate_imag + row * d, channel, carry_imag, within)


@triton.jit
def _gradient_of_a(g, g_imag, before, before_imag):
    """`g conj(before)`."""
    real = g * before + g_imag * before_imag
    return real, g_imag * before - g * before_imag
