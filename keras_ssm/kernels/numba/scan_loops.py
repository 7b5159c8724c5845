"""The selective scan on vectors of channels, forward and backward.

A block is `LANES` channels of one group in one row. Its state is an array
`(n, LANES)` that stays in the fastest cache while the time passes once over
it; softplus, skip, gate, masks and resets happen on the way.

Forward, a task is one block. It saves the state before every chunk of steps.
Backward, a task is a run of neighbouring blocks, one of `parts` of a group,
and takes chunk after chunk from the end: of each block it recomputes the
states in the chunk from the saved one, then walks them back. The gradients of
B and C are summed over the blocks of the task as vectors, and over lanes once
for all of them; that leaves `parts` sums, whose number depends on shapes and
threads only. `keras_ssm/kernels/lax/selective_scan.py` has the formulas.

What is kept in an array has the layout `(n, d)`, channels last.
"""

import numpy as np
from numba import carray

from keras_ssm.kernels.numba.frames import (
    WORDS,
    address,
    address_of,
    count_up,
    step_of,
)
from keras_ssm.kernels.numba.scan_frame import (
    BIAS,
    CHANNELS,
    CHUNK,
    DA,
    DB,
    DBIAS,
    DC,
    DD,
    DDT,
    DSTATE,
    DT,
    DX,
    DZ,
    END,
    GROUPS,
    LENGTH,
    PARTS,
    REVERSE,
    ROWS,
    SOFTPLUS,
    STARTS,
    STATE,
    STATES,
    B,
    C,
    D,
    X,
    Y,
    Z,
)
from keras_ssm.kernels.numba.scan_memory import (
    load_parameter,
    load_rates,
    load_saved,
    load_state,
    masked,
    prefetch_saved,
    resets_at,
    save_state,
    store_state,
)
from keras_ssm.kernels.numba.vectors import (
    LANES,
    aligned,
    clear,
    exp2,
    fma,
    get,
    inline,
    jit,
    load,
    load_lanes,
    prefetch,
    put,
    sigmoid,
    size_of,
    softplus,
    splat,
    store,
    store_lanes,
    sum_lanes,
    type_of,
)

_LN2 = 0.6931471805599453
# Steps from when memory is asked for until it is used. A block uses one line
# of the cache a step, each far from the one before, which no hardware foresees.
_AHEAD = 8


@jit
def forward(frame, zero):
    """Takes tasks of a forward pass until there are none."""
    f = carray(frame, (WORDS,))
    n, line = f[STATES], LANES * size_of(zero)
    memory = np.empty((2 * n + 2) * line, np.uint8)
    scratch = aligned(memory, line)
    width = f[CHANNELS] // f[GROUPS]
    blocks = (width + LANES - 1) // LANES
    tasks = f[ROWS] * f[GROUPS] * blocks
    while True:
        task = count_up(address_of(frame), 1)
        if task >= tasks:
            break
        row, group = task // (f[GROUPS] * blocks), task // blocks % f[GROUPS]
        first = task % blocks * LANES
        count = min(LANES, width - first)
        _forward_block(
            f, zero, row, group, group * width + first, count, scratch
        )
    memory[0] = 0  # numba frees an array after its last use


