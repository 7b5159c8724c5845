"""The kernels of `ssd`, in the order in which they run.

1. `sums_kernel`: step sizes, and sums of exponents from the start of a chunk;
2. `states_kernel`: what each chunk adds to the state;
3. `passing_kernel`: the states between chunks, one after the other;
4. `outputs_kernel`: each chunk from the state before it.

The gradient goes through 1, and through 2 and 3 from the end, with C and the
gradient of `y` in the places of B and `x`. Then come the kernels of
`ssd_backward.py`. What a chunk computes is in `keras_ssm/kernels/ssd_chunk.py`.
"""

import triton
import triton.language as tl

from keras_ssm.kernels.triton.functions import softplus
from keras_ssm.kernels.triton.scan_memory import sequence
from keras_ssm.kernels.triton.ssd_chunks import (
    GRAINS,
    LOWEST,
    SIZES,
    between,
    find_live,
    from_start,
    locate,
    multiply,
    multiply_exactly,
    products,
    read_out,
    read_sums,
    read_tile,
    to_end,
    write_tile,
)


@triton.jit(do_not_specialize=SIZES)
def sums_kernel(
    dt,
    A,
    dt_bias,
    mask,
    resets,
    sums,
    row_of_dt,
    step_of_dt,
    length,
    chunks,
    heads,
    Q: tl.constexpr,
    H: tl.constexpr,
    SOFTPLUS: tl.constexpr,
    REVERSE: tl.constexpr,
):
    """Step sizes, and sums of the coarse and the fine parts of `dt A`.

    They are `(b, h, 3, l)`, in the order of the scan, with whole chunks.
    """
    row, chunk, _, block = locate(chunks, 1, tl.cdiv(heads, H))
    first = chunk * Q
    k = tl.arange(0, Q)
    head = block * H + tl.arange(0, H)
    known = head < heads
    live = find_live(mask, row, first, length, Q, REVERSE)
    here = live[:, None] & known[None, :]
    p, step = sequence(dt, row * row_of_dt, step_of_dt, first, length, REVERSE)
    at = p + (k[:, None] * step + head[None, :])
    size = tl.load(at, mask=here, other=0).to(tl.float32)
    if dt_bias is not None:
        size += tl.load(dt_bias + head, mask=known, other=0)[None, :]
    if SOFTPLUS:
        size, _ = softplus(size)
    size = tl.where(here, size, 0.0)
    a = size * tl.load(A + head, mask=known, other=0)[None, :]
    # Not `tl.maximum`, which makes a number of NaN.
    a = tl.where(a < LOWEST, LOWEST, a)
    v = sequence(resets, row * length, 1, first, length, REVERSE)
    if len(v) > 0:
        anew = tl.load(v[0] + k * v[1], mask=live, other=0) != 0
        a = tl.where(anew[:, None], LOWEST, a)
    coarse = tl.floor(a * GRAINS + 0.5) / GRAINS
    far = chunks * Q
    to = sums + (row * heads + head)[None, :] * (3 * far) + first
    to += k[:, None]
    tl.store(to, size, mask=known[None, :])
    tl.store(to + far, tl.cumsum(coarse, 0), mask=known[None, :])
    tl.store(to + 2 * far, tl.cumsum(a - coarse, 0), mask=known[None, :])


@triton.jit(do_not_specialize=SIZES)
def states_kernel(
    x,
    maps,
    mask,
    sums,
    states,
    decays,
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
    REVERSE: tl.constexpr,
    ADJOINT: tl.constexpr,
):
    """`sum_s exp(c[q] - c[s]) dt[s] x[s] B[s]`, and `exp(c[q])`.

    With `ADJOINT`, where `x` is the gradient of y and `maps` is C, `sum_t
    exp(c[t]) x[t] C[t]`. `rows` and `steps` are how far rows and steps of `x`
    and `maps` lie apart.
    """
    ALONG: tl.constexpr = (n + N - 1) // N
    BLOCKS: tl.constexpr = (p + P - 1) // P * ALONG
    row, chunk, head, block = locate(chunks, heads, BLOCKS)
    first = chunk * Q
    of_group = head // (heads // groups) * n
    x = sequence(x, row * rows[0] + head * p, steps[0], first, length, REVERSE)
    maps = sequence(
        maps, row * rows[1] + of_group, steps[1], first, length, REVERSE
    )
    live = find_live(mask, row, first, length, Q, REVERSE)
    size, sums, whole = read_sums(sums, row, head, heads, chunk, chunks, Q)
    weight = from_start(sums) if ADJOINT else size * to_end(sums, whole)
    channel = block // ALONG * P + tl.arange(0, P)
    state = block % ALONG * N + tl.arange(0, N)
    v = read_tile(maps, state, n, live).to(tl.float32) * weight[:, None]
    v = multiply_exactly(
        tl.trans(read_tile(x, channel, p, live)),
        v,
        tl.zeros((P, N), tl.float32),
        PRECISION,
    )
    states += ((row * (chunks + 1) + chunk) * heads + head) * (p * n)
    at = states + (channel[:, None] * n + state[None, :])
    here = (channel < p)[:, None] & (state < n)[None, :]
    tl.store(at, v, mask=here)
    if block == 0:
        decays += (row * chunks + chunk) * heads + head
        tl.store(decays, from_start(whole))


