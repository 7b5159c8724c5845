"""What the kernels of `ssd` know of a chunk, and how they multiply matrices.

A program has a chunk of `Q` steps of a row, which it counts in the direction of
the scan. Matrices are tiles of `Q` steps, `P` channels of a head and `N`
states; what is outside of a tensor, or masked, is read as 0.
"""

import triton
import triton.language as tl

from keras_ssm.kernels.triton.functions import exponential
from keras_ssm.kernels.triton.scan_memory import sequence

# Arguments that a compiled kernel takes as they come, so that one serves all
# batches, lengths and numbers of heads.
SIZES = ["length", "chunks", "heads", "groups"]
# An exponent whose exponential is 0, and of which 1024 have an exact sum.
LOWEST = tl.constexpr(-128.0)
GRAINS = tl.constexpr(128.0)  # in 1, of the coarse part


@triton.jit
def locate(chunks, parts, blocks):
    """The row, chunk, part of the heads, and block of this program."""
    program = tl.program_id(0)
    block = program % blocks
    part = program // blocks % parts
    chunk = program // (blocks * parts) % chunks
    row = program // (blocks * parts * chunks)
    # What rows and chunks have may lie more than 2**31 numbers apart.
    return row.to(tl.int64), chunk.to(tl.int64), part, block


@triton.jit
def find_live(mask, row, first, length, Q: tl.constexpr, REVERSE: tl.constexpr):
    """Which steps of a chunk count."""
    k = tl.arange(0, Q)
    live = k < length - first
    v = sequence(mask, row * length, 1, first, length, REVERSE)
    if len(v) > 0:
        live = live & (tl.load(v[0] + k * v[1], mask=live, other=0) != 0)
    return live


@triton.jit
def read_sums(sums, row, head, heads, chunk, chunks, Q: tl.constexpr):
    """What `sums_kernel` wrote for a chunk.

    Returns:
        The step sizes, the sums up to each step, and those over all of them,
        both sums in two parts.
    """
    far = chunks * Q
    sums += (row * heads + head) * 3 * far + chunk * Q
    k = tl.arange(0, Q)
    size = tl.load(sums + k)
    coarse, fine = sums + far, sums + 2 * far
    # Steps behind the end have no size.
    whole = tl.load(coarse + Q - 1), tl.load(fine + Q - 1)
    return size, (tl.load(coarse + k), tl.load(fine + k)), whole


@triton.jit
def read_tile(v, columns, width: tl.constexpr, live):
    """Some columns of the steps of a sequence, `(Q, columns)`."""
    p, step = v
    k = tl.arange(0, live.shape[0])
    at = p + (k[:, None] * step + columns[None, :])
    here = live[:, None] & (columns < width)[None, :]
    return tl.load(at, mask=here, other=0.0)


@triton.jit
def write_tile(v, tile, columns, width: tl.constexpr, exists):
    """The inverse of `read_tile`."""
    p, step = v
    k = tl.arange(0, exists.shape[0])
    at = p + (k[:, None] * step + columns[None, :])
    here = exists[:, None] & (columns < width)[None, :]
    tl.store(at, tile.to(p.dtype.element_ty), mask=here)


@triton.jit
def read_state(state, channels, states, p: tl.constexpr, n: tl.constexpr):
    """Part of a state `(p, n)`, transposed: `(states, channels)`."""
    at = state + (channels[None, :] * n + states[:, None])
    here = (channels < p)[None, :] & (states < n)[:, None]
    return tl.load(at, mask=here, other=0.0)


@triton.jit
def from_start(sums):
    """What is left at each step of the state before the chunk."""
    coarse, fine = sums
    return exponential(coarse + fine)


@triton.jit
def to_end(sums, whole):
    """What is left of each step behind the chunk."""
    coarse, fine = sums
    return exponential((whole[0] - coarse) + (whole[1] - fine))


