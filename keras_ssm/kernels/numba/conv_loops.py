"""The causal convolution on vectors of channels, forward and backward.

A task is a run of neighbouring blocks of channels in one row: `parts` of them
make the row. It walks the time once and takes its blocks at each step, so
that memory is read in long runs. How many taps a step sees is found out once
for all blocks.

With `p[t] = bias + sum_j weight[k-1-j] x[t-j]` over the taps j that step t
sees, `y = act(p)` and `g = dy act'(p)`, p recomputed:

    dx[t-j] += weight[k-1-j] g[t]       dweight[k-1-j] += g[t] x[t-j]

Backward, the sums for the last k inputs lie in a ring of k lines for each
block and are written out when no later step can see the input. Steps before
the first are those of the state, their gradient that of the state.
"""

import numpy as np
from numba import carray

from keras_ssm.kernels.numba.frames import (
    SIZES,
    WORDS,
    address,
    address_of,
    count_up,
    span_of,
    step_of,
    tasks_of,
    time_of,
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
    sigmoid,
    size_of,
    splat,
    store,
    store_lanes,
    type_of,
)

# Sizes and flags in a frame.
ROWS, LENGTH, CHANNELS, TAPS = range(SIZES, SIZES + 4)
PARTS, SILU, REVERSE = range(SIZES + 4, SIZES + 7)
# Tensors in a frame. `Y` is what the forward pass writes; the backward pass
# finds `dy` there.
X, WEIGHT, BIAS, STATE, RESETS, Y = range(6)
DX, DWEIGHT, DBIAS, DSTATE = range(6, 10)

# Sums over so many steps are added up by themselves.
_STEPS = 64
# Steps from when memory is asked for until it is read or written.
_AHEAD = 4