@triton.jit(do_not_specialize=["chunks", "heads"])
def passing_kernel(
    state,
    states,
    decays,
    end,
    chunks,
    heads,
    size: tl.constexpr,
    BLOCK: tl.constexpr,
    AHEAD: tl.constexpr,
    ADJOINT: tl.constexpr,
):
    """The state before each chunk, in the place of what the chunk adds to it.

    With `ADJOINT`, from the end, the gradient of the state behind it.
    """
    BLOCKS: tl.constexpr = (size + BLOCK - 1) // BLOCK
    row, _, head, block = locate(1, heads, BLOCKS)
    at = block * BLOCK + tl.arange(0, BLOCK)
    within = at < size
    of_head = (row * heads + head) * size
    h = tl.load(state + of_head + at, mask=within, other=0.0)
    first = states + (row * (chunks + 1) * heads + head) * size + at
    decays += row * chunks * heads + head
    for c0 in range(0, chunks, AHEAD):
        # Together, so that they are waited for once.
        updates, factors = (), ()
        for i in tl.static_range(AHEAD):
            c, here = _place(c0 + i, chunks, within, ADJOINT)
            v = tl.load(first + c * heads * size, mask=here, other=0.0)
            updates, v = updates + (v,), tl.load(decays + c * heads)
            factors = factors + (v,)
        for i in tl.static_range(AHEAD):
            c, here = _place(c0 + i, chunks, within, ADJOINT)
            tl.store(first + c * heads * size, h, mask=here)
            h = tl.where(here, factors[i] * h + updates[i], h)
    if not ADJOINT:
        # So that nothing of what is kept is left to chance.
        last = tl.cast(chunks, tl.int64) * heads * size
        tl.store(first + last, h, mask=within)
    tl.store(end + of_head + at, h, mask=within)


@triton.jit
def _place(c, chunks, within, ADJOINT: tl.constexpr):
    """Where the `c`-th chunk lies, and the lanes that have one."""
    here = within & (tl.zeros(within.shape, tl.int32) + c < chunks)
    c = tl.minimum(c, chunks - 1)
    place = chunks - 1 - c if ADJOINT else c
    return tl.cast(place, tl.int64), here


@triton.jit(do_not_specialize=SIZES)
def outputs_kernel(
    x,
    B,
    C,
    D,
    mask,
    sums,
    starts,
    y,
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
    REVERSE: tl.constexpr,
):
    """y, from the state before each chunk.

    `rows` and `steps` are how far rows and steps of x, B and C lie apart.
    """
    row, chunk, head, block = locate(chunks, heads, (p + P - 1) // P)
    first = chunk * Q
    of_group = head // (heads // groups) * n
    x = sequence(x, row * rows[0] + head * p, steps[0], first, length, REVERSE)
    B = sequence(B, row * rows[1] + of_group, steps[1], first, length, REVERSE)
    C = sequence(C, row * rows[2] + of_group, steps[2], first, length, REVERSE)
    d = heads * p
    y = sequence(y, row * length * d + head * p, d, first, length, REVERSE)
    live = find_live(mask, row, first, length, Q, REVERSE)
    size, sums, _ = read_sums(sums, row, head, heads, chunk, chunks, Q)
    starts += ((row * (chunks + 1) + chunk) * heads + head) * (p * n)
    channel = block * P + tl.arange(0, P)
    scores = products(C, B, n, live, N, PRECISION)
    carried = read_out(C, starts, channel, p, n, live, N, PRECISION, False)
    v = read_tile(x, channel, p, live)
    within = scores * between(sums, False) * size[None, :]
    total = multiply(within, v, carried * from_start(sums)[:, None], PRECISION)
    if D is not None:
        total += tl.load(D + head) * v.to(tl.float32)
    # Not even NaN in D reaches a masked output.
    total = tl.where(live[:, None], total, 0.0)
    write_tile(y, total, channel, p, tl.arange(0, Q) < length - first)
