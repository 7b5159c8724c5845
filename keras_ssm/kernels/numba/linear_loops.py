"""The linear scan on vectors of channels, forward and backward.

A task is a run of neighbouring blocks of channels in one row: `parts` of them
make the row. It walks the time once and takes its blocks at each step, so
that memory is read in long runs; what takes time is the memory. The state of
each block, and backward the gradient that is carried, stay in scratch memory.

The backward pass finds the state before a step in the output at the unmasked
step before it, so that nothing else is kept. The formulas are those of
`keras_ssm/kernels/lax/linear_scan.py`. The gradient of a constant `a` is
summed over the steps of a row.
"""

import numpy as np
from numba import carray

from keras_ssm.kernels.numba.frames import (
    WORDS,
    address,
    address_of,
    count_up,
    span_of,
    step_of,
    time_of,
)
from keras_ssm.kernels.numba.linear_frame import (
    A_IMAG,
    CHANNELS,
    CONSTANT,
    DA,
    DA_IMAG,
    DSTATE,
    DSTATE_IMAG,
    DX,
    DX_IMAG,
    END,
    END_IMAG,
    LENGTH,
    MASK,
    PARTS,
    RESETS,
    REVERSE,
    ROWS,
    STATE,
    STATE_IMAG,
    X_IMAG,
    Y_IMAG,
    A,
    X,
    Y,
)
from keras_ssm.kernels.numba.vectors import (
    LANES,
    aligned,
    clear,
    fma,
    get_byte,
    inline,
    jit,
    load,
    load_lanes,
    prefetch,
    size_of,
    splat,
    store,
    store_lanes,
)

# Lines of scratch for a block: the state or its gradient, and sums over a few
# steps and over all; each is followed by that of the imaginary part.
_SUM, _TOTAL, _LINES = 2, 4, 6
# Sums over so many steps are added up by themselves.
_STEPS = 64
# Steps from when memory is asked for until it is read or written.
_AHEAD = 4


@jit
def forward(frame, zero):
    """Takes tasks of a forward pass until there are none."""
    f = carray(frame, (WORDS,))
    line = LANES * size_of(zero)
    memory = np.empty(_scratch(f) * line, np.uint8)
    spare = aligned(memory, line)
    while True:
        task = count_up(address_of(frame), 1)
        if task >= f[ROWS] * f[PARTS]:
            break
        begin, end = span_of(task % f[PARTS], f[PARTS], f[CHANNELS])
        row = task // f[PARTS]
        _forward_part(f, zero, row, begin, end, spare, spare + line)
    memory[0] = 0  # numba frees an array after its last use


@jit
def backward(frame, zero):
    """Takes tasks of a backward pass until there are none."""
    f = carray(frame, (WORDS,))
    line = LANES * size_of(zero)
    memory = np.empty(_scratch(f) * line, np.uint8)
    spare = aligned(memory, line)
    while True:
        task = count_up(address_of(frame), 1)
        if task >= f[ROWS] * f[PARTS]:
            break
        begin, end = span_of(task % f[PARTS], f[PARTS], f[CHANNELS])
        row = task // f[PARTS]
        _backward_part(f, zero, row, begin, end, spare, spare + line)
    memory[0] = 0  # numba frees an array after its last use


@inline
def _scratch(f):
    """Lines of scratch for a task, and two to align them."""
    most = f[CHANNELS] // (LANES * f[PARTS]) + 2
    return most * _LINES + 2