@triton.jit
def between(sums, TRANSPOSED: tl.constexpr):
    """What is left at step `t` of step `s`, `(t, s)`."""
    coarse, fine = sums
    k = tl.arange(0, coarse.shape[0])
    v = coarse[:, None] - coarse[None, :]
    v += fine[:, None] - fine[None, :]
    past = k[:, None] >= k[None, :]
    if TRANSPOSED:
        v, past = -v, k[:, None] <= k[None, :]
    # Before the exponential, which may be of large numbers elsewhere.
    return exponential(tl.where(past, v, float("-inf")))


@triton.jit
def narrowed(v, PRECISION: tl.constexpr):
    """A matrix as it is multiplied."""
    return v.to(tl.bfloat16) if PRECISION == "bfloat16" else v.to(tl.float32)


@triton.jit
def multiply(a, b, total, PRECISION: tl.constexpr):
    """`total + a @ b`, as exact as the inputs of the op are.

    `PRECISION` is "bfloat16", or what `tl.dot` knows for float32.
    """
    if a.dtype == b.dtype and a.dtype.primitive_bitwidth == 16:
        total = tl.dot(a, b, total)
    elif PRECISION == "bfloat16":
        total = tl.dot(narrowed(a, PRECISION), narrowed(b, PRECISION), total)
    else:
        a, b = narrowed(a, PRECISION), narrowed(b, PRECISION)
        total = tl.dot(a, b, total, input_precision=PRECISION)
    return total


@triton.jit
def multiply_exactly(a, b, total, PRECISION: tl.constexpr):
    """`total + a @ b` as exact as float32, where `a` is an input of the op.

    Units that multiply half precision add up in float32. They have all digits
    of `a`, and get those of `b` in parts.
    """
    if PRECISION == "bfloat16":
        a = a.to(tl.bfloat16)
        high = b.to(tl.bfloat16)
        rest = b - high.to(tl.float32)
        middle = rest.to(tl.bfloat16)
        low = (rest - middle.to(tl.float32)).to(tl.bfloat16)
        total = tl.dot(a, low, total)
        total = tl.dot(a, middle, total)
        total = tl.dot(a, high, total)
    elif PRECISION == "tf32":
        a = a.to(tl.float32)
        # Its last 13 bits are those that the units leave out.
        high = b.to(tl.int32, bitcast=True) & -8192
        high = high.to(tl.float32, bitcast=True)
        total = tl.dot(a, b - high, total, input_precision="tf32")
        total = tl.dot(a, high, total, input_precision="tf32")
    else:
        a = a.to(tl.float32)
        total = tl.dot(a, b, total, input_precision=PRECISION)
    return total


@triton.jit
def products(
    v,
    others,
    width: tl.constexpr,
    live,
    BLOCK: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """`v[t] others[s]` of the steps of two sequences, `(t, s)`."""
    Q: tl.constexpr = live.shape[0]
    total = tl.zeros((Q, Q), tl.float32)
    for j in range(0, width, BLOCK):
        column = j + tl.arange(0, BLOCK)
        a = read_tile(v, column, width, live)
        b = read_tile(others, column, width, live)
        total = multiply(a, tl.trans(b), total, PRECISION)
    return total


@triton.jit
def read_out(
    maps,
    state,
    channel,
    p: tl.constexpr,
    n: tl.constexpr,
    live,
    N: tl.constexpr,
    PRECISION: tl.constexpr,
    EXACTLY: tl.constexpr,
):
    """`maps[t] state` for some channels of a state, `(t, channels)`."""
    total = tl.zeros((live.shape[0], channel.shape[0]), tl.float32)
    for m in range(0, n, N):
        states = m + tl.arange(0, N)
        a = read_tile(maps, states, n, live)
        h = read_state(state, channel, states, p, n)
        if EXACTLY:
            total = multiply_exactly(a, h, total, PRECISION)
        else:
            total = multiply(a, h, total, PRECISION)
    return total
