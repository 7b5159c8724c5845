"""How a selective scan on a GPU is cut into programs."""

import dataclasses

from jax.experimental import pallas as pl

from keras_ssm.kernels.pallas.gpu_lanes import LANES
from keras_ssm.kernels.pallas.scan_sizes import Sizes

# States in a lane, and steps of a run.
FORWARD, BACKWARD = (8, 8), (8, 8)
# Programs that keep a large GPU busy. In parts, a scan does up to twice the
# work, which pays where fewer than half of these are there.
PROGRAMS = 1024


@dataclasses.dataclass(frozen=True)
class Plan:
    """How a scan is cut into programs.

    Args:
        sizes: The sizes.
        rows: Rows of lanes.
        tile: Steps in a tile: as many as rows, or fewer, each in several.
        run: Steps that are written out one after the other.
        chunk: Steps between kept states.
        parts: Parts of time.
        dt_softplus: Whether step sizes pass through softplus.
        reverse: Whether to run from the end.
        interpret: Whether Pallas interprets the kernel.
    """

    sizes: Sizes
    rows: int
    tile: int
    run: int
    chunk: int
    parts: int
    dt_softplus: bool
    reverse: bool
    interpret: bool

    @property
    def registers(self):
        """States in a lane."""
        return self.sizes.states // self.rows

    @property
    def chunks(self):
        """Chunks in a row."""
        return -(-self.sizes.l // self.chunk)

    @property
    def part(self):
        """Chunks in a part; the last may have fewer."""
        return -(-self.chunks // self.parts)

    @property
    def ragged(self):
        """Whether a program comes to steps behind the last."""
        return self.sizes.l % self.chunk != 0


def make_plan(tensors, chunk, dt_softplus, reverse, interpret, backwards):
    """The plan for canonical tensors."""
    (b, l, d), (g, n) = tensors[0].shape, tensors[3].shape[2:]
    states = pl.next_power_of_2(n)
    registers, run = BACKWARD if backwards else FORWARD
    # At least two channels: one has too few of the bytes that memory moves.
    rows = min(max(states // registers, 1), LANES // 2)
    # The states of a run have to fit into registers.
    run = min(run, max(64 // (states // rows), 1))
    tile = min(rows, run)
    if interpret:
        # What is written out takes long to compile.
        tile = run = min(rows, 2)
    sizes = Sizes(b, l, d, g, n, LANES // rows, states)
    parts = _parts_of(b * g * sizes.blocks, -(-l // chunk), interpret)
    options = dt_softplus, reverse, interpret
    return Plan(sizes, rows, tile, run, chunk, parts, *options)


def _parts_of(programs, chunks, interpret):
    """Parts of time, all with something to do."""
    # A part of a few chunks takes as long to start as to compute.
    most, least = (2, 3) if interpret else (PROGRAMS // programs, 4)
    parts = max(1, min(most, chunks // least))
    return -(-chunks // -(-chunks // parts))