@jit
def _forward_part(f, zero, row, begin, end, spare, scratch):
    d, length = f[CHANNELS], f[LENGTH]
    line, none = LANES * size_of(zero), splat(zero)
    x_at, x_imag_at = address(f, X), address(f, X_IMAG)
    a_at, a_imag_at = address(f, A), address(f, A_IMAG)
    y_at, y_imag_at = address(f, Y), address(f, Y_IMAG)
    _load_rows(f, zero, STATE, row, begin, end, spare, scratch)
    _load_rows(f, zero, STATE_IMAG, row, begin, end, spare, scratch + line)
    for s in range(length):
        t = time_of(s, length, f[REVERSE])
        later = time_of(s + _AHEAD, length, f[REVERSE])
        masked, new = _masked(f, row, t), _is_set(f, RESETS, row, t)
        for first in range(begin, end, LANES):
            count = min(LANES, d - first)
            _ask_for(f, zero, X, row, later, first)
            _ask_for(f, zero, Y, row, later, first)
            if not f[CONSTANT]:
                _ask_for(f, zero, A, row, later, first)
            at = step_of(f, Y, row, t) + first
            if masked:
                store_lanes(y_at, at, none, count, spare, zero)
                if x_imag_at != 0:
                    store_lanes(y_imag_at, at, none, count, spare, zero)
                continue
            kept = scratch + (first - begin) // LANES * _LINES * line
            h = none if new else load(zero, kept, 0)
            at_a = _step_of_a(f, A, row, t) + first
            at_x = step_of(f, X, row, t) + first
            a = load_lanes(zero, a_at, at_a, count, spare)
            y = fma(a, h, load_lanes(zero, x_at, at_x, count, spare))
            if x_imag_at != 0:
                h_imag = none if new else load(zero, kept, LANES)
                at_x = step_of(f, X_IMAG, row, t) + first
                x = load_lanes(zero, x_imag_at, at_x, count, spare)
                y_imag = fma(a, h_imag, x)
                if a_imag_at != 0:
                    at_a = _step_of_a(f, A_IMAG, row, t) + first
                    a = load_lanes(zero, a_imag_at, at_a, count, spare)
                    y = y - a * h_imag
                    y_imag = fma(a, h, y_imag)
                store(kept, LANES, y_imag)
                store_lanes(y_imag_at, at, y_imag, count, spare, zero)
            store(kept, 0, y)
            store_lanes(y_at, at, y, count, spare, zero)
    _store_rows(f, zero, END, row, begin, end, spare, scratch)
    _store_rows(f, zero, END_IMAG, row, begin, end, spare, scratch + line)