def sizes(shape, taps: int, threads: int, activation, reverse: bool):
    """Sizes and flags of a frame.

    Args:
        shape: `(b, l, d)`.
        taps: Width of the convolution.
        threads: How many threads shall have work.
        activation: `None` or "silu".
        reverse: Whether to run from the end.
    """
    b, _, d = shape
    parts = tasks_of(b, -(-d // LANES), threads)
    return (*shape, taps, parts, activation == "silu", reverse)


@jit
def forward(frame, zero):
    """Takes tasks of a forward pass until there are none."""
    f = carray(frame, (WORDS,))
    line = LANES * size_of(zero)
    memory = np.empty(2 * line, np.uint8)
    spare = aligned(memory, line)
    while True:
        task = count_up(address_of(frame), 1)
        if task >= f[ROWS] * f[PARTS]:
            break
        begin, end = span_of(task % f[PARTS], f[PARTS], f[CHANNELS])
        _forward_part(f, zero, task // f[PARTS], begin, end, spare)
    memory[0] = 0  # numba frees an array after its last use


@jit
def _forward_part(f, zero, row, begin, end, spare):
    k, d = f[TAPS], f[CHANNELS]
    w_at, y_at = address(f, WEIGHT), address(f, Y)
    for s in range(f[LENGTH]):
        seen = _seen(f, row, s)
        at_y = step_of(f, Y, row, _time(f, s))
        for first in range(begin, end, LANES):
            count = min(LANES, d - first)
            _ask_for_later(f, zero, row, s, first)
            p = _bias(f, zero, first, count, spare)
            for j in range(seen):
                at = (k - 1 - j) * d + first
                w = load_lanes(zero, w_at, at, count, spare)
                p = fma(w, _input(f, zero, row, s - j, first, count, spare), p)
            if f[SILU]:
                p = p * sigmoid(p)
            store_lanes(y_at, at_y + first, p, count, spare, zero)


@jit
def backward(frame, zero):
    """Takes tasks of a backward pass until there are none."""
    f = carray(frame, (WORDS,))
    k, line = f[TAPS], LANES * size_of(zero)
    most = f[CHANNELS] // (LANES * f[PARTS]) + 2
    memory = np.empty((most * _lines(k) + 2) * line, np.uint8)
    spare = aligned(memory, line)
    scratch = spare + line
    while True:
        task = count_up(address_of(frame), 1)
        if task >= f[ROWS] * f[PARTS]:
            break
        begin, end = span_of(task % f[PARTS], f[PARTS], f[CHANNELS])
        row = task // f[PARTS]
        _backward_part(f, zero, row, begin, end, spare, scratch)
    memory[0] = 0  # numba frees an array after its last use


@inline
def _lines(k):
    """Lines of scratch for a block: the ring, and dweight and dbias twice."""
    return k + 2 * (k + 1)


@jit
def _backward_part(f, zero, row, begin, end, spare, scratch):
    k, d, length = f[TAPS], f[CHANNELS], f[LENGTH]
    none, one = splat(zero), splat(type_of(zero, 1.0))
    line = LANES * size_of(zero)
    w_at, lines = address(f, WEIGHT), _lines(k)
    clear(scratch, (end - begin + LANES - 1) // LANES * lines, none)
    for s in range(length):
        seen = _seen(f, row, s)
        at_y = step_of(f, Y, row, _time(f, s))
        for first in range(begin, end, LANES):
            count = min(LANES, d - first)
            ring = scratch + (first - begin) // LANES * lines * line
            sums = ring + k * line
            _ask_for_later(f, zero, row, s, first)
            g = load_lanes(zero, address(f, Y), at_y + first, count, spare)
            if f[SILU]:
                p = _bias(f, zero, first, count, spare)
                for j in range(seen):
                    at = (k - 1 - j) * d + first
                    w = load_lanes(zero, w_at, at, count, spare)
                    x = _input(f, zero, row, s - j, first, count, spare)
                    p = fma(w, x, p)
                gate = sigmoid(p)
                g = g * (gate * fma(p, one - gate, one))
            for j in range(seen):
                tap = k - 1 - j
                w = load_lanes(zero, w_at, tap * d + first, count, spare)
                x = _input(f, zero, row, s - j, first, count, spare)
                slot = (s - j + k) % k * LANES
                store(ring, slot, fma(w, g, load(zero, ring, slot)))
                at = tap * LANES
                store(sums, at, fma(x, g, load(zero, sums, at)))
            store(sums, k * LANES, load(zero, sums, k * LANES) + g)
            if s % _STEPS == _STEPS - 1 or s == length - 1:
                _add_up(zero, sums, k + 1, none)
            _leave(f, zero, row, s - k + 1, first, count, ring, spare)
    for first in range(begin, end, LANES):
        count = min(LANES, d - first)
        ring = scratch + (first - begin) // LANES * lines * line
        for s in range(max(length - k + 1, 1 - k), length):
            _leave(f, zero, row, s, first, count, ring, spare)
        total = ring + (2 * k + 1) * line
        for tap in range(k):
            at = (row * k + tap) * d + first
            v = load(zero, total, tap * LANES)
            store_lanes(address(f, DWEIGHT), at, v, count, spare, zero)
        v = load(zero, total, k * LANES)
        at = row * d + first
        store_lanes(address(f, DBIAS), at, v, count, spare, zero)


@inline
def _ask_for_later(f, zero, row, s, first):
    t = _time(f, s + _AHEAD)
    prefetch(zero, address(f, X), step_of(f, X, row, t) + first)
    prefetch(zero, address(f, Y), step_of(f, Y, row, t) + first)


@inline
def _add_up(zero, sums, lines, none):
    """Adds sums to those behind them and begins them anew."""
    for i in range(0, lines * LANES, LANES):
        total = load(zero, sums, i + lines * LANES) + load(zero, sums, i)
        store(sums, i + lines * LANES, total)
        store(sums, i, none)


@inline
def _leave(f, zero, row, s, first, count, ring, spare):
    """Writes the gradient of input `s`, which no later step sees."""
    k = f[TAPS]
    if s < 1 - k:
        return
    slot = (s + k) % k * LANES
    v = load(zero, ring, slot)
    store(ring, slot, splat(zero))
    if s >= 0:
        at = (row * f[LENGTH] + _time(f, s)) * f[CHANNELS] + first
        store_lanes(address(f, DX), at, v, count, spare, zero)
    else:
        at = (row * (k - 1) + k - 1 + s) * f[CHANNELS] + first
        store_lanes(address(f, DSTATE), at, v, count, spare, zero)


@inline
def _time(f, s):
    """Where step `s` of the scan lies."""
    return time_of(s, f[LENGTH], f[REVERSE])


@inline
def _seen(f, row, s):
    """How many taps step `s` sees: they end where its segment begins."""
    seen, resets = 1, address(f, RESETS)
    if resets == 0:
        return f[TAPS]
    while seen < f[TAPS]:
        last = s - seen + 1
        if last < 0:
            return f[TAPS]
        if get_byte(resets, step_of(f, RESETS, row, _time(f, last))):
            return seen
        seen += 1
    return seen


@inline
def _input(f, zero, row, s, first, count, spare):
    """The input of step `s`, or what the state holds of it."""
    if s >= 0:
        at = step_of(f, X, row, _time(f, s)) + first
        return load_lanes(zero, address(f, X), at, count, spare)
    at = (row * (f[TAPS] - 1) + f[TAPS] - 1 + s) * f[CHANNELS] + first
    return load_lanes(zero, address(f, STATE), at, count, spare)


@inline
def _bias(f, zero, first, count, spare):
    if address(f, BIAS) == 0:
        return splat(zero)
    return load_lanes(zero, address(f, BIAS), first, count, spare)
