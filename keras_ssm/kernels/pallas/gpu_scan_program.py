"""What one program of a selective scan on a GPU reads and writes."""

import dataclasses

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu

from keras_ssm.kernels.pallas.gpu_lanes import (
    LANES,
    Warp,
    along,
    divided,
    split,
)
from keras_ssm.kernels.pallas.scan_sizes import LIVE, RESET


class Program:
    """What one program of a scan has: its lanes, parameters and memory."""

    def __init__(self, plan, refs):
        self.plan, self.refs = plan, refs
        self.warp = w = Warp(plan.rows, plan.interpret)
        block = pl.program_id(0)
        self.part, self.row = pl.program_id(1), pl.program_id(2)
        self.group, self.block = plan.sizes.place(block)
        self.channels = block * w.block + w.channel
        self.rates = None
        if getattr(refs, "A", None) is not None:
            self.rates = self.load_state(refs.A)
        self.D, self.bias = self._parameter("D"), self._parameter("dt_bias")

    def _parameter(self, name):
        ref = getattr(self.refs, name, None)
        return None if ref is None else ref[self.channels]

    def store_parameter(self, ref, v):
        """Writes the sum over the rows of tiles, if it is wanted."""
        if ref is not None:
            v = self.warp.sum_over_rows(v) * (self.plan.tile / self.plan.rows)
            ref[self.row, self.part, self.channels] = v

    def load_state(self, ref, *index):
        """A state, as vectors."""
        count = self.plan.registers
        shape = (count, LANES)
        states = along(1, self.warp.row * count, shape)
        states = states + along(0, jax.lax.iota(jnp.int32, count), shape)
        channels = along(1, self.channels, shape)
        return split(ref[(*index, states, channels)], 0)

    def store_state(self, ref, h, *index):
        """Writes a state."""
        first = self.warp.row * self.plan.registers
        for k, v in enumerate(h):
            ref[(*index, first + k, self.channels)] = v

    def over_chunks(self, chunk, carry, backwards=False):
        """Calls `chunk(c, carry)` for the chunks of the part."""
        plan = self.plan
        first, count = self.part * plan.part, plan.part
        if plan.chunks % plan.part:
            count = jnp.minimum(count, plan.chunks - first)

        def body(k, carry):
            return chunk(first + (count - 1 - k if backwards else k), carry)

        return jax.lax.fori_loop(0, count, body, carry)

    def over_runs(self, c, run, carry, backwards=False):
        """Calls `run(first, carry)` for the runs of a chunk."""
        plan = self.plan
        count = plan.chunk // plan.run

        def body(k, carry):
            k = count - 1 - k if backwards else k
            return run(c * plan.chunk + k * plan.run, carry)

        return jax.lax.fori_loop(0, count, body, carry)

    def time_of(self, s):
        """The time of steps and whether it is one, `None` if it always is."""
        l = self.plan.sizes.l
        t = l - 1 - s if self.plan.reverse else s
        if not self.plan.ragged:
            return t, None
        # The interpreter leaves alone what is written there, too.
        return jnp.where(s < l, t, l), s < l