@jit
def _backward_part(f, zero, row, begin, end, spare, scratch):
    d, length = f[CHANNELS], f[LENGTH]
    line, none = LANES * size_of(zero), splat(zero)
    dy_imag_at = address(f, Y_IMAG)
    clear(scratch, (end - begin + LANES - 1) // LANES * _LINES, none)
    _load_rows(f, zero, END, row, begin, end, spare, scratch)
    _load_rows(f, zero, END_IMAG, row, begin, end, spare, scratch + line)
    for s in range(length - 1, -1, -1):
        t = time_of(s, length, f[REVERSE])
        later = time_of(s - _AHEAD, length, f[REVERSE])
        masked, new = _masked(f, row, t), _is_set(f, RESETS, row, t)
        # The step before it that counts, if there is one.
        previous = s - 1
        while (
            not masked
            and previous >= 0
            and _masked(f, row, time_of(previous, length, f[REVERSE]))
        ):
            previous -= 1
        for first in range(begin, end, LANES):
            count = min(LANES, d - first)
            _ask_for(f, zero, X, row, later, first)
            _ask_for(f, zero, Y, row, later, first)
            _ask_for(f, zero, DX, row, later, first)
            if not f[CONSTANT]:
                _ask_for(f, zero, A, row, later, first)
                _ask_for(f, zero, DA, row, later, first)
            at = (row * length + t) * d + first
            if masked:
                _leave_out(f, zero, at, count, none, spare)
                continue
            kept = scratch + (first - begin) // LANES * _LINES * line
            at_y = step_of(f, Y, row, t) + first
            dy = load_lanes(zero, address(f, Y), at_y, count, spare)
            g, g_imag = load(zero, kept, 0) + dy, none
            store_lanes(address(f, DX), at, g, count, spare, zero)
            if dy_imag_at != 0:
                at_y = step_of(f, Y_IMAG, row, t) + first
                dy = load_lanes(zero, dy_imag_at, at_y, count, spare)
                g_imag = load(zero, kept, LANES) + dy
                store_lanes(address(f, DX_IMAG), at, g_imag, count, spare, zero)
            _adjoint(
                f,
                zero,
                row,
                t,
                previous,
                new,
                first,
                count,
                g,
                g_imag,
                kept,
                spare,
            )
        if s % _STEPS == 0 and f[CONSTANT]:
            _add_up(zero, scratch, begin, end)
    _store_rows(f, zero, DSTATE, row, begin, end, spare, scratch)
    _store_rows(f, zero, DSTATE_IMAG, row, begin, end, spare, scratch + line)
    if f[CONSTANT]:
        total = scratch + _TOTAL * line
        _store_rows(f, zero, DA, row, begin, end, spare, total)
        _store_rows(f, zero, DA_IMAG, row, begin, end, spare, total + line)


@inline
def _adjoint(
    f, zero, row, t, previous, new, first, count, g, g_imag, kept, spare
):
    """Hands the gradient on to the step before, and makes that of `a`."""
    length, none = f[LENGTH], splat(zero)
    before, before_imag = none, none
    if not new:
        before = _before(f, zero, X, row, previous, first, count, spare)
    a = load_lanes(
        zero, address(f, A), _step_of_a(f, A, row, t) + first, count, spare
    )
    da, da_imag = g * before, none
    passed, passed_imag = a * g, none
    if address(f, X_IMAG) != 0:
        if not new:
            before_imag = _before(
                f, zero, X_IMAG, row, previous, first, count, spare
            )
        da = fma(g_imag, before_imag, da)
        passed_imag = a * g_imag
        if address(f, A_IMAG) != 0:
            at_a = _step_of_a(f, A_IMAG, row, t) + first
            a = load_lanes(zero, address(f, A_IMAG), at_a, count, spare)
            passed = fma(a, g_imag, passed)
            passed_imag = passed_imag - a * g
            da_imag = g_imag * before - g * before_imag
    store(kept, 0, none if new else passed)
    store(kept, LANES, none if new else passed_imag)
    if f[CONSTANT]:
        i = _SUM * LANES
        store(kept, i, load(zero, kept, i) + da)
        store(kept, i + LANES, load(zero, kept, i + LANES) + da_imag)
        return
    at = (row * length + t) * f[CHANNELS] + first
    store_lanes(address(f, DA), at, da, count, spare, zero)
    if address(f, A_IMAG) != 0:
        store_lanes(address(f, DA_IMAG), at, da_imag, count, spare, zero)


@inline
def _before(f, zero, tensor, row, previous, first, count, spare):
    """The state before a step: an output of the scan, or the first state."""
    if previous < 0:
        state = address(f, tensor - X + STATE)
        at = row * f[CHANNELS] + first
        return load_lanes(zero, state, at, count, spare)
    t = time_of(previous, f[LENGTH], f[REVERSE])
    at = step_of(f, tensor, row, t) + first
    return load_lanes(zero, address(f, tensor), at, count, spare)


@inline
def _leave_out(f, zero, at, count, none, spare):
    """The gradients of a masked step."""
    store_lanes(address(f, DX), at, none, count, spare, zero)
    if address(f, X_IMAG) != 0:
        store_lanes(address(f, DX_IMAG), at, none, count, spare, zero)
    if not f[CONSTANT]:
        store_lanes(address(f, DA), at, none, count, spare, zero)
        if address(f, A_IMAG) != 0:
            store_lanes(address(f, DA_IMAG), at, none, count, spare, zero)


@inline
def _add_up(zero, scratch, begin, end):
    """Adds the sums of each block to its totals and begins them anew."""
    line = LANES * size_of(zero)
    for first in range(begin, end, LANES):
        sums = scratch + ((first - begin) // LANES * _LINES + _SUM) * line
        for i in range(0, 2 * LANES, LANES):
            total = load(zero, sums, i + 2 * LANES) + load(zero, sums, i)
            store(sums, i + 2 * LANES, total)
            store(sums, i, splat(zero))


@inline
def _load_rows(f, zero, tensor, row, begin, end, spare, scratch):
    """A row `(d,)` into a line of each block; nothing if there is none."""
    line = LANES * size_of(zero)
    if address(f, tensor) != 0:
        for first in range(begin, end, LANES):
            count = min(LANES, f[CHANNELS] - first)
            at = row * f[CHANNELS] + first
            v = load_lanes(zero, address(f, tensor), at, count, spare)
            store(scratch + (first - begin) // LANES * _LINES * line, 0, v)


@inline
def _store_rows(f, zero, tensor, row, begin, end, spare, scratch):
    """The inverse of `_load_rows`."""
    line = LANES * size_of(zero)
    if address(f, tensor) != 0:
        for first in range(begin, end, LANES):
            count = min(LANES, f[CHANNELS] - first)
            at = row * f[CHANNELS] + first
            kept = scratch + (first - begin) // LANES * _LINES * line
            v = load(zero, kept, 0)
            store_lanes(address(f, tensor), at, v, count, spare, zero)


@inline
def _step_of_a(f, tensor, row, t):
    return 0 if f[CONSTANT] else step_of(f, tensor, row, t)


@inline
def _ask_for(f, zero, tensor, row, t, first):
    """Asks for memory that will be used, of both parts of a number."""
    prefetch(zero, address(f, tensor), step_of(f, tensor, row, t) + first)
    if address(f, tensor + 1) != 0:
        at = step_of(f, tensor + 1, row, t) + first
        prefetch(zero, address(f, tensor + 1), at)


@inline
def _masked(f, row, t):
    return address(f, MASK) != 0 and not _is_set(f, MASK, row, t)


@inline
def _is_set(f, tensor, row, t):
    """Whether a tensor of booleans is there, and True at this step."""
    flags = address(f, tensor)
    return flags != 0 and get_byte(flags, step_of(f, tensor, row, t))
