"""What the lanes of one warp do together.

A program is a single warp, and every tensor in it is a vector with one number
in each lane: Triton has no layout to choose and nothing to move through
shared memory, and a program never waits for another warp. More numbers in a
lane are a tuple of vectors. The lanes are rows of `BLOCK`
channels: lane `row * BLOCK + i` has channel `i` of the program's block.

A tile holds a number for each channel and each of a few steps: its step `k` is
in the lanes from `k * SPAN` on, in all of the rows there are.
"""

import triton
import triton.language as tl


@triton.constexpr_function
def log2(size):
    return size.bit_length() - 1


@triton.jit
def by_step(tiles, lane, BLOCK: tl.constexpr, SPAN: tl.constexpr):
    """For each step of some tiles, a vector that is the same in every row."""
    found = ()
    for i in tl.static_range(len(tiles)):
        for k in tl.static_range(lane.shape[0] // SPAN):
            v = tiles[i]
            if lane.shape[0] > BLOCK:
                v = tl.gather(v, lane % BLOCK + k * SPAN, 0)
            found = found + (v,)
    return found


@triton.jit
def sum_to_tiles(parts, lane, BLOCK: tl.constexpr, SPAN: tl.constexpr):
    """The sums over rows of one vector for each step, as tiles."""
    PER_TILE: tl.constexpr = lane.shape[0] // SPAN
    tiles = ()
    for i in tl.static_range(len(parts) // PER_TILE):
        tile = parts[i * PER_TILE : (i + 1) * PER_TILE]
        for k in tl.static_range(log2(lane.shape[0] // BLOCK)):
            tile = _fold(tile, lane, lane.shape[0] >> (k + 1))
        tiles = tiles + (tile[0],)
    return tiles


@triton.jit
def sum_to_channels(parts, lane, BLOCK: tl.constexpr):
    """Sums vectors over the channels of each row.

    Of `p` vectors, channel `i` gets the sums of those from `i * p // BLOCK`
    on: `p // BLOCK` of them, or a single one that others have as well.
    """
    for k in tl.static_range(log2(BLOCK)):
        parts = _fold(parts, lane, BLOCK >> (k + 1))
    return parts


@triton.jit
def sum_of_tile(v, lane, BLOCK: tl.constexpr, SPAN: tl.constexpr):
    """The sum over the steps of a tile, in every row."""
    ROWS: tl.constexpr = lane.shape[0] // BLOCK
    v = tl.where(lane % SPAN < BLOCK, v, 0.0)
    for k in tl.static_range(log2(ROWS)):
        v = v + tl.gather(v, lane ^ (BLOCK << k), 0)
    return v


@triton.jit
def _fold(parts, lane, BIT: tl.constexpr):
    """Adds lanes that differ in one bit, halving the number of vectors.

    The lane without the bit keeps the first half of them, the other lane the
    second: each sends what the other keeps.
    """
    HALF: tl.constexpr = len(parts) // 2
    high = (lane & BIT) != 0
    sums = ()
    if HALF == 0:
        sums = (parts[0] + tl.gather(parts[0], lane ^ BIT, 0),)
    for i in tl.static_range(HALF):
        kept = tl.where(high, parts[i + HALF], parts[i])
        sent = tl.where(high, parts[i], parts[i + HALF])
        sums = sums + (kept + tl.gather(sent, lane ^ BIT, 0),)
    return sums


@triton.jit
def columns(tile):
    """The columns of a tile `(lanes, 1, 2, 4 or 8)`, a tuple of vectors."""
    LANES: tl.constexpr = tile.shape[0]
    COLUMNS: tl.constexpr = tile.shape[1]
    found = ()
    if COLUMNS == 1:
        found = (tl.reshape(tile, (LANES,)),)
    else:
        even, odd = tl.split(tl.reshape(tile, (LANES, COLUMNS // 2, 2)))
        even, odd = columns(even), columns(odd)
        for i in tl.static_range(COLUMNS // 2):
            found = found + (even[i], odd[i])
    return found


@triton.jit
def from_columns(parts):
    """The inverse of `columns`."""
    LANES: tl.constexpr = parts[0].shape[0]
    COLUMNS: tl.constexpr = len(parts)
    if COLUMNS == 1:
        tile = tl.reshape(parts[0], (LANES, 1))
    else:
        even, odd = (), ()
        for i in tl.static_range(COLUMNS // 2):
            even, odd = even + (parts[2 * i],), odd + (parts[2 * i + 1],)
        tile = tl.join(from_columns(even), from_columns(odd))
        tile = tl.reshape(tile, (LANES, COLUMNS))
    return tile
