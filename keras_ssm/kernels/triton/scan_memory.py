"""How a program of the scan finds and moves what it works on.

A program has `BLOCK` channels of one group, in one row, for one chunk of
time. Steps count in the direction of the scan. What belongs to a step and a
channel is moved in tiles; see `warp.py`. The states of a channel lie in its
column of lanes: with `N / rows` registers in each, register `r` of lane row
`i` is the state `i * N / rows + r`, so that a lane reads what it needs of B
and C in one go.

- `place` is the lanes, the channel of each, and whether it is of the group.
- A sequence is a pointer to a step, and how far steps lie apart, which is
  negative where the scan runs from the end; `()` if there is none.
- `left` is the number of steps from there to the end of the chunk. Behind it,
  tiles are 0, and B and C those of the last step: a step of size 0 with input
  0, which changes nothing.
"""

import triton
import triton.language as tl

from keras_ssm.kernels.triton.functions import LOG2E, softplus
from keras_ssm.kernels.triton.warp import columns, from_columns

# Arguments that a compiled kernel takes as they come, so that one serves all
# batches and lengths, split or not.
SIZES = [
    *("batch", "length", "d", "groups", "chunk_steps", "segments"),
    *("start_row", "start_chunk", "dend_row", "dend_chunk"),
]


@triton.jit
def locate(batch, groups, width, BLOCK: tl.constexpr, LANES: tl.constexpr):
    """The numbers of this program's chunk, row, group and block; `place`."""
    blocks = tl.cdiv(width, BLOCK)
    program = tl.program_id(0)
    block = program % blocks
    group = program // blocks % groups
    row = program // (blocks * groups) % batch
    chunk = program // (blocks * groups * batch)
    lane = tl.arange(0, LANES)
    member = block * BLOCK + lane % BLOCK
    place = lane, group * width + member, member < width
    # Rows, chunks and blocks may lie more than 2**31 numbers apart.
    row, chunk, block = row.to(tl.int64), chunk.to(tl.int64), block.to(tl.int64)
    return chunk, row, group, block, place


@triton.jit
def sequence(p, offset, step, s, length, REVERSE: tl.constexpr):
    """A row that begins at an offset, from step `s` on."""
    found = ()
    if p is not None:
        wide = tl.cast(step, tl.int64)
        if REVERSE:
            found = p + offset + (length - 1 - s) * wide, -step
        else:
            found = p + offset + s * wide, step
    return found


@triton.jit
def moved(sequences, steps, OF: tl.constexpr):
    """Sequences from so many steps further on.

    Triton 3.6 takes tuples that differ in where they have an empty one for
    the same; `OF` tells them apart.
    """
    found = ()
    for i in tl.static_range(len(sequences)):
        v = sequences[i]
        if len(v) > 0:
            p, step = v
            v = p + steps * tl.cast(step, tl.int64), step
        found = found + (v,)
    return found


