"""The causal convolution, forward and backward.

A program takes a block of channels of one row through a chunk of time, step
by step. The last inputs stay in registers, a tuple with the oldest first, so
that every input is read once, and again at the borders of chunks. Steps count
in the direction of the scan; those before the first are of the state.
"""

import triton
import triton.language as tl

from keras_ssm.kernels.triton.functions import sigmoid
from keras_ssm.kernels.triton.steps import (
    between,
    pointer_to,
    read_flags,
    read_steps,
)


@triton.jit
def _locate(batch, d, BLOCK: tl.constexpr):
    """The chunk and row of this program, and the channels of its lanes."""
    blocks = tl.cdiv(d, BLOCK)
    program = tl.program_id(0)
    row = program // blocks % batch
    chunk = program // (blocks * batch)
    channel = program % blocks * BLOCK + tl.arange(0, BLOCK)
    return chunk, row.to(tl.int64), channel, channel < d


@triton.jit
def _forget(window, resets, u: tl.constexpr):
    """The inputs that step `u` of some steps remembers."""
    known = ()
    for i in tl.static_range(len(window)):
        v = window[i]
        v = v if len(resets) == 0 else tl.where(resets[u], 0.0, v)
        known = known + (v,)
    return known


@triton.jit
def _remembered(
    x,
    x_step,
    state,
    resets,
    first,
    length,
    d,
    channel,
    within,
    TAPS: tl.constexpr,
    REVERSE: tl.constexpr,
):
    """The inputs before step `first`."""
    window = ()
    anew = read_flags(resets, first - TAPS + 1, length, TAPS, REVERSE)
    for i in tl.static_range(TAPS - 1):
        s = first - TAPS + 1 + i
        at = pointer_to(x, x_step, s, length, REVERSE) + channel
        here = between(within, s, 0, length)
        v = tl.load(at, mask=here, other=0.0).to(tl.float32)
        at = state + ((s + TAPS - 1) * d + channel)
        v += tl.load(at, mask=between(within, s, 1 - TAPS, 0), other=0.0)
        window = _forget(window, anew, i) + (v,)
    return window


@triton.jit
def _read_weights(weight, bias, d, channel, within, TAPS: tl.constexpr):
    w = ()
    for i in tl.static_range(TAPS):
        w = w + (tl.load(weight + (i * d + channel), mask=within, other=0.0),)
    shift = tl.zeros(channel.shape, tl.float32)
    if bias is not None:
        shift += tl.load(bias + channel, mask=within, other=0.0)
    return w, shift


@triton.jit
def _weigh(w, shift, taps):
    total = shift
    for i in tl.static_range(len(taps)):
        total += w[i] * taps[i]
    return total


@triton.jit(do_not_specialize=["batch", "length", "chunk_steps"])
def forward_kernel(
    x,
    weight,
    bias,
    state,
    resets,
    y,
    x_row,
    x_step,
    batch,
    length,
    d,
    chunk_steps,
    TAPS: tl.constexpr,
    BLOCK: tl.constexpr,
    STEPS: tl.constexpr,
    SILU: tl.constexpr,
    REVERSE: tl.constexpr,
):
    """y, `STEPS` steps at once."""
    chunk, row, channel, within = _locate(batch, d, BLOCK)
    first = chunk * chunk_steps
    last = tl.minimum(first + chunk_steps, length)
    x, y = x + row * x_row, y + row * length * d
    state += row * (TAPS - 1) * d
    if resets is not None:
        resets += row * length
    w, shift = _read_weights(weight, bias, d, channel, within, TAPS)
    window = _remembered(
        *(x, x_step, state, resets, first, length, d, channel, within),
        *(TAPS, REVERSE),
    )
    for s in range(first, last, STEPS):
        xs = read_steps(x, x_step, s, length, channel, within, STEPS, REVERSE)
        anew = read_flags(resets, s, length, STEPS, REVERSE)
        for u in tl.static_range(STEPS):
            taps = _forget(window, anew, u) + (xs[u].to(tl.float32),)
            v = _weigh(w, shift, taps)
            v = v * sigmoid(v) if SILU else v
            at = pointer_to(y, d, s + u, length, REVERSE) + channel
            here = between(within, s + u, first, last)
            tl.store(at, v.to(y.dtype.element_ty), mask=here)
            window = taps[1:]


