"""The sizes of the matrices that the kernels of `ssd` multiply."""

import dataclasses

import torch
import triton

from keras_ssm.kernels.triton import launch

# The shortest side that units for products of matrices take.
_SHORTEST = 16
# The longest sides of tiles by precision: steps, channels and states, and
# states where two matrices of steps are kept as well. Larger ones would spill
# from registers, see `tests/kernels/test_triton_compiled.py`.
_LONGEST = {
    "bfloat16": (64, 64, 64, 32),
    "tf32": (64, 32, 32, 32),
    "tf32x3": (32, 32, 32, 32),
    "ieee": (32, 32, 32, 32),
}


@dataclasses.dataclass(frozen=True)
class Tiles:
    """How tensors are cut into tiles.

    Args:
        precision: How they are multiplied; see `ssd_chunks.multiply`.
        steps: Steps of a tile, which are those of a chunk.
        channels: Channels of a head in a tile.
        states: States in a tile.
        few_states: Likewise, where two matrices of steps are kept as well.
    """

    precision: str
    steps: int
    channels: int
    states: int
    few_states: int


def choose(x, B, C, chunk_size: int) -> Tiles:
    """The tiles for canonical tensors.

    Args:
        x: `(b, l, h, p)`.
        B: `(b, l, g, n)`.
        C: `(b, l, g, n)`.
        chunk_size: The most steps of a chunk that are wanted.
    """
    precision = _precision(x.device, {v.dtype for v in (x, B, C)})
    n = B.shape[-1]
    sizes = chunk_size, x.shape[-1], n, n
    sides = zip(sizes, _LONGEST[precision], strict=True)
    return Tiles(precision, *(_side(*v) for v in sides))


def _precision(device, dtypes):
    found = "tf32x3" if torch.float32 in dtypes else "tf32"
    found = "bfloat16" if dtypes == {torch.bfloat16} else found
    return found if found in launch.precisions(device) else "ieee"


def _side(size, longest):
    return min(longest, max(_SHORTEST, triton.next_power_of_2(size)))
