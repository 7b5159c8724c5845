"""How the selective scan splits time, where rows and channels are few.

1. `ends_kernel`: every chunk from an empty state, its end and the sum `S` of
   its step sizes;
2. `carry_kernel`: the states between chunks one after the other, as a chunk
   multiplies what it is given by `exp(A S)`, or by 0 if it starts anew;
3. the forward kernel: every chunk from its state.

The gradient goes through the same two phases from the end before the backward
kernel: with respect to the state, it is a scan as well, `g = exp(dt[t] A)
(g + dy[t] C[t])`.
"""

import triton
import triton.language as tl

from keras_ssm.kernels.triton.functions import LOG2E, power
from keras_ssm.kernels.triton.scan_forward import advance, forget, gated
from keras_ssm.kernels.triton.scan_memory import (
    SIZES,
    locate,
    moved,
    only,
    product,
    read_flags,
    read_maps,
    read_marks,
    read_parameter,
    read_rates,
    read_tiles,
    sequence,
    step_sizes,
    unmasked,
    widened,
    write_states,
)
from keras_ssm.kernels.triton.warp import by_step, sum_of_tile


@triton.jit
def _step(h, a, dt, u, b, live, reset, ADJOINT: tl.constexpr):
    """A step of the scan, or of its gradient."""
    if ADJOINT:
        after = ()
        for r in tl.static_range(len(h)):
            v = h[r] + u * b[r]
            v = forget(power(a[r], dt) * v, reset)
            v = v if len(live) == 0 else tl.where(live[0], v, h[r])
            after = after + (v,)
    else:
        after, decays = advance(h, a, dt, u, b, live, reset)
    return after


@triton.jit(do_not_specialize=SIZES)
def ends_kernel(
    v,
    dt,
    A,
    maps,
    z,
    dt_bias,
    mask,
    resets,
    ends,
    sums,
    broken,
    rows,
    steps,
    batch,
    length,
    d,
    groups,
    chunk_steps,
    n: tl.constexpr,
    N: tl.constexpr,
    BLOCK: tl.constexpr,
    LANES: tl.constexpr,
    SPAN: tl.constexpr,
    TILES: tl.constexpr,
    SOFTPLUS: tl.constexpr,
    REVERSE: tl.constexpr,
    ADJOINT: tl.constexpr,
):
    """Ends of chunks, sums of their step sizes, and which of them start anew.

    `v` and `maps` are x and B; with `ADJOINT` dy and C, and it runs from the
    end of the chunk. `rows` and `steps` are of v, dt, maps and z.
    """
    chunk, row, group, _, place = locate(
        batch, groups, d // groups, BLOCK, LANES
    )
    lane, channel, within = place
    STEPS: tl.constexpr = LANES // SPAN * TILES
    FROM_END: tl.constexpr = REVERSE != ADJOINT
    first = chunk.to(tl.int32) * chunk_steps
    last = tl.minimum(first + chunk_steps, length)
    s0 = length - last if ADJOINT else first
    v = sequence(v, row * rows[0], steps[0], s0, length, FROM_END)
    dt = sequence(dt, row * rows[1], steps[1], s0, length, FROM_END)
    of_group = row * rows[2] + group * n
    maps = sequence(maps, of_group, steps[2], s0, length, FROM_END)
    z = sequence(z, row * rows[3], steps[3], s0, length, FROM_END)
    mask = sequence(mask, row * length, 1, s0, length, FROM_END)
    resets = sequence(resets, row * length, 1, s0, length, FROM_END)
    sequences = v, dt, maps, z, mask, resets
    a = read_rates(A, place, n, N, BLOCK)
    bias = read_parameter(dt_bias, place)
    none = tl.zeros(lane.shape, tl.float32)
    h, total, starts = (none,) * len(a), none, lane * 0
    ahead = _read_all(sequences, last - first, place, SPAN, TILES, n, N, BLOCK)
    for s in range(0, last - first, STEPS):
        left = last - first - s
        us, dts, zs, live, marks, alive, anew, b = ahead
        sequences = moved(sequences, STEPS, "sequences")
        ahead = _read_all(
            sequences, left - STEPS, place, SPAN, TILES, n, N, BLOCK
        )
        dts, slopes = step_sizes(dts, live, bias, left, lane, SPAN, SOFTPLUS)
        us = unmasked(us, live)
        us = gated(us, unmasked(zs, live)) if ADJOINT else product(us, dts)
        dt_at = by_step(dts, lane, BLOCK, SPAN)
        u_at = by_step(us, lane, BLOCK, SPAN)
        b = widened(b)
        for i in tl.static_range(TILES):
            total += dts[i]
            if len(marks) > 0:
                starts |= marks[i].to(tl.int32)
        for k in tl.static_range(STEPS):
            h = _step(
                h,
                a,
                dt_at[k],
                u_at[k],
                b[k],
                only(alive, k),
                only(anew, k),
                ADJOINT,
            )
    at = row * tl.cdiv(length, chunk_steps) + chunk
    write_states(ends + at * n * d, h, place, n, BLOCK)
    at = at * d + channel
    here = within & (lane < BLOCK)
    tl.store(sums + at, sum_of_tile(total, lane, BLOCK, SPAN), mask=here)
    if broken is not None:
        starts = sum_of_tile(starts.to(tl.float32), lane, BLOCK, SPAN)
        tl.store(broken + at, (starts > 0).to(tl.uint8), mask=here)


@triton.jit
def _read_all(
    sequences,
    left,
    place,
    SPAN: tl.constexpr,
    TILES: tl.constexpr,
    n: tl.constexpr,
    N: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """What an iteration needs, as it lies in memory."""
    v, dt, maps, z, mask, resets = sequences
    lane, _, _ = place
    STEPS: tl.constexpr = lane.shape[0] // SPAN * TILES
    return (
        read_tiles(v, left, place, SPAN, TILES),
        read_tiles(dt, left, place, SPAN, TILES),
        read_tiles(z, left, place, SPAN, TILES),
        read_marks(mask, left, place, SPAN, TILES),
        read_marks(resets, left, place, SPAN, TILES),
        read_flags(mask, left, STEPS),
        read_flags(resets, left, STEPS),
        read_maps(maps, left, lane, STEPS, n, N, BLOCK),
    )


@triton.jit(do_not_specialize=["chunks", "d", "n"])
def carry_kernel(
    ends,
    sums,
    broken,
    A,
    state,
    chunks,
    d,
    n,
    SIZE: tl.constexpr,
    ADJOINT: tl.constexpr,
):
    """Puts the state that a chunk is given in the place of its end."""
    blocks = tl.cdiv(d * n, SIZE)
    program = tl.program_id(0)
    row = (program // blocks).to(tl.int64)
    i = program % blocks * SIZE + tl.arange(0, SIZE)
    here = i < d * n
    a = tl.load(A + i, mask=here, other=0.0) * LOG2E
    h = tl.load(state + row * d * n + i, mask=here, other=0.0)
    for k in range(chunks):
        chunk = row * chunks + (chunks - 1 - k if ADJOINT else k)
        own = tl.load(ends + chunk * d * n + i, mask=here, other=0.0)
        total = tl.load(sums + chunk * d + i // n, mask=here, other=0.0)
        tl.store(ends + chunk * d * n + i, h, mask=here)
        h = power(a, total) * h
        if broken is not None:
            anew = tl.load(broken + chunk * d + i // n, mask=here, other=0)
            h = tl.where(anew != 0, 0.0, h)
        h += own
