"""The selective scan on vectors of channels, forward.

A block is `LANES` channels of one group in one row, and a task. Its state is
an array `(n, LANES)` that stays in the fastest cache while the time passes
once over it; softplus, skip, gate, masks and resets happen on the way. The
state before every chunk of steps is saved for the backward pass, channels
last.
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
    DT,
    END,
    GROUPS,
    LENGTH,
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
    ask_for,
    load_input,
    load_parameter,
    load_rates,
    load_state,
    masked,
    resets_at,
    save_state,
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
    jit,
    load,
    sigmoid,
    size_of,
    softplus,
    splat,
    store,
    store_lanes,
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
    b_at, c_at, y_at = address(f, B), address(f, C), address(f, Y)
    z_at = address(f, Z)
    for s in range(length):
        t = time_of(f, s)
        ahead = t - _AHEAD if f[REVERSE] else t + _AHEAD
        ask_for(f, zero, X, row, ahead, first)
        ask_for(f, zero, DT, row, ahead, first)
        ask_for(f, zero, Y, row, ahead, first)
        if z_at != 0:
            ask_for(f, zero, Z, row, ahead, first)
        if s % q == 0 and address(f, STARTS) != 0:
            save_state(f, zero, row, s // q, first, count, h, spare)
        at_y = step_of(f, Y, row, t) + first
        if masked(f, row, t):
            store_lanes(y_at, at_y, none, count, spare, zero)
            continue
        if resets_at(f, row, t):
            clear(h, n, none)
        x = load_input(f, zero, X, row, t, first, count, spare)
        dt = load_input(f, zero, DT, row, t, first, count, spare) + bias
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
            z = load_input(f, zero, Z, row, t, first, count, spare)
            y = y * (z * sigmoid(z))
        store_lanes(y_at, at_y, y, count, spare, zero)
    store_state(f, zero, END, row, first, count, h)