@jit
def _forward_block(f, zero, row, group, first, count, scratch):
    n, q, length, line = f[STATES], f[CHUNK], f[LENGTH], LANES * size_of(zero)
    a, h, spare = scratch, scratch + n * line, scratch + 2 * n * line
    load_rates(f, zero, first, count, a)
    load_state(f, zero, STATE, row, first, count, h)
    none = splat(zero)
    skip = load_parameter(f, zero, D, first, count, spare)
    bias = load_parameter(f, zero, BIAS, first, count, spare)
    x_at, dt_at, z_at = address(f, X), address(f, DT), address(f, Z)
    b_at, c_at, y_at = address(f, B), address(f, C), address(f, Y)
    for s in range(length):
        t = length - 1 - s if f[REVERSE] else s
        ahead = t - _AHEAD if f[REVERSE] else t + _AHEAD
        _ask_for(f, zero, X, row, ahead, first)
        _ask_for(f, zero, DT, row, ahead, first)
        _ask_for(f, zero, Y, row, ahead, first)
        if z_at != 0:
            _ask_for(f, zero, Z, row, ahead, first)
        if s % q == 0 and address(f, STARTS) != 0:
            save_state(f, zero, row, s // q, first, count, h, spare)
        at_y = step_of(f, Y, row, t) + first
        if masked(f, row, t):
            store_lanes(y_at, at_y, none, count, spare, zero)
            continue
        if resets_at(f, row, t):
            clear(h, n, none)
        x = load_lanes(zero, x_at, step_of(f, X, row, t) + first, count, spare)
        dt = load_lanes(
            zero, dt_at, step_of(f, DT, row, t) + first, count, spare
        )
        dt = dt + bias
        if f[SOFTPLUS]:
            dt = softplus(dt)
        u, y = dt * x, skip * x
        at_b = step_of(f, B, row, t) + group * n
        at_c = step_of(f, C, row, t) + group * n
        for j in range(n):
            decay = exp2(dt * load(zero, a, j * LANES))
            update = u * splat(get(zero, b_at, at_b + j))
            v = fma(decay, load(zero, h, j * LANES), update)
            store(h, j * LANES, v)
            y = fma(v, splat(get(zero, c_at, at_c + j)), y)
        if z_at != 0:
            z = load_lanes(
                zero, z_at, step_of(f, Z, row, t) + first, count, spare
            )
            y = y * (z * sigmoid(z))
        store_lanes(y_at, at_y, y, count, spare, zero)
    store_state(f, zero, END, row, first, count, h)


@inline
def _ask_for(f, zero, tensor, row, t, first):
    prefetch(zero, address(f, tensor), step_of(f, tensor, row, t) + first)


@jit
def backward(frame, zero):
    """Takes tasks of a backward pass until there are none."""
    f = carray(frame, (WORDS,))
    n, line = f[STATES], LANES * size_of(zero)
    width = f[CHANNELS] // f[GROUPS]
    blocks = (width + LANES - 1) // LANES
    most = (blocks + f[PARTS] - 1) // f[PARTS]
    lines = most * (3 * n + 2) + _lines(n, f[CHUNK])
    memory = np.empty((lines + 1) * line, np.uint8)
    scratch = aligned(memory, line)
    tasks = f[ROWS] * f[GROUPS] * f[PARTS]
    while True:
        task = count_up(address_of(frame), 1)
        if task >= tasks:
            break
        row, group = task // (f[GROUPS] * f[PARTS]), task // f[PARTS]
        part, group = task % f[PARTS], group % f[GROUPS]
        begin = part * blocks // f[PARTS]
        end = (part + 1) * blocks // f[PARTS]
        _backward_part(f, zero, row, group, part, begin, end, scratch)
    memory[0] = 0  # numba frees an array after its last use


@inline
def _lines(n, q):
    """Lines of scratch memory for a chunk; `_backward_block` names them."""
    return (4 * q + 2) * n + 3 * q + 1


@jit
def _backward_part(f, zero, row, group, part, begin, end, scratch):
    n, q, length, line = f[STATES], f[CHUNK], f[LENGTH], LANES * size_of(zero)
    width, none = f[CHANNELS] // f[GROUPS], splat(zero)
    of_block = (3 * n + 2) * line  # rates, gradients carried, sums
    of_blocks = scratch + _lines(n, q) * line
    db = scratch
    spare = scratch + (_lines(n, q) - 1) * line
    for block in range(begin, end):
        first = group * width + block * LANES
        count = min(LANES, width - block * LANES)
        kept = of_blocks + (block - begin) * of_block
        load_rates(f, zero, first, count, kept)
        load_state(f, zero, END, row, first, count, kept + n * line)
        clear(kept + 2 * n * line, n + 2, none)
    for chunk in range((length - 1) // q, -1, -1):
        s0 = chunk * q
        steps = min(q, length - s0)
        clear(db, 2 * q * n, none)
        for block in range(begin, end):
            first = group * width + block * LANES
            count = min(LANES, width - block * LANES)
            kept = of_blocks + (block - begin) * of_block
            _backward_block(
                f, zero, row, group, first, count, s0, steps, kept, scratch
            )
        for k in range(steps):
            s = s0 + k
            t = length - 1 - s if f[REVERSE] else s
            at = (part * f[ROWS] + row) * length + t
            at = (at * f[GROUPS] + group) * n
            dc = db + q * n * line
            for j in range(n):
                i = (k * n + j) * LANES
                put(address(f, DB), at + j, sum_lanes(load(zero, db, i)))
                put(address(f, DC), at + j, sum_lanes(load(zero, dc, i)))
    for block in range(begin, end):
        first = group * width + block * LANES
        count = min(LANES, width - block * LANES)
        kept = of_blocks + (block - begin) * of_block
        store_state(f, zero, DSTATE, row, first, count, kept + n * line)
        sums = kept + 2 * n * line
        for j in range(n):
            at = (row * n + j) * f[CHANNELS] + first
            v = load(zero, sums, j * LANES)
            store_lanes(address(f, DA), at, v, count, spare, zero)
        at = row * f[CHANNELS] + first
        v = load(zero, sums, n * LANES)
        store_lanes(address(f, DD), at, v, count, spare, zero)
        v = load(zero, sums, (n + 1) * LANES)
        store_lanes(address(f, DBIAS), at, v, count, spare, zero)


@jit
def _backward_block(
    f, zero, row, group, first, count, s0, steps, kept, scratch
):
    n, q, length, line = f[STATES], f[CHUNK], f[LENGTH], LANES * size_of(zero)
    none, ln2 = splat(zero), splat(type_of(zero, _LN2))
    a, carried, sums = kept, kept + n * line, kept + 2 * n * line
    db, dc = scratch, scratch + q * n * line
    decays = dc + q * n * line
    states = decays + q * n * line  # one more: before the first step
    da = states + (q + 1) * n * line
    xs = da + n * line
    dts, slopes = xs + q * line, xs + 2 * q * line
    spare = xs + 3 * q * line
    skip = load_parameter(f, zero, D, first, count, spare)
    bias = load_parameter(f, zero, BIAS, first, count, spare)
    one = splat(type_of(zero, 1.0))
    x_at, dt_at, z_at = address(f, X), address(f, DT), address(f, Z)
    b_at, c_at = address(f, B), address(f, C)

    load_saved(f, zero, row, s0 // q, first, count, states, spare)
    for k in range(steps):
        t = length - 1 - s0 - k if f[REVERSE] else s0 + k
        i = k * n * LANES
        # For the way back.
        _ask_for(f, zero, Y, row, t, first)
        at_x = (row * length + t) * f[CHANNELS] + first
        prefetch(zero, address(f, DX), at_x)
        prefetch(zero, address(f, DDT), at_x)
        if z_at != 0:
            _ask_for(f, zero, Z, row, t, first)
            prefetch(zero, address(f, DZ), at_x)
        if masked(f, row, t):
            for j in range(i, i + n * LANES, LANES):
                store(states, j + n * LANES, load(zero, states, j))
            continue
        x = load_lanes(zero, x_at, step_of(f, X, row, t) + first, count, spare)
        dt = load_lanes(
            zero, dt_at, step_of(f, DT, row, t) + first, count, spare
        )
        dt, slope = dt + bias, one
        if f[SOFTPLUS]:
            dt, slope = softplus(dt), sigmoid(dt)
        store(xs, k * LANES, x)
        store(dts, k * LANES, dt)
        store(slopes, k * LANES, slope)
        u, at_b = dt * x, step_of(f, B, row, t) + group * n
        if resets_at(f, row, t):
            for j in range(n):
                update = u * splat(get(zero, b_at, at_b + j))
                store(states, i + (n + j) * LANES, update)
            continue
        for j in range(n):
            decay = exp2(dt * load(zero, a, j * LANES))
            update = u * splat(get(zero, b_at, at_b + j))
            v = fma(decay, load(zero, states, i + j * LANES), update)
            store(decays, i + j * LANES, decay)
            store(states, i + (n + j) * LANES, v)

    clear(da, n, none)
    dskip, dbias = none, none
    prefetch_saved(f, zero, row, s0 // q, first + LANES)
    for k in range(steps - 1, -1, -1):
        t = length - 1 - s0 - k if f[REVERSE] else s0 + k
        i = k * n * LANES
        # For the next block.
        _ask_for(f, zero, X, row, t, first + LANES)
        _ask_for(f, zero, DT, row, t, first + LANES)
        at_x = (row * length + t) * f[CHANNELS] + first
        if masked(f, row, t):
            store_lanes(address(f, DX), at_x, none, count, spare, zero)
            store_lanes(address(f, DDT), at_x, none, count, spare, zero)
            if z_at != 0:
                store_lanes(address(f, DZ), at_x, none, count, spare, zero)
            continue
        x, dt = load(zero, xs, k * LANES), load(zero, dts, k * LANES)
        at_y = step_of(f, Y, row, t) + first
        dy = load_lanes(zero, address(f, Y), at_y, count, spare)
        u, y, dinner = dt * x, skip * x, dy
        z, gate = one, one
        if z_at != 0:
            z = load_lanes(
                zero, z_at, step_of(f, Z, row, t) + first, count, spare
            )
            gate = sigmoid(z)
            dinner = dy * (z * gate)
        along, through = none, none
        anew = resets_at(f, row, t)
        at_b = step_of(f, B, row, t) + group * n
        at_c = step_of(f, C, row, t) + group * n
        for j in range(n):
            m = i + j * LANES
            after = load(zero, states, m + n * LANES)
            c = splat(get(zero, c_at, at_c + j))
            g = fma(dinner, c, load(zero, carried, j * LANES))
            y = fma(after, c, y)
            store(dc, m, fma(dinner, after, load(zero, dc, m)))
            store(db, m, fma(u, g, load(zero, db, m)))
            along = fma(g, splat(get(zero, b_at, at_b + j)), along)
            if anew:
                # Not times 0: an infinite state is no business of this segment.
                store(carried, j * LANES, none)
                continue
            g = g * load(zero, decays, m)
            store(carried, j * LANES, g)
            g = g * load(zero, states, m)
            through = fma(g, load(zero, a, j * LANES), through)
            store(da, j * LANES, fma(g, dt, load(zero, da, j * LANES)))
        dskip = fma(dinner, x, dskip)
        dx = fma(skip, dinner, dt * along)
        ddt = fma(through, ln2, along * x) * load(zero, slopes, k * LANES)
        dbias = dbias + ddt
        store_lanes(address(f, DX), at_x, dx, count, spare, zero)
        store_lanes(address(f, DDT), at_x, ddt, count, spare, zero)
        if z_at != 0:
            dz = dy * y * gate * fma(z, one - gate, one)
            store_lanes(address(f, DZ), at_x, dz, count, spare, zero)
    # Chunk by chunk: long sums in float32 lose less in two levels.
    for j in range(0, n * LANES, LANES):
        store(sums, j, load(zero, sums, j) + load(zero, da, j))
    j = n * LANES
    store(sums, j, load(zero, sums, j) + dskip)
    store(sums, j + LANES, load(zero, sums, j + LANES) + dbias)
