"""The backward kernel of the selective scan.

A program goes through its chunk from the end, by segments of `EVERY` steps:
from the state that the forward kernel saved before a segment it recomputes
those before every block of a few steps, and keeps them in `scratch`. It then
takes block after block from the last: it recomputes the states and decays of
its steps once more, now in registers, and walks them back. All in all that is
two exponentials for each state and step.

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
    widened,
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
    p,
    sums,
    k: tl.constexpr,
    left,
    lane,
    WIDTH: tl.constexpr,
    n: tl.constexpr,
    REGISTERS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Stores one step of dB, then of dC, where their sums have come to lie."""
    for q in tl.static_range(len(sums)):
        part = lane % BLOCK * (2 * REGISTERS)
        own = part % BLOCK == 0  # others have the same sum
        here = own & (tl.full(lane.shape, k, tl.int32) < left)
        part = part // BLOCK + q
        m = lane // BLOCK * REGISTERS + part % REGISTERS
        # How far steps lie apart is known here: the compiler adds it to the
        # addresses of the lanes.
        at = p + (part // REGISTERS * n + m) + k * WIDTH
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


@triton.jit
def _read_inputs(
    v,
    left,
    place,
    SPAN: tl.constexpr,
    TILES: tl.constexpr,
    n: tl.constexpr,
    N: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """What the states of a block follow from, as it lies in memory."""
    x, dt, B, mask, resets = v
    lane, _, _ = place
    STEPS: tl.constexpr = lane.shape[0] // SPAN * TILES
    return (
        read_tiles(x, left, place, SPAN, TILES),
        read_tiles(dt, left, place, SPAN, TILES),
        read_maps(B, left, lane, STEPS, n, N, BLOCK),
        read_marks(mask, left, place, SPAN, TILES),
        read_flags(mask, left, STEPS),
        read_flags(resets, left, STEPS),
    )


@triton.jit
def _read_outputs(
    v,
    left,
    place,
    SPAN: tl.constexpr,
    TILES: tl.constexpr,
    n: tl.constexpr,
    N: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """What the gradient needs of a block beside that."""
    C, z, dy = v
    lane, _, _ = place
    STEPS: tl.constexpr = lane.shape[0] // SPAN * TILES
    return (
        read_maps(C, left, lane, STEPS, n, N, BLOCK),
        read_tiles(z, left, place, SPAN, TILES),
        read_tiles(dy, left, place, SPAN, TILES),
    )


@triton.jit
def _keep_states(
    scratch,
    h,
    sequences,
    left,
    blocks,
    a,
    bias,
    place,
    SPAN: tl.constexpr,
    TILES: tl.constexpr,
    n: tl.constexpr,
    N: tl.constexpr,
    BLOCK: tl.constexpr,
    SOFTPLUS: tl.constexpr,
):
    """Keeps the states before all blocks of a segment but the last.

    Returns:
        The state before the last block, and its inputs.
    """
    lane = place[0]
    STEPS: tl.constexpr = lane.shape[0] // SPAN * TILES
    REGISTERS: tl.constexpr = len(h)
    ahead = _read_inputs(sequences, left, place, SPAN, TILES, n, N, BLOCK)
    for i in range(1, blocks):
        own = scratch + (i - 1) * (REGISTERS * lane.shape[0])
        _write_scratch(own, h, lane)
        xs, dts, b, live, alive, anew = ahead
        ahead = _read_inputs(
            moved(sequences, i * STEPS, "inputs"),
            left - i * STEPS,
            place,
            SPAN,
            TILES,
            n,
            N,
            BLOCK,
        )
        dts, slopes = step_sizes(dts, live, bias, STEPS, lane, SPAN, SOFTPLUS)
        us = product(dts, unmasked(xs, live))
        dt_at = by_step(dts, lane, BLOCK, SPAN)
        u_at = by_step(us, lane, BLOCK, SPAN)
        b = widened(b)
        for k in tl.static_range(STEPS):
            h, decays = advance(
                h, a, dt_at[k], u_at[k], b[k], only(alive, k), only(anew, k)
            )
    return h, ahead


@triton.jit
def _write_scratch(p, h, lane):
    """Keeps a state, as if lanes were channels."""
    write_states(p, h, (lane, lane, lane >= 0), len(h), lane.shape[0])


@triton.jit
def _read_scratch(p, lane, REGISTERS: tl.constexpr):
    place = lane, lane, lane >= 0
    return read_states(p, place, REGISTERS, REGISTERS, lane.shape[0])


@triton.jit
def _states_of_steps(h, a, dt_at, u_at, b, alive, anew):
    """The states before and after all steps of a block, and the decays."""
    states, decays = (h,), ()
    for k in tl.static_range(len(b)):
        h, decay = advance(
            h, a, dt_at[k], u_at[k], b[k], only(alive, k), only(anew, k)
        )
        states, decays = states + (h,), decays + (decay,)
    return states, decays


@triton.jit
def _block_back(
    carried,
    read,
    dx,
    ddt,
    dz,
    dmaps,
    left,
    a,
    skip,
    bias,
    place,
    SPAN: tl.constexpr,
    TILES: tl.constexpr,
    WIDTH: tl.constexpr,
    n: tl.constexpr,
    BLOCK: tl.constexpr,
    SOFTPLUS: tl.constexpr,
):
    """Walks a block back, and stores the gradients of its steps.

    Args:
        carried: Gradients with respect to the state after the block; sums
            over steps of those of A, D and the bias.
        read: The state before the block, and what was read of it.
        dx, ddt, dz: Where these gradients belong.
        dmaps: Where those of B and C belong, `WIDTH` apart for each step.

    Returns:
        `carried`, with this block.
    """
    g, of_A, of_D, of_bias = carried
    h, inputs, outputs = read
    xs, dts, b, live, alive, anew = inputs
    c, zs, dys = outputs
    lane, _, _ = place
    STEPS: tl.constexpr = len(b)
    b, c = widened(b), widened(c)
    dts, slopes = step_sizes(dts, live, bias, left, lane, SPAN, SOFTPLUS)
    xs, zs, dys = unmasked(xs, live), unmasked(zs, live), unmasked(dys, live)
    us, inners = product(dts, xs), gated(dys, zs)
    dt_at = by_step(dts, lane, BLOCK, SPAN)
    u_at = by_step(us, lane, BLOCK, SPAN)
    dy_at = by_step(inners, lane, BLOCK, SPAN)
    states, decays = _states_of_steps(h, a, dt_at, u_at, b, alive, anew)
    if len(zs) > 0:
        ys = ()
        for k in tl.static_range(STEPS):
            ys = ys + (dot(states[k + 1], c[k]),)
        ys = add_skip(sum_to_tiles(ys, lane, BLOCK, SPAN), skip, xs)
        dzs = product(product(dys, ys), _silu_slopes(zs))
        write_tiles(dz, unmasked(dzs, live), left, place, BLOCK, SPAN)
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
        _write_maps(dmaps, of_maps, k, left, lane, WIDTH, n, len(a), BLOCK)
    along = sum_to_tiles(along, lane, BLOCK, SPAN)
    through = sum_to_tiles(through, lane, BLOCK, SPAN)
    dxs, ddts = (), ()
    for i in tl.static_range(TILES):
        dxs = dxs + (skip * inners[i] + dts[i] * along[i],)
        v = (through[i] * LN2 + along[i] * xs[i]) * slopes[i]
        ddts = ddts + (v,)
    dxs, ddts = unmasked(dxs, live), unmasked(ddts, live)
    for i in tl.static_range(TILES):
        of_D += inners[i] * xs[i]
        of_bias += ddts[i]
    write_tiles(dx, dxs, left, place, BLOCK, SPAN)
    write_tiles(ddt, ddts, left, place, BLOCK, SPAN)
    return g, of_A, of_D, of_bias


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
    SOFTPLUS: tl.constexpr,
    REVERSE: tl.constexpr,
):
    """All gradients.

    Those of A, D and the bias for each row and chunk, `(b, chunks, ...)`;
    those of B and C together for each block of channels,
    `(blocks, b, g, l, 2 n)`. `rows` and `steps` are of x, dt, B, C, z and dy,
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
    of_group = ((block * batch + row) * groups + group) * length * (2 * n)
    WIDTH: tl.constexpr = -2 * n if REVERSE else 2 * n
    dmaps, step = sequence(dmaps, of_group, 2 * n, s0, length, REVERSE)
    inputs, outputs = (x, dt, B, mask, resets), (C, z, dy)
    gradients = dx, ddt, dz

    own = tl.program_id(0).to(tl.int64) * (EVERY // STEPS)
    scratch += own * (REGISTERS * LANES)
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
        h, of_inputs = _keep_states(
            scratch,
            h,
            inputs,
            last - s0,
            blocks,
            a,
            bias,
            place,
            SPAN,
            TILES,
            n,
            N,
            BLOCK,
            SOFTPLUS,
        )
        at = (blocks - 1) * STEPS
        of_outputs = _read_outputs(
            moved(outputs, at, "outputs"),
            last - s0 - at,
            place,
            SPAN,
            TILES,
            n,
            N,
            BLOCK,
        )
        # What one lane keeps no other lane reads: nothing has to be waited
        # for, and all stores come before all loads.
        tl.debug_barrier()

        carried = g, (none,) * REGISTERS, none, none
        for i in range(blocks):
            k = blocks - 1 - i
            read = h, of_inputs, of_outputs
            # The block before is read ahead; the first one once more.
            at = tl.maximum(k - 1, 0)
            h = _read_scratch(
                scratch + at * (REGISTERS * LANES), lane, REGISTERS
            )
            at *= STEPS
            of_inputs = _read_inputs(
                moved(inputs, at, "inputs"),
                last - s0 - at,
                place,
                SPAN,
                TILES,
                n,
                N,
                BLOCK,
            )
            of_outputs = _read_outputs(
                moved(outputs, at, "outputs"),
                last - s0 - at,
                place,
                SPAN,
                TILES,
                n,
                N,
                BLOCK,
            )
            to = moved(gradients, k * STEPS, "gradients")
            carried = _block_back(
                carried,
                read,
                to[0],
                to[1],
                to[2],
                dmaps + k * (STEPS * WIDTH),
                last - s0 - k * STEPS,
                a,
                skip,
                bias,
                place,
                SPAN,
                TILES,
                WIDTH,
                n,
                BLOCK,
                SOFTPLUS,
            )
        tl.debug_barrier()
        g, of_A, of_D, of_bias = carried
        inputs = moved(inputs, -EVERY, "inputs")
        outputs = moved(outputs, -EVERY, "outputs")
        gradients = moved(gradients, -EVERY, "gradients")
        dmaps -= EVERY * WIDTH
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
