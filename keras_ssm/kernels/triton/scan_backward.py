"""The backward kernel of the selective scan.

A program goes through its chunk from the end, by segments of `EVERY` steps:
from the state that the forward kernel saved before a segment it recomputes
those before every few steps, and keeps them in `scratch`. It then takes these
few steps at a time from the last: it recomputes their states and decays once
more, now in registers, and walks them back. All in all that is two
exponentials for each state and step.

`keras_ssm/kernels/lax/selective_scan.py` has the formulas. The sums over the
channels of a block are stored for each block, the sums over time for each
chunk, and PyTorch adds them up: no order is left to chance.
"""

import triton
import triton.language as tl

from keras_ssm.kernels.triton.functions import LN2, sigmoid
from keras_ssm.kernels.triton.scan_forward import (
    add_skip,
    advance,
    dot,
    forget,
    gated,
)
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
    write_states,
    write_tiles,
)
from keras_ssm.kernels.triton.warp import (
    by_step,
    sum_of_tile,
    sum_to_channels,
    sum_to_tiles,
)


@triton.jit
def _step_back(g, dA, a, dt, u, dy, before, after, decays, b, c, live, reset):
    """One step of the gradient.

    Args:
        g: Gradients with respect to the states after this step, without what
            goes through `y`.
        dA: Sums of the gradients with respect to the rates.
        dt, u, dy: Of the step: its size, its input `dt x`, the gradient with
            respect to `C h`.
        before, after, decays: States and decays.

    Returns:
        `g` of the step before; `dA`; the gradients of B and C before the sum
        over channels; the sums over this lane's states of `g B` and of
        `g decay h A`.
    """
    before_g, sums, dB, dC = (), (), (), ()
    along, through = 0.0, 0.0
    for r in tl.static_range(len(g)):
        v = g[r] + dy * c[r]
        v = v if len(live) == 0 else tl.where(live[0], v, g[r])
        dB, dC = dB + (v * u,), dC + (dy * after[r],)
        along += v * b[r]
        v = v * decays[r]
        exponent = v * forget(before[r], reset)
        through += exponent * a[r]
        sums = sums + (dA[r] + exponent * dt,)
        before_g = before_g + (forget(v, reset),)
    return before_g, sums, dB + dC, along, through


