"""The last two kernels of the gradient of `ssd`.

With the states before chunks and their gradients behind them, as the kernels of
`ssd_forward.py` find them, `inputs_kernel` has what belongs to a head and
`maps_kernel` what the heads of a group share. The formulas are those of
`keras_ssm/kernels/ssd_chunk.py`.

Gradients of A, D, the bias and the step sizes are sums of products that cancel,
and as exact as float32; those of x, B and C are as exact as the inputs.
"""

import triton
import triton.language as tl

from keras_ssm.kernels.triton.functions import softplus
from keras_ssm.kernels.triton.scan_memory import sequence
from keras_ssm.kernels.triton.ssd_chunks import (
    SIZES,
    between,
    find_live,
    from_start,
    locate,
    multiply,
    multiply_exactly,
    narrowed,
    products,
    read_out,
    read_state,
    read_sums,
    read_tile,
    to_end,
    write_tile,
)


@triton.jit(do_not_specialize=SIZES)
def inputs_kernel(
    x,
    dt,
    A,
    B,
    C,
    D,
    dt_bias,
    mask,
    sums,
    starts,
    dy,
    after,
    dx,
    ddt,
    dA,
    dD,
    dbias,
    rows,
    steps,
    length,
    chunks,
    heads,
    groups,
    p: tl.constexpr,
    n: tl.constexpr,
    Q: tl.constexpr,
    P: tl.constexpr,
    N: tl.constexpr,
    PRECISION: tl.constexpr,
    SOFTPLUS: tl.constexpr,
    REVERSE: tl.constexpr,
):
    """Gradients of x and dt; of A, D and the bias those of each chunk.

    `rows` and `steps` are how far rows and steps of x, dt, B, C and dy lie
    apart.
    """
    row, chunk, head, _ = locate(chunks, heads, 1)
    first = chunk * Q
    of_group, of_head = head // (heads // groups) * n, head * p
    x = sequence(x, row * rows[0] + of_head, steps[0], first, length, REVERSE)
    B = sequence(B, row * rows[2] + of_group, steps[2], first, length, REVERSE)
    C = sequence(C, row * rows[3] + of_group, steps[3], first, length, REVERSE)
    dy = sequence(dy, row * rows[4] + of_head, steps[4], first, length, REVERSE)
    at = row * length * heads
    dx = sequence(dx, at * p + of_head, heads * p, first, length, REVERSE)
    live = find_live(mask, row, first, length, Q, REVERSE)
    size, sums, whole = read_sums(sums, row, head, heads, chunk, chunks, Q)
    state = ((row * (chunks + 1) + chunk) * heads + head) * (p * n)
    starts, after = starts + state, after + state
    k = tl.arange(0, Q)

    # One matrix of sums after the other, so that they stay in registers.
    within = products(C, B, n, live, N, PRECISION) * between(sums, False)
    pairs = products(dy, x, p, live, P, PRECISION) * within
    dsize = tl.sum(pairs, 0)
    within = narrowed(tl.trans(within * size[None, :]), PRECISION)
    # Of the exponents: sums over pairs of steps `s < r <= t`.
    until = (k[:, None] <= k[None, :]).to(tl.float32)
    pairs = multiply_exactly(
        until,
        pairs * size[None, :],
        tl.zeros((Q, Q), tl.float32),
        PRECISION,
    )
    pairs = tl.where(k[None, :] < k[:, None], pairs, 0.0)
    da = tl.sum(pairs, 1)

    of_start = tl.zeros((Q,), tl.float32)
    of_end = tl.zeros((Q,), tl.float32)
    skip = tl.zeros((Q,), tl.float32)
    of_whole = tl.zeros((P,), tl.float32)
    for j in range(0, p, P):
        channel = j + tl.arange(0, P)
        v = read_out(C, starts, channel, p, n, live, N, PRECISION, True)
        dys = read_tile(dy, channel, p, live)
        of_start += tl.sum(dys.to(tl.float32) * v, 1)
        v = tl.zeros((Q, P), tl.float32)
        for m in range(0, n, N):
            states = m + tl.arange(0, N)
            b = read_tile(B, states, n, live)
            g = read_state(after, channel, states, p, n)
            h = read_state(starts, channel, states, p, n)
            of_whole += tl.sum(h * g, 0)
            v = multiply_exactly(b, g, v, PRECISION)
        v *= to_end(sums, whole)[:, None]
        xs = read_tile(x, channel, p, live).to(tl.float32)
        of_end += tl.sum(xs * v, 1)
        skip += tl.sum(xs * dys.to(tl.float32), 1)
        v *= size[:, None]
        if D is not None:
            v += tl.load(D + head) * dys.to(tl.float32)
        v = multiply(within, dys, v, PRECISION)
        v = tl.where(live[:, None], v, 0.0)
        write_tile(dx, v, channel, p, k < length - first)

    dsize += of_end
    of_end, of_start = of_end * size, of_start * from_start(sums)
    v = tl.where(k[None, :] < k[:, None], of_end[None, :], of_start[None, :])
    da += tl.sum(v, 1) + from_start(whole) * tl.sum(of_whole, 0)
    # Where an exponent is not `dt A`, nothing goes on: its gradient is 0.
    dsize += da * tl.load(A + head)
    if SOFTPLUS:
        at_dt = row * rows[1] + head
        dt = sequence(dt, at_dt, steps[1], first, length, REVERSE)
        dsize *= _read_slopes(dt, dt_bias, head, live)
    dsize = tl.where(live, dsize, 0.0)
    to, step = sequence(ddt, at + head, heads, first, length, REVERSE)
    of_dt = dsize.to(to.dtype.element_ty)
    tl.store(to + k * step, of_dt, mask=k < length - first)
    at = (row * chunks + chunk) * heads + head
    tl.store(dA + at, tl.sum(da * size, 0))
    tl.store(dD + at, tl.sum(skip, 0))
    tl.store(dbias + at, tl.sum(dsize, 0))