@triton.jit
def read_tiles(v, left, place, SPAN: tl.constexpr, TILES: tl.constexpr):
    """The first tiles of a sequence, as they are; `()` if there is none."""
    lane, channel, within = place
    tiles = ()
    if len(v) > 0:
        p, step = v
        for i in tl.static_range(TILES):
            k = i * (lane.shape[0] // SPAN) + lane // SPAN
            at = p + (k * step + channel)
            tiles = tiles + (tl.load(at, mask=within & (k < left), other=0),)
    return tiles


@triton.jit
def read_marks(v, left, place, SPAN: tl.constexpr, TILES: tl.constexpr):
    """Tiles of a mask or of resets, which are the same in every channel."""
    lane, _, within = place
    return read_tiles(v, left, (lane, lane * 0, within), SPAN, TILES)


@triton.jit
def write_tiles(v, tiles, left, place, BLOCK: tl.constexpr, SPAN: tl.constexpr):
    """The inverse of `read_tiles`."""
    lane, channel, within = place
    p, step = v
    for i in tl.static_range(len(tiles)):
        k = i * (lane.shape[0] // SPAN) + lane // SPAN
        here = within & (k < left) & (lane % SPAN < BLOCK)
        tile = tiles[i].to(p.dtype.element_ty)
        tl.store(p + (k * step + channel), tile, mask=here)


@triton.jit
def unmasked(tiles, live):
    """Tiles in float32, 0 where they are masked."""
    found = ()
    for i in tl.static_range(len(tiles)):
        v = tiles[i].to(tl.float32)
        found = found + (
            v if len(live) == 0 else tl.where(live[i] != 0, v, 0.0),
        )
    return found


@triton.jit
def step_sizes(
    tiles,
    live,
    bias,
    left,
    lane,
    SPAN: tl.constexpr,
    SOFTPLUS: tl.constexpr,
):
    """Step sizes, and their slopes.

    Both are 0 for steps that are masked or behind the last.
    """
    sizes, slopes = (), ()
    raw = unmasked(tiles, live)
    for i in tl.static_range(len(tiles)):
        dt, slope = raw[i] + bias, tl.full(lane.shape, 1.0, tl.float32)
        if SOFTPLUS:
            dt, slope = softplus(dt)
        here = i * (lane.shape[0] // SPAN) + lane // SPAN < left
        here = here if len(live) == 0 else here & (live[i] != 0)
        sizes = sizes + (tl.where(here, dt, 0.0),)
        slopes = slopes + (tl.where(here, slope, 0.0),)
    return sizes, slopes


@triton.jit
def product(tiles, others):
    """Tile by tile."""
    found = ()
    for i in tl.static_range(len(tiles)):
        found = found + (tiles[i] * others[i],)
    return found


@triton.jit
def read_flags(v, left, COUNT: tl.constexpr):
    """Which of the first steps a mask, or resets, mark; `()` for none."""
    flags = ()
    if len(v) > 0:
        p, step = v
        for k in tl.static_range(COUNT):
            flag = tl.load(p + tl.minimum(k, left - 1) * step) != 0
            flags = flags + (flag & (left > k),)
    return flags


@triton.jit
def only(flags, k: tl.constexpr):
    """Flag `k`, in a tuple; `()` for no flags."""
    return flags if len(flags) == 0 else (flags[k],)


@triton.jit
def read_maps(
    v,
    left,
    lane,
    COUNT: tl.constexpr,
    n: tl.constexpr,
    N: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """B or C of the first steps, for `widened`.

    For each step a tuple of vectors, one for each register; in half precision
    one for two registers.
    """
    p, step = v
    REGISTERS: tl.constexpr = N * BLOCK // lane.shape[0]
    # At most 16 bytes at once.
    FIT: tl.constexpr = 128 // p.dtype.element_ty.primitive_bitwidth
    WIDE: tl.constexpr = min(REGISTERS, FIT)
    first = (lane // BLOCK * REGISTERS)[:, None]
    maps = ()
    for k in tl.static_range(COUNT):
        at = p + tl.minimum(k, left - 1) * step
        found = ()
        for i in tl.static_range(REGISTERS // WIDE):
            m = first + (tl.arange(0, WIDE) + i * WIDE)[None, :]
            here = m < n if n < N else None
            found = found + _packed(tl.load(at + m, mask=here))
        maps = maps + (found,)
    return maps


@triton.jit
def _packed(tile):
    """The columns of a tile; pairs of 16 bits in vectors of 32 bits.

    These are unsigned for bfloat16, signed for float16.
    """
    found = ()
    if tile.shape[1] == 1 or tile.dtype.primitive_bitwidth == 32:
        found = columns(tile)
    else:
        wide = columns(tile.to(tl.uint16, bitcast=True).to(tl.uint32))
        for i in tl.static_range(0, len(wide), 2):
            pair = wide[i] | (wide[i + 1] << 16)
            if tile.dtype == tl.float16:
                pair = pair.to(tl.int32, bitcast=True)
            found = found + (pair,)
    return found


@triton.jit
def _unpacked(packed):
    """The inverse of `_packed`, in float32."""
    found = ()
    for i in tl.static_range(len(packed)):
        v = packed[i]
        if v.dtype == tl.uint32:
            # bfloat16 is the upper half of float32.
            low = (v << 16).to(tl.float32, bitcast=True)
            high = (v & 0xFFFF0000).to(tl.float32, bitcast=True)
            found = found + (low, high)
        elif v.dtype == tl.int32:
            low = v.to(tl.int16).to(tl.float16, bitcast=True)
            high = (v >> 16).to(tl.int16).to(tl.float16, bitcast=True)
            found = found + (low.to(tl.float32), high.to(tl.float32))
        else:
            found = found + (v.to(tl.float32),)
    return found


@triton.jit
def widened(maps):
    """What `read_maps` found, in float32."""
    found = ()
    for k in tl.static_range(len(maps)):
        found = found + (_unpacked(maps[k]),)
    return found


@triton.jit
def read_states(
    p, place, n: tl.constexpr, N: tl.constexpr, BLOCK: tl.constexpr
):
    """States `(d, n)`, or rates, one vector for each register."""
    REGISTERS: tl.constexpr = N * BLOCK // place[0].shape[0]
    WIDE: tl.constexpr = min(REGISTERS, 4)
    states = ()
    for i in tl.static_range(0, REGISTERS, WIDE):
        offset, here = _states_at(place, i, WIDE, REGISTERS, n, BLOCK)
        tile = tl.load(p + offset, mask=here, other=0.0)
        states = states + columns(tile)
    return states


@triton.jit
def write_states(p, states, place, n: tl.constexpr, BLOCK: tl.constexpr):
    """The inverse of `read_states`."""
    REGISTERS: tl.constexpr = len(states)
    WIDE: tl.constexpr = min(REGISTERS, 4)
    for i in tl.static_range(0, REGISTERS, WIDE):
        offset, here = _states_at(place, i, WIDE, REGISTERS, n, BLOCK)
        tile = from_columns(states[i : i + WIDE])
        tl.store(p + offset, tile, mask=here)


@triton.jit
def _states_at(
    place,
    i: tl.constexpr,
    WIDE: tl.constexpr,
    REGISTERS: tl.constexpr,
    n: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Where registers from `i` on lie in `(d, n)`, and whether they exist."""
    lane, channel, within = place
    m = (lane // BLOCK * REGISTERS + i)[:, None] + tl.arange(0, WIDE)[None, :]
    here = within[:, None]
    if n < REGISTERS * (lane.shape[0] // BLOCK):
        here = here & (m < n)
    return (channel * n)[:, None] + m, here


@triton.jit
def read_rates(A, place, n: tl.constexpr, N: tl.constexpr, BLOCK: tl.constexpr):
    """A, for powers of 2."""
    a = read_states(A, place, n, N, BLOCK)
    rates = ()
    for r in tl.static_range(len(a)):
        rates = rates + (a[r] * LOG2E,)
    return rates


@triton.jit
def read_parameter(p, place):
    """D or the bias of each lane's channel; 0 for none."""
    lane, channel, within = place
    if p is None:
        v = tl.zeros(lane.shape, tl.float32)
    else:
        v = tl.load(p + channel, mask=within, other=0.0)
    return v
