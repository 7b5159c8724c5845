"""The forward kernel of the selective scan.

A program takes its channels through a chunk of time, step by step, with their
states in registers. What does not depend on the state, and what follows from
it, is computed for as many steps at once as there are rows of lanes; see
`warp.py` and `scan_memory.py`.
"""

import triton
import triton.language as tl

from keras_ssm.kernels.triton.functions import power, sigmoid
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
    read_states,
    read_tiles,
    sequence,
    step_sizes,
    unmasked,
    widened,
    write_states,
    write_tiles,
)
from keras_ssm.kernels.triton.warp import by_step, sum_to_tiles


@triton.jit
def forget(h, reset):
    """The state that a step starts from; `reset` is `()` for no resets."""
    return h if len(reset) == 0 else tl.where(reset[0], 0.0, h)


@triton.jit
def advance(h, a, dt, u, b, live, reset):
    """The state after a step, and the decays in it."""
    after, decays = (), ()
    for r in tl.static_range(len(h)):
        decay = power(a[r], dt)
        v = decay * forget(h[r], reset) + u * b[r]
        # Not even NaN in B reaches the state at a masked step.
        v = v if len(live) == 0 else tl.where(live[0], v, h[r])
        after, decays = after + (v,), decays + (decay,)
    return after, decays


@triton.jit
def dot(h, c):
    """sum_r h[r] * c[r]."""
    total = h[0] * c[0]
    for r in tl.static_range(1, len(h)):
        total += h[r] * c[r]
    return total


@triton.jit
def gated(tiles, zs):
    """Times silu(z), if there are gates."""
    found = ()
    for i in tl.static_range(len(tiles)):
        v = tiles[i]
        v = v if len(zs) == 0 else v * (zs[i] * sigmoid(zs[i]))
        found = found + (v,)
    return found


@triton.jit
def add_skip(tiles, skip, xs):
    """Plus D x."""
    found = ()
    for i in tl.static_range(len(tiles)):
        found = found + (tiles[i] + skip * xs[i],)
    return found


@triton.jit(do_not_specialize=SIZES)
def forward_kernel(
    x,
    dt,
    A,
    B,
    C,
    D,
    z,
    dt_bias,
    mask,
    resets,
    start,
    y,
    end,
    saved,
    rows,
    steps,
    start_row,
    start_chunk,
    batch,
    length,
    d,
    groups,
    chunk_steps,
    segments,
    n: tl.constexpr,
    N: tl.constexpr,
    BLOCK: tl.constexpr,
    LANES: tl.constexpr,
    SPAN: tl.constexpr,
    TILES: tl.constexpr,
    EVERY: tl.constexpr,
    SOFTPLUS: tl.constexpr,
    REVERSE: tl.constexpr,
):
    """y and the end of the row; in `saved`, the state every `EVERY` steps.

    `rows` and `steps` are how far rows and steps of x, dt, B, C and z lie
    apart, `start_row` and `start_chunk` how far rows and chunks of `start`;
    a row of `saved` has `segments` states.
    """
    chunk, row, group, _, place = locate(
        batch, groups, d // groups, BLOCK, LANES
    )
    lane, _, _ = place
    STEPS: tl.constexpr = LANES // SPAN * TILES
    first = chunk.to(tl.int32) * chunk_steps
    last = tl.minimum(first + chunk_steps, length)
    of_group = group * n
    x = sequence(x, row * rows[0], steps[0], first, length, REVERSE)
    dt = sequence(dt, row * rows[1], steps[1], first, length, REVERSE)
    B = sequence(B, row * rows[2] + of_group, steps[2], first, length, REVERSE)
    C = sequence(C, row * rows[3] + of_group, steps[3], first, length, REVERSE)
    z = sequence(z, row * rows[4], steps[4], first, length, REVERSE)
    y = sequence(y, row * length * d, d, first, length, REVERSE)
    mask = sequence(mask, row * length, 1, first, length, REVERSE)
    resets = sequence(resets, row * length, 1, first, length, REVERSE)
    inputs = x, dt, z, mask, resets, B, C
    start += row * start_row + chunk * start_chunk
    h = read_states(start, place, n, N, BLOCK)
    a = read_rates(A, place, n, N, BLOCK)
    skip, bias = read_parameter(D, place), read_parameter(dt_bias, place)

    # Everything is read one iteration ahead.
    ahead = _read_all(inputs, last - first, place, SPAN, TILES, n, N, BLOCK)
    for s0 in range(first, last, EVERY):
        if saved is not None:
            kept = saved + (row * segments + s0 // EVERY) * n * d
            write_states(kept, h, place, n, BLOCK)
        for s in range(s0, tl.minimum(s0 + EVERY, last), STEPS):
            left = last - s
            xs, dts, zs, live, alive, anew, b, c = ahead
            inputs = moved(inputs, STEPS, "inputs")
            ahead = _read_all(
                inputs, left - STEPS, place, SPAN, TILES, n, N, BLOCK
            )
            b, c = widened(b), widened(c)
            dts, slopes = step_sizes(
                dts, live, bias, left, lane, SPAN, SOFTPLUS
            )
            xs = unmasked(xs, live)
            us = product(dts, xs)
            dt_at = by_step(dts, lane, BLOCK, SPAN)
            u_at = by_step(us, lane, BLOCK, SPAN)
            parts = ()
            for k in tl.static_range(STEPS):
                h, decays = advance(
                    h,
                    a,
                    dt_at[k],
                    u_at[k],
                    b[k],
                    only(alive, k),
                    only(anew, k),
                )
                parts = parts + (dot(h, c[k]),)
            ys = add_skip(sum_to_tiles(parts, lane, BLOCK, SPAN), skip, xs)
            ys = gated(ys, unmasked(zs, live))
            # Not even NaN in C or D reaches a masked output.
            write_tiles(y, unmasked(ys, live), left, place, BLOCK, SPAN)
            (y,) = moved((y,), STEPS, "y")
    if last == length:
        write_states(end + row * d * n, h, place, n, BLOCK)
        if saved is not None:
            # So that nothing in `saved` is left to chance.
            for k in range(tl.cdiv(length, EVERY), segments):
                kept = saved + (row * segments + k) * n * d
                write_states(kept, h, place, n, BLOCK)


@triton.jit
def _read_all(
    inputs,
    left,
    place,
    SPAN: tl.constexpr,
    TILES: tl.constexpr,
    n: tl.constexpr,
    N: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """What an iteration needs, as it lies in memory."""
    x, dt, z, mask, resets, B, C = inputs
    lane, _, _ = place
    STEPS: tl.constexpr = lane.shape[0] // SPAN * TILES
    return (
        read_tiles(x, left, place, SPAN, TILES),
        read_tiles(dt, left, place, SPAN, TILES),
        read_tiles(z, left, place, SPAN, TILES),
        read_marks(mask, left, place, SPAN, TILES),
        read_flags(mask, left, STEPS),
        read_flags(resets, left, STEPS),
        read_maps(B, left, lane, STEPS, n, N, BLOCK),
        read_maps(C, left, lane, STEPS, n, N, BLOCK),
    )