@triton.jit
def _read_slopes(dt, dt_bias, head, live):
    """The slopes of softplus."""
    p, step = dt
    raw = tl.load(p + tl.arange(0, live.shape[0]) * step, mask=live, other=0)
    raw = raw.to(tl.float32)
    if dt_bias is not None:
        raw += tl.load(dt_bias + head)
    _, slope = softplus(raw)
    return slope


@triton.jit(do_not_specialize=[*SIZES, "batch", "splits"])
def maps_kernel(
    v,
    others,
    maps,
    mask,
    sums,
    states,
    gradient,
    rows,
    steps,
    length,
    chunks,
    heads,
    groups,
    batch,
    splits,
    p: tl.constexpr,
    n: tl.constexpr,
    Q: tl.constexpr,
    P: tl.constexpr,
    N: tl.constexpr,
    PRECISION: tl.constexpr,
    REVERSE: tl.constexpr,
    OF_B: tl.constexpr,
):
    """The gradient of C or of B, `(splits, b, l, g, n)`.

    That of C has the gradient of y for `v`, x for `others`, B for `maps`, and
    the states before chunks; that of B has x, the gradient of y, C, and the
    gradients of the states behind them. The heads of a group are cut into
    `splits`. A program takes its heads one after the other; what belongs to
    pairs of steps is multiplied with `maps` once for all of them. `rows` and
    `steps` are how far rows and steps of the first three lie apart.
    """
    row, chunk, part, block = locate(chunks, groups * splits, (n + N - 1) // N)
    group, split = part // splits, part % splits
    first = chunk * Q
    live = find_live(mask, row, first, length, Q, REVERSE)
    state = block * N + tl.arange(0, N)
    states += (row * (chunks + 1) + chunk) * heads * (p * n)
    pairs = tl.zeros((Q, Q), tl.float32)
    total = tl.zeros((Q, N), tl.float32)
    members = heads // groups
    each = tl.cdiv(members, splits)
    last = tl.minimum((split + 1) * each, members)
    for i in range(split * each, last):
        head = group * members + i
        size, of_head, whole = read_sums(
            sums, row, head, heads, chunk, chunks, Q
        )
        at = row * rows[0] + head * p
        vs = sequence(v, at, steps[0], first, length, REVERSE)
        at = row * rows[1] + head * p
        ws = sequence(others, at, steps[1], first, length, REVERSE)
        h_of_head = states + head.to(tl.int64) * (p * n)
        of_pairs = products(vs, ws, p, live, P, PRECISION)
        of_pairs *= between(of_head, OF_B)
        pairs += of_pairs * (size[:, None] if OF_B else size[None, :])
        carried = tl.zeros((Q, N), tl.float32)
        for j in range(0, p, P):
            channel = j + tl.arange(0, P)
            a = read_tile(vs, channel, p, live)
            h = tl.trans(read_state(h_of_head, channel, state, p, n))
            carried = multiply(a, h, carried, PRECISION)
        weight = size * to_end(of_head, whole) if OF_B else from_start(of_head)
        total += carried * weight[:, None]
    at = row * rows[2] + group * n
    maps = sequence(maps, at, steps[2], first, length, REVERSE)
    total = multiply(pairs, read_tile(maps, state, n, live), total, PRECISION)
    at = ((split * batch + row) * length * groups + group) * n
    to = sequence(gradient, at, groups * n, first, length, REVERSE)
    # Not one store of what `tl.where` selects: ptxas 12.8 and 12.9 would take
    # all of it for 0 on sm_90.
    write_tile(to, total, state, n, live)
    if mask is not None:
        dead = (tl.arange(0, Q) < length - first) & (live == 0)
        write_tile(to, tl.zeros((Q, N), tl.float32), state, n, dead)