class Run:
    """A run of steps, read at once: a program waits for memory once a run."""

    def __init__(self, program, first, names):
        self.program, self.first = program, first
        plan = program.plan
        count = plan.run // plan.tile
        shape = (count, LANES)
        row, _ = divided(program.warp.row, plan.rows // plan.tile)
        row = along(1, row, shape)
        tile = along(0, jax.lax.iota(jnp.int32, count) * plan.tile, shape)
        t, within = program.time_of(first + row + tile)
        inside = _inside(t, within)
        live = within
        if program.refs.marks is not None:
            of_mask = (program.refs.marks[program.row, inside] & LIVE) != 0
            live = of_mask if live is None else live & of_mask
        channels = along(1, program.channels, shape)

        def tiles(v):
            return [None] * count if v is None else split(v, 0)

        def read(name):
            ref = getattr(program.refs, name) if name in names else None
            if ref is None:
                return tiles(None)
            v = ref[program.row, inside, channels].astype(jnp.float32)
            return tiles(v if live is None else jnp.where(live, v, 0))

        columns = [tiles(t), tiles(within), tiles(live)]
        columns += [read(name) for name in ("x", "dt", "z", "dy")]
        self._maps = {}
        self.tiles = [
            _Tile(self, k * plan.tile, *column)
            for k, column in enumerate(zip(*columns, strict=True))
        ]

    def maps(self, name, k):
        """B or C at a step, as vectors."""
        p = self.program
        count = min(4, p.plan.run)
        group = k // count
        if (name, group) not in self._maps:
            self._maps[name, group] = self._load_maps(
                getattr(p.refs, name), self.first + group * count, count
            )
        return self._maps[name, group][k % count]

    def forget_maps(self):
        """Has B and C read again, rather than kept in registers."""
        self._maps = {}

    def _load_maps(self, ref, first, count):
        p = self.program
        registers = p.plan.registers
        # In pieces that a lane reads at once.
        width = min(registers, 16 // ref.dtype.itemsize)
        shape = (count, LANES, width)
        t = first + along(0, jax.lax.iota(jnp.int32, count), shape)
        t = _inside(*p.time_of(t))
        states = along(1, p.warp.row * registers, shape)
        states = states + along(2, jax.lax.iota(jnp.int32, width), shape)
        found = [[] for _ in range(count)]
        for piece in range(0, registers, width):
            tile = ref[p.row, t, p.group, states + piece]
            for k, v in enumerate(split(tile, 0)):
                found[k] += split(v.astype(jnp.float32), 1)
        return found


def _inside(t, within):
    """A time at which there is memory."""
    return t if within is None else jnp.where(within, t, 0)


class _Tile:
    """Vectors with a step of a run in each row, masked steps as 0."""

    def __init__(self, run, first, t, within, live, x, dt, z, dy):
        self.program = p = run.program
        self._t, self._within, self._live = t, within, live
        self.x, self.z, self.dy = x, z, dy
        raw = dt if p.bias is None else dt + p.bias
        self.size, self.slope = raw, jnp.float32(1)
        if p.plan.dt_softplus:
            e = jnp.exp(-jnp.abs(raw))
            self.size = jnp.maximum(raw, 0) + jnp.log1p(e)
            self.slope = jnp.where(raw < 0, e, 1) / (1 + e)
        self.size = self.select(self.size)
        self.update = None if x is None else self.size * x
        self.steps = [
            _Step(run, self, first + i, i) for i in range(p.plan.tile)
        ]

    def select(self, v):
        """`v`, or 0 at masked steps."""
        return v if self._live is None else jnp.where(self._live, v, 0)

    def with_skip(self, y):
        """y with the skip."""
        return y if self.program.D is None else y + self.program.D * self.x

    def store(self, ref, v):
        """Writes y, or the gradient of x, dt or z."""
        p = self.program
        v = self.select(v).astype(ref.dtype)
        at = ref.at[p.row, self._t, p.channels]
        plgpu.store(at, v, mask=self._within)


class _Step:
    """One step: its size and update in the lanes of their channels."""

    def __init__(self, run, tile, k, i):
        self._run, self._k = run, k
        self._program = p = run.program
        self._lanes_of = i * p.plan.rows // p.plan.tile
        self._t, self._within = p.time_of(run.first + k)
        self._live, self.reset = self._within, None
        self.size = self.of(tile.size)
        self.update = None if tile.x is None else self.of(tile.update)
        if p.refs.marks is not None:
            bits = p.refs.marks[p.row, _inside(self._t, self._within)]
            live, of_mask = self._live, (bits & LIVE) != 0
            self._live = of_mask if live is None else live & of_mask
            self.reset = self._live & ((bits & RESET) != 0)

    def of(self, v):
        """What a vector of the tile has of this step, in every row."""
        return self._program.warp.broadcast_row(v, self._lanes_of)

    def forget(self, h):
        """A state, emptied where the step starts anew."""
        if self.reset is None:
            return h
        return [jnp.where(self.reset, 0, v) for v in h]

    def decays(self):
        """exp(dt A)"""
        p = self._program
        return [p.warp.power(rate, self.size) for rate in p.rates]

    def advance(self, h, B, decays=None):
        """exp(dt A) h + dt B x"""
        decays = self.decays() if decays is None else decays
        return [
            decay * v + self.update * b
            for decay, v, b in zip(decays, h, B, strict=True)
        ]

    def maps(self, name):
        """B or C, as vectors."""
        found = self._run.maps(name, self._k)
        if self._live is None:
            return found
        return [jnp.where(self._live, v, 0) for v in found]

    def store_maps(self, dB, dC):
        """Writes the block's part of the gradients of B and C."""
        p = self._program
        count, parts = p.plan.registers, [*dB, *dC]
        first, _ = divided(p.warp.channel * len(parts), p.warp.block)
        for j, v in enumerate(p.warp.sum_to_channels(parts)):
            of, n = divided(first + j, count)
            n = p.warp.row * count + n
            at = (p.block, p.row, self._t, p.group, of, n)
            plgpu.store(p.refs.dmaps.at[at], v, mask=self._within)


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Fate:
    """What becomes of a state from before some steps.

    Args:
        total: The sum of their sizes, in the lanes that they were read in.
        kept: 1, or 0 once a step has started anew.
    """

    total: jax.Array
    kept: jax.Array

    def after(self, tile):
        """The same with the steps of a tile."""
        kept = self.kept
        for step in tile.steps:
            (kept,) = step.forget([kept])
        return Fate(self.total + tile.size, kept)

    def decays(self, program):
        """What a state is multiplied by."""
        plan, warp = program.plan, program.warp
        total = warp.sum_over_rows(self.total) * (plan.tile / plan.rows)
        decays = [warp.power(rate, total) for rate in program.rates]
        return [jnp.where(self.kept > 0, v, 0) for v in decays]