@triton.jit
def _write_maps(
    v,
    sums,
    k: tl.constexpr,
    left,
    lane,
    n: tl.constexpr,
    REGISTERS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Stores one step of dB, then of dC, where their sums have come to lie."""
    p, step = v
    for q in tl.static_range(len(sums)):
        part = lane % BLOCK * (2 * REGISTERS)
        own = part % BLOCK == 0  # others have the same sum
        here = own & (tl.full(lane.shape, k, tl.int32) < left)
        part = part // BLOCK + q
        m = lane // BLOCK * REGISTERS + part % REGISTERS
        at = p + (k * step + part // REGISTERS * n + m)
        tl.store(at, sums[q], mask=here & (m < n))


@triton.jit
def _add_states(p, sums, add, place, n: tl.constexpr, N: tl.constexpr, BLOCK):
    """Adds to the states at `p`, or stores."""
    before, found = read_states(p, place, n, N, BLOCK), ()
    for r in tl.static_range(len(sums)):
        found = found + (sums[r] + tl.where(add, before[r], 0.0),)
    write_states(p, found, place, n, BLOCK)


@triton.jit
def _silu_slopes(zs):
    slopes = ()
    for i in tl.static_range(len(zs)):
        gate = sigmoid(zs[i])
        slopes = slopes + (gate * (1.0 + zs[i] * (1.0 - gate)),)
    return slopes


@triton.jit(do_not_specialize=SIZES)
def backward_kernel(
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
    saved,
    dy,
    dend,
    scratch,
    dx,
    ddt,
    dA,
    dmaps,
    dD,
    dz,
    dbias,
    dstate,
    rows,
    steps,
    dend_row,
    dend_chunk,
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
    FMA: tl.constexpr,
    SOFTPLUS: tl.constexpr,
    REVERSE: tl.constexpr,
):
    """All gradients.

    Those of A, D and the bias for each row and chunk, `(b, chunks, ...)`;
    those of B and C together for each block of channels,
    `(blocks, b, l, g, 2 n)`. `rows` and `steps` are of x, dt, B, C, z and dy,
    the rest is like that of the forward kernel.
    """
    chunk, row, group, block, place = locate(
        batch, groups, d // groups, BLOCK, LANES
    )
    lane, channel, within = place
    STEPS: tl.constexpr = LANES // SPAN * TILES
    REGISTERS: tl.constexpr = N * BLOCK // LANES
    first = chunk.to(tl.int32) * chunk_steps
    last = tl.minimum(first + chunk_steps, length)
    # The last segment comes first.
    count = tl.cdiv(last - first, EVERY)
    s0 = first + (count - 1) * EVERY
    of_group = group * n
    x = sequence(x, row * rows[0], steps[0], s0, length, REVERSE)
    dt = sequence(dt, row * rows[1], steps[1], s0, length, REVERSE)
    B = sequence(B, row * rows[2] + of_group, steps[2], s0, length, REVERSE)
    C = sequence(C, row * rows[3] + of_group, steps[3], s0, length, REVERSE)
    z = sequence(z, row * rows[4], steps[4], s0, length, REVERSE)
    dy = sequence(dy, row * rows[5], steps[5], s0, length, REVERSE)
    mask = sequence(mask, row * length, 1, s0, length, REVERSE)
    resets = sequence(resets, row * length, 1, s0, length, REVERSE)
    dx = sequence(dx, row * length * d, d, s0, length, REVERSE)
    ddt = sequence(ddt, row * length * d, d, s0, length, REVERSE)
    dz = sequence(dz, row * length * d, d, s0, length, REVERSE)
    width = groups * 2 * n
    of_group = (block * batch + row) * length * width + group * 2 * n
    dmaps = sequence(dmaps, of_group, width, s0, length, REVERSE)
    forward, backward = (x, dt, B, mask, resets), (C, z, dy)
    gradients = dx, ddt, dz, dmaps

    own = tl.program_id(0).to(tl.int64) * (EVERY // STEPS)
    scratch += own * (REGISTERS * LANES)
    # As if the states of the lanes were those of that many channels.
    kept = lane, lane, lane >= 0
    part = row * tl.cdiv(length, chunk_steps) + chunk
    dA += part * n * d
    dend += row * dend_row + chunk * dend_chunk
    g = read_states(dend, place, n, N, BLOCK)
    a = read_rates(A, place, n, N, BLOCK)
    skip, bias = read_parameter(D, place), read_parameter(dt_bias, place)
    none = tl.zeros(lane.shape, tl.float32)
    sum_D, sum_bias = none, none
    for segment in range(count):
        s0 = first + (count - 1 - segment) * EVERY
        blocks = tl.cdiv(tl.minimum(EVERY, last - s0), STEPS)
        before = saved + (row * segments + s0 // EVERY) * n * d
        h = read_states(before, place, n, N, BLOCK)
        write_states(scratch, h, kept, REGISTERS, LANES)
        for _i in range(blocks - 1):
            x, dt, B, mask, resets = forward
            b = read_maps(B, STEPS, lane, STEPS, n, N, BLOCK)
            alive = read_flags(mask, STEPS, STEPS)
            anew = read_flags(resets, STEPS, STEPS)
            xs = read_tiles(x, STEPS, place, SPAN, TILES)
            dts = read_tiles(dt, STEPS, place, SPAN, TILES)
            live = read_marks(mask, STEPS, place, SPAN, TILES)
            dts, slopes = step_sizes(
                dts, live, bias, STEPS, lane, SPAN, SOFTPLUS
            )
            us = product(dts, unmasked(xs, live))
            dt_at = by_step(dts, lane, BLOCK, SPAN)
            u_at = by_step(us, lane, BLOCK, SPAN)
            for k in tl.static_range(STEPS):
                h, decays = advance(
                    h,
                    a,
                    dt_at[k],
                    u_at[k],
                    b[k],
                    only(alive, k),
                    only(anew, k),
                    FMA,
                )
            scratch += REGISTERS * LANES
            write_states(scratch, h, kept, REGISTERS, LANES)
            forward = moved(forward, STEPS)
        # What one lane keeps no other lane reads: nothing has to be waited
        # for, and all stores come before all loads.
        tl.debug_barrier()

        backward = moved(backward, (blocks - 1) * STEPS)
        gradients = moved(gradients, (blocks - 1) * STEPS)
        of_A, of_D, of_bias = (none,) * REGISTERS, none, none
        for i in range(blocks):
            left = last - s0 - (blocks - 1 - i) * STEPS
            x, dt, B, mask, resets = forward
            C, z, dy = backward
            h = read_states(scratch, kept, REGISTERS, REGISTERS, LANES)
            b = read_maps(B, left, lane, STEPS, n, N, BLOCK)
            c = read_maps(C, left, lane, STEPS, n, N, BLOCK)
            alive = read_flags(mask, left, STEPS)
            anew = read_flags(resets, left, STEPS)
            live = read_marks(mask, left, place, SPAN, TILES)
            xs = read_tiles(x, left, place, SPAN, TILES)
            dts = read_tiles(dt, left, place, SPAN, TILES)
            zs = read_tiles(z, left, place, SPAN, TILES)
            dys = read_tiles(dy, left, place, SPAN, TILES)
            dts, slopes = step_sizes(
                dts, live, bias, left, lane, SPAN, SOFTPLUS
            )
            xs, zs, dys = (
                unmasked(xs, live),
                unmasked(zs, live),
                unmasked(dys, live),
            )
            us, inners = product(dts, xs), gated(dys, zs)
            dt_at = by_step(dts, lane, BLOCK, SPAN)
            u_at = by_step(us, lane, BLOCK, SPAN)
            dy_at = by_step(inners, lane, BLOCK, SPAN)
            states, decays, outputs = (h,), (), ()
            for k in tl.static_range(STEPS):
                h, decay = advance(
                    h,
                    a,
                    dt_at[k],
                    u_at[k],
                    b[k],
                    only(alive, k),
                    only(anew, k),
                    FMA,
                )
                states, decays = states + (h,), decays + (decay,)
                if len(zs) > 0:
                    outputs = outputs + (dot(h, c[k]),)
            dx, ddt, dz, dmaps = gradients
            along, through = (), ()
            for k in tl.static_range(STEPS - 1, -1, -1):
                g, of_A, of_maps, along_k, through_k = _step_back(
                    g,
                    of_A,
                    a,
                    dt_at[k],
                    u_at[k],
                    dy_at[k],
                    states[k],
                    states[k + 1],
                    decays[k],
                    b[k],
                    c[k],
                    only(alive, k),
                    only(anew, k),
                )
                along, through = (along_k,) + along, (through_k,) + through
                of_maps = sum_to_channels(of_maps, lane, BLOCK)
                _write_maps(dmaps, of_maps, k, left, lane, n, REGISTERS, BLOCK)
            along = sum_to_tiles(along, lane, BLOCK, SPAN)
            through = sum_to_tiles(through, lane, BLOCK, SPAN)
            dxs, ddts = (), ()
            for i_ in tl.static_range(TILES):
                dxs = dxs + (skip * inners[i_] + dts[i_] * along[i_],)
                v = (through[i_] * LN2 + along[i_] * xs[i_]) * slopes[i_]
                ddts = ddts + (v,)
            dxs, ddts = unmasked(dxs, live), unmasked(ddts, live)
            for i_ in tl.static_range(TILES):
                of_D += inners[i_] * xs[i_]
                of_bias += ddts[i_]
            write_tiles(dx, dxs, left, place, BLOCK, SPAN)
            write_tiles(ddt, ddts, left, place, BLOCK, SPAN)
            if len(zs) > 0:
                outputs = sum_to_tiles(outputs, lane, BLOCK, SPAN)
                outputs = add_skip(outputs, skip, xs)
                dzs = product(product(dys, outputs), _silu_slopes(zs))
                write_tiles(dz, unmasked(dzs, live), left, place, BLOCK, SPAN)
            scratch -= REGISTERS * LANES
            forward, backward = moved(forward, -STEPS), moved(backward, -STEPS)
            gradients = moved(gradients, -STEPS)
        tl.debug_barrier()
        scratch += REGISTERS * LANES
        forward = moved(forward, STEPS - EVERY)
        backward = moved(backward, STEPS - EVERY)
        gradients = moved(gradients, STEPS - EVERY)
        # Segment by segment: long sums in float32 lose less in two levels.
        sum_D += of_D
        sum_bias += of_bias
        _add_states(dA, of_A, segment > 0, place, n, N, BLOCK)
    at = part * d + channel
    here = within & (lane < BLOCK)
    tl.store(dD + at, sum_of_tile(sum_D, lane, BLOCK, SPAN), mask=here)
    tl.store(dbias + at, sum_of_tile(sum_bias, lane, BLOCK, SPAN), mask=here)
    if first == 0:
        write_states(dstate + row * d * n, g, place, n, BLOCK)
