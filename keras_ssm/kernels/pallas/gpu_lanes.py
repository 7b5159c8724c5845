"""What the lanes of one warp do together, in Pallas' Triton.

A program is a single warp, and every tensor in it is a vector with one number
in each of its `LANES` lanes: no layout to choose, nothing moves through shared
memory, and no program waits for another warp. More numbers in a lane are a
list of vectors. The lanes are `rows` times `block`: lane `row * block + i` has
channel `i` of the program's block.

The lanes of a warp read each other by instructions that Pallas has no words
for; under its interpreter, which knows no warps, they are indexed.
"""

import jax
import jax.numpy as jnp
from jax.experimental.pallas import triton as plgpu

LANES = 32


class Warp:
    """A warp of `rows` times `block` lanes.

    Args:
        rows: Rows of lanes.
        interpret: Whether Pallas interprets the kernel.
    """

    def __init__(self, rows: int, interpret: bool):
        self.rows, self.block = rows, LANES // rows
        self._interpret = interpret
        self.lane = jax.lax.iota(jnp.int32, LANES)
        if not interpret:
            # Hides from Triton that neighbours read neighbouring memory: it
            # would give a lane several channels of one step.
            self.lane = _assembly("mov.b32 $0, $1;", self.lane)
        self.row, self.channel = divided(self.lane, self.block)

    def zeros(self):
        """A vector of zeros."""
        return jnp.zeros((LANES,), jnp.float32)

    def broadcast_row(self, v, row):
        """The row `row` of `v`, in every row."""
        if self.rows == 1:
            return v
        return self._read(v, self.channel + row * self.block)

    def sum_to_rows(self, parts):
        """Sums over rows; of `p` vectors, row `i` gets `i * p // rows`."""
        bit = LANES // 2
        while bit >= self.block:
            parts = self._fold(parts, bit)
            bit //= 2
        return parts[0]

    def sum_to_channels(self, parts):
        """Sums vectors over the channels of each row.

        Of `p` vectors, channel `i` gets the sums of those from
        `i * p // block` on: `p // block` of them, or a single one that others
        have as well.
        """
        bit = self.block // 2
        while bit:
            parts = self._fold(parts, bit)
            bit //= 2
        return parts

    def sum_over_rows(self, v):
        """The sum over rows, in every row."""
        bit = self.block
        while bit < LANES:
            v = v + self._read(v, self.lane ^ bit)
            bit *= 2
        return v

    def _fold(self, parts, bit):
        """Adds lanes that differ in one bit, halving the number of vectors.

        The lane without the bit keeps the first half of them, the other lane
        the second: each sends what the other keeps.
        """
        other = self.lane ^ bit
        half = len(parts) // 2
        if half == 0:
            return [parts[0] + self._read(parts[0], other)]
        high = (self.lane & bit) != 0
        sums = []
        for first, second in zip(parts[:half], parts[half:], strict=True):
            sent = jnp.where(high, first, second)
            kept = jnp.where(high, second, first)
            sums.append(kept + self._read(sent, other))
        return sums

    def _read(self, v, lane):
        """What `v` is in the lanes `lane`."""
        if self._interpret:
            return v[lane]
        return _assembly("shfl.sync.idx.b32 $0, $1, $2, 31, -1;", v, lane)

    def power(self, rate, size):
        """2 to the power of `rate size`, by the special function unit.

        Where that is almost 1, the unit's result is half a unit in the last
        place too small on average; a state that decays slowly would add up
        these errors. As much is added to the exponent, which takes no time and
        leaves steps of size 0 as they are.
        """
        v = rate * size + 2.0**-25
        if self._interpret:
            return jnp.exp2(v)
        return _assembly("ex2.approx.ftz.f32 $0, $1;", v)


def _assembly(text, *vectors):
    kinds = {jnp.dtype("float32"): "f", jnp.dtype("int32"): "r"}
    kinds = [kinds[v.dtype] for v in vectors]
    (result,) = plgpu.elementwise_inline_asm(
        text,
        args=vectors,
        constraints=",".join([f"={kinds[0]}", *kinds]),
        pack=1,
        result_shape_dtypes=[
            jax.ShapeDtypeStruct(vectors[0].shape, vectors[0].dtype)
        ],
    )
    return result


def divided(v, size):
    """Quotient and remainder of non-negative integers by a power of two."""
    return v >> (size.bit_length() - 1), v & (size - 1)


def along(axis, v, shape):
    """A vector along one axis of an array of that shape."""
    return jax.lax.broadcast_in_dim(v, shape, (axis,))


def split(v, axis):
    """The arrays along an axis of `2**k`, a list."""
    if v.shape[axis] == 1:
        return [v.reshape(v.shape[:axis] + v.shape[axis + 1 :])]
    halves = jax.lax.split(v, [v.shape[axis] // 2] * 2, axis=axis)
    return [one for half in halves for one in split(half, axis)]
