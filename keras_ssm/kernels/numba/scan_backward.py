"""The selective scan on vectors of channels, backward.

A block is `LANES` channels of one group in one row. A task is a run of
neighbouring blocks, one of `parts` of a group, and takes chunk after chunk
from the end: of each block it recomputes the states in the chunk from the
saved one, then walks them back. `keras_ssm/kernels/lax/selective_scan.py` has
the formulas.

It does so for a slice of the states at a time. What is recomputed of a slice,
and the sums for the gradients of B and C, stay in the fastest cache until they
have been used; those of all states would not. These sums are vectors over the
blocks of a task, and are added up over lanes once for all blocks; that leaves
`parts` sums, whose number depends on shapes and threads only.
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
    ROWS,
    SOFTPLUS,
    STATES,
    B,
    C,
    D,
    X,
    Y,
    Z,
)
from keras_ssm.kernels.numba.scan_memory import (
    ask_for,
    load_input,
    load_parameter,
    load_rates,
    load_saved,
    load_state,
    masked,
    prefetch_saved,
    resets_at,
    store_state,
    time_of,
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
_SLICE = 8  # states taken at once

# What a step keeps for all slices, a vector each: x, the step size and its
# slope, the gate, the gradient of the output inside the gate, that output,
# and the sums of g B and of g h A over the states.
_STEP = 8
_IN, _SIZE, _SLOPE, _GATE, _INNER, _OUT, _ALONG, _THROUGH = range(_STEP)


@jit
def backward(frame, zero):
    """Takes tasks of a backward pass until there are none."""
    f = carray(frame, (WORDS,))
    n, line = f[STATES], LANES * size_of(zero)
    width = f[CHANNELS] // f[GROUPS]
    blocks = (width + LANES - 1) // LANES
    most = (blocks + f[PARTS] - 1) // f[PARTS]
    lines = _lines(n, f[CHUNK]) + most * _kept(n)
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
        _part(f, zero, row, group, part, begin, end, scratch)
    memory[0] = 0  # numba frees an array after its last use


@inline
def _lines(n, q):
    """Lines of scratch memory for a chunk; `_block` names them."""
    return 2 * q * _slices(n) + (2 * q + 2) * _SLICE + _STEP * q + 1


@inline
def _kept(n):
    """Lines kept for each block: rates, gradients carried, sums."""
    return 3 * n + 2


@jit
def _part(f, zero, row, group, part, begin, end, scratch):
    n, q, length, line = f[STATES], f[CHUNK], f[LENGTH], LANES * size_of(zero)
    width = f[CHANNELS] // f[GROUPS]
    of_blocks = scratch + _lines(n, q) * line
    spare = of_blocks - line
    for block in range(begin, end):
        first = group * width + block * LANES
        count = min(LANES, width - block * LANES)
        kept = of_blocks + (block - begin) * _kept(n) * line
        load_rates(f, zero, first, count, kept)
        load_state(f, zero, END, row, first, count, kept + n * line)
        clear(kept + 2 * n * line, n + 2, splat(zero))
    for chunk in range((length - 1) // q, -1, -1):
        s0 = chunk * q
        steps = min(q, length - s0)
        clear(scratch, 2 * q * _slices(n), splat(zero))
        for block in range(begin, end):
            first = group * width + block * LANES
            count = min(LANES, width - block * LANES)
            kept = of_blocks + (block - begin) * _kept(n) * line
            _block(f, zero, row, group, first, count, s0, steps, kept, scratch)
        _store_maps(f, zero, row, group, part, s0, steps, scratch)
    for block in range(begin, end):
        first = group * width + block * LANES
        count = min(LANES, width - block * LANES)
        kept = of_blocks + (block - begin) * _kept(n) * line
        store_state(f, zero, DSTATE, row, first, count, kept + n * line)
        _store_sums(f, zero, row, first, count, kept + 2 * n * line, spare)


@jit
def _store_maps(f, zero, row, group, part, s0, steps, db):
    """The gradients of B and C in a chunk."""
    n, q = f[STATES], f[CHUNK]
    dc = db + q * _slices(n) * LANES * size_of(zero)
    for k in range(steps):
        at = (part * f[ROWS] + row) * f[LENGTH] + time_of(f, s0 + k)
        at = (at * f[GROUPS] + group) * n
        for j in range(n):
            i = _in_slice(q, j, k) * LANES
            put(address(f, DB), at + j, sum_lanes(load(zero, db, i)))
            put(address(f, DC), at + j, sum_lanes(load(zero, dc, i)))


@inline
def _slices(n):
    """The number of states, rounded up to whole slices."""
    return (n + _SLICE - 1) // _SLICE * _SLICE


@inline
def _in_slice(q, j, k):
    """Where state `j` of step `k` lies: (n / slice, q, slice)."""
    return (j // _SLICE * q + k) * _SLICE + j % _SLICE


@jit
def _store_sums(f, zero, row, first, count, sums, spare):
    """The gradients of A, D and dt_bias of a block."""
    n = f[STATES]
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
def _block(f, zero, row, group, first, count, s0, steps, kept, scratch):
    """A chunk of a block."""
    n, q, line = f[STATES], f[CHUNK], LANES * size_of(zero)
    db, dc = scratch, scratch + q * _slices(n) * line
    decays = dc + q * _slices(n) * line
    states = decays + q * _SLICE * line  # one more: before the first step
    of_steps = states + (q + 1) * _SLICE * line
    da = of_steps + _STEP * q * line
    spare = da + _SLICE * line
    sums = kept + 2 * n * line
    _begin_steps(f, zero, row, first, count, s0, steps, of_steps, spare)
    for j0 in range(0, n, _SLICE):
        width = min(_SLICE, n - j0)
        a, carried = kept + j0 * line, kept + (n + j0) * line
        load_saved(
            f, zero, row, s0 // q, first, count, j0, width, states, spare
        )
        _recompute(
            f,
            zero,
            row,
            group * n + j0,
            s0,
            steps,
            width,
            a,
            of_steps,
            decays,
            states,
        )
        if j0 == 0:
            _ask_for_next_block(f, zero, row, first, s0, steps)
        clear(da, width, splat(zero))
        _walk_back(
            f,
            zero,
            row,
            group * n + j0,
            s0,
            steps,
            width,
            a,
            of_steps,
            decays,
            states,
            carried,
            db + q * j0 * line,
            dc + q * j0 * line,
            da,
        )
        # Chunk by chunk: long sums in float32 lose less in two levels.
        for j in range(0, width * LANES, LANES):
            at = j0 * LANES + j
            store(sums, at, load(zero, sums, at) + load(zero, da, j))
    _end_steps(
        f,
        zero,
        row,
        first,
        count,
        s0,
        steps,
        of_steps,
        sums + n * line,
        spare,
    )


@jit
def _begin_steps(f, zero, row, first, count, s0, steps, of_steps, spare):
    """What all states of a step share, and the sums over them, still 0."""
    none, one = splat(zero), splat(type_of(zero, 1.0))
    skip = load_parameter(f, zero, D, first, count, spare)
    bias = load_parameter(f, zero, BIAS, first, count, spare)
    for k in range(steps):
        t, at = time_of(f, s0 + k), _STEP * k * LANES
        at_x = (row * f[LENGTH] + t) * f[CHANNELS] + first
        prefetch(zero, address(f, DX), at_x)
        prefetch(zero, address(f, DDT), at_x)
        if masked(f, row, t):
            continue
        x = load_input(f, zero, X, row, t, first, count, spare)
        dt = load_input(f, zero, DT, row, t, first, count, spare) + bias
        inner = load_input(f, zero, Y, row, t, first, count, spare)
        slope, gate = one, one
        if f[SOFTPLUS]:
            dt, slope = softplus(dt), sigmoid(dt)
        if address(f, Z) != 0:
            prefetch(zero, address(f, DZ), at_x)
            z = load_input(f, zero, Z, row, t, first, count, spare)
            gate = sigmoid(z)
            inner = inner * (z * gate)
        store(of_steps, at + _IN * LANES, x)
        store(of_steps, at + _SIZE * LANES, dt)
        store(of_steps, at + _SLOPE * LANES, slope)
        store(of_steps, at + _GATE * LANES, gate)
        store(of_steps, at + _INNER * LANES, inner)
        store(of_steps, at + _OUT * LANES, skip * x)
        store(of_steps, at + _ALONG * LANES, none)
        store(of_steps, at + _THROUGH * LANES, none)


@jit
def _recompute(
    f, zero, row, map_, s0, steps, width, a, of_steps, decays, states
):
    """The states of a slice in a chunk, and their decays."""
    b_at = address(f, B)
    for k in range(steps):
        t, i = time_of(f, s0 + k), k * _SLICE * LANES
        after = i + _SLICE * LANES
        if masked(f, row, t):
            for j in range(0, width * LANES, LANES):
                store(states, after + j, load(zero, states, i + j))
            continue
        at = _STEP * k * LANES
        dt = load(zero, of_steps, at + _SIZE * LANES)
        u = dt * load(zero, of_steps, at + _IN * LANES)
        at_b = step_of(f, B, row, t) + map_
        if resets_at(f, row, t):
            for j in range(width):
                update = u * splat(get(zero, b_at, at_b + j))
                store(states, after + j * LANES, update)
            continue
        for j in range(width):
            decay = exp2(dt * load(zero, a, j * LANES))
            update = u * splat(get(zero, b_at, at_b + j))
            v = fma(decay, load(zero, states, i + j * LANES), update)
            store(decays, i + j * LANES, decay)
            store(states, after + j * LANES, v)


@jit
def _ask_for_next_block(f, zero, row, first, s0, steps):
    for k in range(steps):
        t = time_of(f, s0 + k)
        ask_for(f, zero, X, row, t, first + LANES)
        ask_for(f, zero, DT, row, t, first + LANES)
        ask_for(f, zero, Y, row, t, first + LANES)
        if address(f, Z) != 0:
            ask_for(f, zero, Z, row, t, first + LANES)
    prefetch_saved(f, zero, row, s0 // f[CHUNK], first + LANES)


@jit
def _walk_back(
    f,
    zero,
    row,
    map_,
    s0,
    steps,
    width,
    a,
    of_steps,
    decays,
    states,
    carried,
    db,
    dc,
    da,
):
    """The gradients in a chunk as far as they come from a slice."""
    b_at, c_at = address(f, B), address(f, C)
    for k in range(steps - 1, -1, -1):
        t = time_of(f, s0 + k)
        if masked(f, row, t):
            continue
        at, i = _STEP * k * LANES, k * _SLICE * LANES
        dt = load(zero, of_steps, at + _SIZE * LANES)
        u = dt * load(zero, of_steps, at + _IN * LANES)
        inner = load(zero, of_steps, at + _INNER * LANES)
        y = load(zero, of_steps, at + _OUT * LANES)
        along = load(zero, of_steps, at + _ALONG * LANES)
        through = load(zero, of_steps, at + _THROUGH * LANES)
        anew = resets_at(f, row, t)
        at_b = step_of(f, B, row, t) + map_
        at_c = step_of(f, C, row, t) + map_
        for j in range(width):
            m = i + j * LANES
            after = load(zero, states, m + _SLICE * LANES)
            c = splat(get(zero, c_at, at_c + j))
            g = fma(inner, c, load(zero, carried, j * LANES))
            y = fma(after, c, y)
            store(dc, m, fma(inner, after, load(zero, dc, m)))
            store(db, m, fma(u, g, load(zero, db, m)))
            along = fma(g, splat(get(zero, b_at, at_b + j)), along)
            if anew:
                # Not times 0: what lies before is no business of this segment,
                # even if it is infinite.
                store(carried, j * LANES, splat(zero))
                continue
            g = g * load(zero, decays, m)
            store(carried, j * LANES, g)
            g = g * load(zero, states, m)
            through = fma(g, load(zero, a, j * LANES), through)
            store(da, j * LANES, fma(g, dt, load(zero, da, j * LANES)))
        store(of_steps, at + _OUT * LANES, y)
        store(of_steps, at + _ALONG * LANES, along)
        store(of_steps, at + _THROUGH * LANES, through)


@jit
def _end_steps(f, zero, row, first, count, s0, steps, of_steps, sums, spare):
    """The gradients of x, dt and z in a chunk, and the sums over time."""
    none, one = splat(zero), splat(type_of(zero, 1.0))
    ln2 = splat(type_of(zero, _LN2))
    skip = load_parameter(f, zero, D, first, count, spare)
    dskip, dbias = none, none
    for k in range(steps):
        t, at = time_of(f, s0 + k), _STEP * k * LANES
        at_x = (row * f[LENGTH] + t) * f[CHANNELS] + first
        dx, ddt, dz = none, none, none
        if not masked(f, row, t):
            x = load(zero, of_steps, at + _IN * LANES)
            along = load(zero, of_steps, at + _ALONG * LANES)
            through = load(zero, of_steps, at + _THROUGH * LANES)
            inner = load(zero, of_steps, at + _INNER * LANES)
            slope = load(zero, of_steps, at + _SLOPE * LANES)
            dt = load(zero, of_steps, at + _SIZE * LANES)
            dx = fma(skip, inner, dt * along)
            ddt = fma(through, ln2, along * x) * slope
            dskip, dbias = fma(inner, x, dskip), dbias + ddt
            if address(f, Z) != 0:
                z = load_input(f, zero, Z, row, t, first, count, spare)
                dy = load_input(f, zero, Y, row, t, first, count, spare)
                gate = load(zero, of_steps, at + _GATE * LANES)
                y = load(zero, of_steps, at + _OUT * LANES)
                dz = dy * y * gate * fma(z, one - gate, one)
        store_lanes(address(f, DX), at_x, dx, count, spare, zero)
        store_lanes(address(f, DDT), at_x, ddt, count, spare, zero)
        if address(f, Z) != 0:
            store_lanes(address(f, DZ), at_x, dz, count, spare, zero)
    store(sums, 0, load(zero, sums, 0) + dskip)
    store(sums, LANES, load(zero, sums, LANES) + dbias)