@triton.jit(do_not_specialize=["batch", "length", "chunk_steps"])
def backward_kernel(
    x,
    weight,
    bias,
    state,
    resets,
    dy,
    dx,
    dweight,
    dbias,
    dstate,
    rows,
    steps,
    batch,
    length,
    d,
    chunk_steps,
    TAPS: tl.constexpr,
    BLOCK: tl.constexpr,
    STEPS: tl.constexpr,
    SILU: tl.constexpr,
    REVERSE: tl.constexpr,
):
    """All gradients, those of weight and bias for each row and chunk.

    With `p` the output before its activation, `dp[s] = dy[s] silu'(p[s])`:

        dx[s] = sum_j weight[j] dp[s + k-1 - j]     dbias = sum_s dp[s]
        dweight[j] = sum_s dp[s] x[s - (k-1) + j]

    The gradients of the last inputs stay in registers like these: the oldest
    is complete after every step. `rows` and `steps` are of x and dy.
    """
    chunk, row, channel, within = _locate(batch, d, BLOCK)
    first = chunk * chunk_steps
    last = tl.minimum(first + chunk_steps, length)
    x, dy = x + row * rows[0], dy + row * rows[1]
    dx += row * length * d
    state, dstate = state + row * (TAPS - 1) * d, dstate + row * (TAPS - 1) * d
    if resets is not None:
        resets += row * length
    part = chunk * batch + row
    w, shift = _read_weights(weight, bias, d, channel, within, TAPS)
    window = _remembered(
        *(x, steps[0], state, resets, first, length, d, channel, within),
        *(TAPS, REVERSE),
    )
    none = tl.zeros(channel.shape, tl.float32)
    dw, db, pending, reached = (none,), none, (), ()
    for _i in tl.static_range(TAPS - 1):
        dw, pending = dw + (none,), pending + (none,)
        if resets is not None:
            reached = reached + (first >= 0,)
    for s in range(first, last + TAPS - 1, STEPS):
        xs = read_steps(x, steps[0], s, length, channel, within, STEPS, REVERSE)
        dys = read_steps(
            dy, steps[1], s, length, channel, within, STEPS, REVERSE
        )
        anew = read_flags(resets, s, length, STEPS, REVERSE)
        for u in tl.static_range(STEPS):
            taps = _forget(window, anew, u) + (xs[u].to(tl.float32),)
            dp = dys[u].to(tl.float32)
            if SILU:
                p = _weigh(w, shift, taps)
                gate = sigmoid(p)
                dp = dp * gate * (1.0 + p * (1.0 - gate))
            own = tl.where(s + u < last, dp, 0.0)
            sums, given, reaching = (), (), ()
            for i in tl.static_range(TAPS):
                sums = sums + (dw[i] + own * taps[i],)
                v = w[i] * dp
                if i < TAPS - 1:
                    if resets is not None:
                        # What lies before a step that starts anew has no part
                        # in any step after it.
                        reach = reached[i] & (anew[u] == 0)
                        reaching = reaching + (reach,)
                        v = tl.where(reach, v, 0.0)
                    v = pending[i] + v
                given = given + (v,)
            at = s + u - (TAPS - 1)
            here = between(within, at, first, last)
            p_dx = pointer_to(dx, d, at, length, REVERSE) + channel
            tl.store(p_dx, given[0].to(dx.dtype.element_ty), mask=here)
            here = between(within, at, 1 - TAPS, -first)
            p_dstate = dstate + ((at + TAPS - 1) * d + channel)
            tl.store(p_dstate, given[0], mask=here)
            window, pending, dw, db = taps[1:], given[1:], sums, db + own
            if resets is not None:
                reached = reaching[1:] + (first >= 0,)
    for i in tl.static_range(TAPS):
        at = dweight + ((part * TAPS + i) * d + channel)
        tl.store(at, dw[i], mask=within)
    tl.store(dbias + (part * d + channel), db, mask=within)
