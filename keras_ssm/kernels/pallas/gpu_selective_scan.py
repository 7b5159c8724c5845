"""The selective scan on a GPU, forward and backward.

A program is a warp with a block of channels of one row; it walks through time
step by step. The states of a channel lie in its column of lanes, as many in
each row: register `r` of lane row `i` is the state `i * registers + r`. What
belongs to a step and a channel is read in tiles, vectors with a step in each
row, so that nothing is computed twice.

The forward pass keeps the state before every chunk of steps. The backward pass
takes chunk after chunk from the end. It recomputes the states in a run of steps
in registers and walks them back; where a chunk has several runs, the states
between them lie in a spare array. The gradients of B and C are summed over the
channels of a block; their sums over blocks are left to XLA: nothing is atomic,
the bits are always the same.

`keras_ssm/kernels/lax/selective_scan.py` has the formulas.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu

from keras_ssm.kernels.pallas.calls import call
from keras_ssm.kernels.pallas.gpu_lanes import (
    LANES,
    Warp,
    along,
    divided,
    split,
)
from keras_ssm.kernels.pallas.scan_sizes import LIVE, RESET, Sizes, marks

_LOG2E = 1.4426950408889634
_LN2 = 0.6931471805599453


@dataclasses.dataclass(frozen=True)
class Plan:
    """How a scan is cut into programs.

    Args:
        sizes: The sizes.
        rows: Rows of lanes.
        tile: Steps in a tile: as many as rows, or fewer, each in several.
        run: Steps that are written out one after the other.
        chunk: Steps between kept states.
        dt_softplus: Whether step sizes pass through softplus.
        reverse: Whether to run from the end.
        interpret: Whether Pallas interprets the kernel.
    """

    sizes: Sizes
    rows: int
    tile: int
    run: int
    chunk: int
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
    def ragged(self):
        """Whether a program comes to steps behind the last."""
        return self.sizes.l % self.chunk != 0


def make_plan(tensors, chunk, dt_softplus, reverse, interpret):
    """The plan for canonical tensors."""
    (b, l, d), (g, n) = tensors[0].shape, tensors[3].shape[2:]
    states = pl.next_power_of_2(n)
    # Eight states in a lane where there are as many, and two channels.
    rows = min(max(states // 8, 1), LANES // 2)
    # The states of a run have to fit into registers.
    run = min(8, 64 // (states // rows))
    tile = min(rows, run)
    if interpret:
        # What is written out takes long to compile.
        tile = run = min(rows, 2)
    sizes = Sizes(b, l, d, g, n, LANES // rows, states)
    options = dt_softplus, reverse, interpret
    return Plan(sizes, rows, tile, run, chunk, *options)


def forward(plan, tensors, keep):
    """y, the last state, and with `keep` the states before every chunk."""
    s, f32 = plan.sizes, jnp.float32
    outputs = {
        "y": ((s.b, s.l, s.channels), tensors[0].dtype),
        "end": ((s.b, s.states, s.channels), f32),
        "starts": keep and ((s.b, plan.chunks, s.states, s.channels), f32),
    }
    found = _call(_forward_kernel, plan, _inputs(plan, tensors), outputs)
    results = [s.narrow(found["y"]), s.to_state(found["end"])]
    return [*results, s.to_starts(found["starts"])] if keep else results


def backward(plan, tensors, dy, dend, starts):
    """The gradients of the nine floating tensors, or `None`."""
    x, dt, _, _, _, D, z, dt_bias = tensors[:8]
    s, f32 = plan.sizes, jnp.float32
    given = _inputs(plan, tensors)
    given["dy"] = s.widen(dy)
    given["dend"] = s.from_state(dend)
    given["starts"] = s.from_starts(starts)
    steps, row = (s.b, s.l, s.channels), (s.b, s.channels)
    state = (s.b, s.states, s.channels)
    runs = plan.chunk // plan.run
    outputs = {
        "dx": (steps, x.dtype),
        "ddt": (steps, dt.dtype),
        "dA": (state, f32),
        # Of B and of C.
        "dmaps": ((s.blocks, s.b, s.l, s.g, 2, s.states), f32),
        "dD": D is not None and (row, f32),
        "dz": z is not None and (steps, z.dtype),
        "dbias": dt_bias is not None and (row, f32),
        "dstate": (state, f32),
        "spare": runs > 1 and ((s.b, runs, s.states, s.channels), f32),
    }
    found = _call(_backward_kernel, plan, given, outputs)
    dB, dC = jnp.moveaxis(found["dmaps"].sum(0)[..., : s.n], 3, 0)
    return [
        s.narrow(found["dx"]),
        s.narrow(found["ddt"]),
        s.to_state(found["dA"].sum(0)),
        dB,
        dC,
        None if D is None else s.narrow(found["dD"].sum(0)),
        None if z is None else s.narrow(found["dz"]),
        None if dt_bias is None else s.narrow(found["dbias"].sum(0)),
        s.to_state(found["dstate"]),
    ]


def _inputs(plan, tensors):
    """The tensors as the kernels read them, by name."""
    x, dt, A, B, C, D, z, dt_bias, state, mask, resets = tensors
    s = plan.sizes
    return {
        "x": s.widen(x),
        "dt": s.widen(dt),
        "A": s.from_state(A) * _LOG2E,
        "B": s.deepen(B),
        "C": s.deepen(C),
        "D": s.widen(D),
        "z": s.widen(z),
        "dt_bias": s.widen(dt_bias),
        "state": s.from_state(state),
        "marks": marks(mask, resets),
    }


def _call(kernel, plan, given, outputs):
    """Runs a kernel on whole arrays; returns its outputs by name."""
    s = plan.sizes
    return call(
        lambda refs: kernel(_Program(plan, refs)),
        given,
        outputs,
        grid=(s.g * s.blocks, s.b),
        compiler_params=plgpu.CompilerParams(num_warps=1, num_stages=1),
        interpret=plan.interpret,
        name=f"selective_scan{kernel.__name__}",
    )


def _forward_kernel(p):
    plan = p.plan

    def chunk(c, h):
        if p.refs.starts is not None:
            p.store_state(p.refs.starts, h, p.row, c)

        def run(j, h):
            return _forward_run(p, c * plan.chunk + j * plan.run, h)

        return jax.lax.fori_loop(0, plan.chunk // plan.run, run, h)

    h = p.load_state(p.refs.state, p.row)
    h = jax.lax.fori_loop(0, plan.chunks, chunk, h)
    p.store_state(p.refs.end, h, p.row)


def _forward_run(p, first, h):
    """Takes the steps of a run; returns the state behind it."""
    run = _Run(p, first, ("x", "dt", "z"))
    outputs = []
    for tile in run.tiles:
        parts = []
        for step in tile.steps:
            h = step.advance(step.forget(h), step.maps("B"))
            parts.append(_dot(h, step.maps("C")))
        y = tile.with_skip(p.warp.sum_to_rows(parts))
        outputs.append(y if tile.z is None else y * tile.z * _sigmoid(tile.z))
    for tile, y in zip(run.tiles, outputs, strict=True):
        tile.store(p.refs.y, y)
    return h


def _backward_kernel(p):
    plan = p.plan
    last = plan.chunk // plan.run - 1

    def chunk(k, carry):
        c = plan.chunks - 1 - k
        first = c * plan.chunk
        h = p.load_state(p.refs.starts, p.row, c)
        if last == 0:
            return _walk_back(p, first, h, carry)

        def keep(j, h):
            p.store_state(p.refs.spare, h, p.row, j)
            run = _Run(p, first + j * plan.run, ("x", "dt"))
            return _states_of_run(run, h)[-1]

        h = jax.lax.fori_loop(0, last, keep, h)
        p.store_state(p.refs.spare, h, p.row, last)

        def walk(k, carry):
            j = last - k
            h = p.load_state(p.refs.spare, p.row, j)
            return _walk_back(p, first + j * plan.run, h, carry)

        return jax.lax.fori_loop(0, last + 1, walk, carry)

    none = [p.warp.zeros()] * plan.registers
    g = p.load_state(p.refs.dend, p.row)
    carry = g, none, p.warp.zeros(), p.warp.zeros()
    g, dA, dD, dbias = jax.lax.fori_loop(0, plan.chunks, chunk, carry)
    p.store_state(p.refs.dstate, g, p.row)
    p.store_state(p.refs.dA, dA, p.row)
    p.store_parameter(p.refs.dD, dD)
    p.store_parameter(p.refs.dbias, dbias)


def _states_of_run(run, h):
    """The states before the steps of a run, and the one behind it."""
    states = []
    for tile in run.tiles:
        for step in tile.steps:
            states.append(step.forget(h))
            h = step.advance(states[-1], step.maps("B"))
    run.forget_maps()
    return [*states, h]


def _walk_back(p, first, h, carry):
    """Takes the steps of a run from its end; `h` is the state before it.

    What is carried is the gradient of the state behind the run, and the sums
    over time so far of the gradients of A, of D and of the bias.
    """
    run = _Run(p, first, ("x", "dt", "z", "dy"))
    *states, _ = _states_of_run(run, h)
    g, dA, dD, dbias = carry
    of_run = [p.warp.zeros()] * len(dA)
    for tile in reversed(run.tiles):
        dinner, gate = tile.dy, None
        if tile.z is not None:
            gate = _sigmoid(tile.z)
            dinner = dinner * tile.z * gate
        inner, along, through = [], [], []
        for step in reversed(tile.steps):
            h = states.pop()
            B, C, decays = step.maps("B"), step.maps("C"), step.decays()
            after = step.advance(h, B, decays)
            into = step.of(dinner)
            g = [v + into * c for v, c in zip(g, C, strict=True)]
            step.store_maps(
                [step.update * v for v in g], [into * v for v in after]
            )
            inner.insert(0, _dot(after, C))
            along.insert(0, _dot(g, B))
            g = [v * decay for v, decay in zip(g, decays, strict=True)]
            into_decay = [v * old for v, old in zip(g, h, strict=True)]
            through.insert(0, _dot(into_decay, p.rates))
            of_run = [
                total + v * step.size
                for total, v in zip(of_run, into_decay, strict=True)
            ]
            g = step.forget(g)
        along = p.warp.sum_to_rows(along)
        ddt = p.warp.sum_to_rows(through) * _LN2 + along * tile.x
        ddt = tile.select(ddt * tile.slope)
        dx = along * tile.size
        dx = dx if p.D is None else dx + p.D * dinner
        tile.store(p.refs.dx, dx)
        tile.store(p.refs.ddt, ddt)
        dD, dbias = dD + dinner * tile.x, dbias + ddt
        if tile.z is not None:
            y = tile.with_skip(p.warp.sum_to_rows(inner))
            slope = gate * (1 + tile.z * (1 - gate))
            tile.store(p.refs.dz, tile.dy * y * slope)
    # Run by run: long sums in float32 lose less in two levels.
    dA = [total + v for total, v in zip(dA, of_run, strict=True)]
    return g, dA, dD, dbias


class _Program:
    """What one program of a scan has: its lanes, parameters and memory."""

    def __init__(self, plan, refs):
        self.plan, self.refs = plan, refs
        self.warp = w = Warp(plan.rows, plan.interpret)
        block, self.row = pl.program_id(0), pl.program_id(1)
        self.group, self.block = plan.sizes.place(block)
        self.channels = block * w.block + w.channel
        self.rates = self.load_state(self.refs.A)
        self.D = self._load_parameter(self.refs.D)
        self.bias = self._load_parameter(self.refs.dt_bias)

    def _load_parameter(self, ref):
        return None if ref is None else ref[self.channels]

    def store_parameter(self, ref, v):
        """Writes the sum over the rows of tiles, if it is wanted."""
        if ref is not None:
            v = self.warp.sum_over_rows(v) * (self.plan.tile / self.plan.rows)
            ref[self.row, self.channels] = v

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

    def time_of(self, s):
        """The time of steps and whether it is one, `None` if it always is."""
        l = self.plan.sizes.l
        t = l - 1 - s if self.plan.reverse else s
        if not self.plan.ragged:
            return t, None
        # The interpreter leaves alone what is written there, too.
        return jnp.where(s < l, t, l), s < l


class _Run:
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
        self.update = self.size * x
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
        self._live, self._reset = self._within, None
        self.size, self.update = self.of(tile.size), self.of(tile.update)
        if p.refs.marks is not None:
            bits = p.refs.marks[p.row, _inside(self._t, self._within)]
            live, of_mask = self._live, (bits & LIVE) != 0
            self._live = of_mask if live is None else live & of_mask
            self._reset = self._live & ((bits & RESET) != 0)

    def of(self, v):
        """What a vector of the tile has of this step, in every row."""
        return self._program.warp.broadcast_row(v, self._lanes_of)

    def forget(self, h):
        """A state, emptied where the step starts anew."""
        if self._reset is None:
            return h
        return [jnp.where(self._reset, 0, v) for v in h]

    def decays(self):
        """exp(dt A)"""
        p = self._program
        return [p.warp.exp2(self.size * rate) for rate in p.rates]

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


def _dot(v, w):
    """The sum of products of two lists of vectors."""
    total = v[0] * w[0]
    for a, b in zip(v[1:], w[1:], strict=True):
        total = total + a * b
    return total


def _sigmoid(v):
    return 1 / (1 + jnp.exp(-v))
