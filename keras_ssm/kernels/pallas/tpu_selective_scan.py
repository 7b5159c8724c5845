"""The selective scan on a TPU, forward and backward.

A program has a row, a block of `LANES` channels and a block of time; channels
lie on lanes, states on sublanes. What is carried from one block of time to the
next stays in scratch memory, since the grid takes these in turn. Steps are
taken in groups of `GROUP`, the height of a register: what belongs to a step and
a channel is computed for a group at once, and written out in blocks of float32
before it is cast, since rows of narrower types cannot be written alone.

The forward pass keeps the state before every chunk of steps. The backward pass
takes the blocks from their end, and in them chunk after chunk: it recomputes
the states in a chunk and walks them back. The gradients of B and C are summed
over a block of channels, and over blocks by XLA.

`keras_ssm/kernels/lax/selective_scan.py` has the formulas.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from keras_ssm.kernels.pallas.calls import call
from keras_ssm.kernels.pallas.scan_sizes import LIVE, RESET, Sizes, marks

LANES = 128
GROUP = 8
# Steps in a block of time, if there are as many.
_BLOCK = 128


@dataclasses.dataclass(frozen=True)
class Plan:
    """How a scan is cut into programs.

    Args:
        sizes: The sizes.
        steps: Steps in a block of time.
        chunk: Steps between kept states.
        marked: Whether there is a mask, or resets.
        dt_softplus: Whether step sizes pass through softplus.
        reverse: Whether to run from the end.
        interpret: Whether Pallas interprets the kernel.
    """

    sizes: Sizes
    steps: int
    chunk: int
    marked: bool
    dt_softplus: bool
    reverse: bool
    interpret: bool

    @property
    def chunks(self):
        """Chunks in a row."""
        return -(-self.sizes.l // self.chunk)

    @property
    def blocks(self):
        """Blocks of time."""
        return -(-self.sizes.l // self.steps)

    @property
    def ragged(self):
        """Whether the last block of time is not full."""
        return self.sizes.l % self.steps != 0


def make_plan(tensors, chunk, dt_softplus, reverse, interpret, backwards):
    """The plan for canonical tensors, the same in both directions."""
    (b, l, d), (g, n) = tensors[0].shape, tensors[3].shape[2:]
    sizes = Sizes(b, l, d, g, n, LANES, -(-n // GROUP) * GROUP)
    steps = min(_BLOCK, -(-l // chunk) * chunk)
    marked = tensors[9] is not None or tensors[10] is not None
    options = marked, dt_softplus, reverse, interpret
    return Plan(sizes, steps, chunk, *options)


def forward(plan, tensors, keep):
    """y, the last state, and with `keep` the states before every chunk."""
    s, f32 = plan.sizes, jnp.float32
    given = _inputs(plan, tensors)
    outputs = {
        "y": ((s.b, s.l, s.channels), given["x"].dtype),
        "end": ((s.b, s.states, s.channels), f32),
        "starts": keep and ((s.b, plan.chunks, s.states, s.channels), f32),
    }
    scratch = {
        "h": (s.states, LANES),
        "y_rows": (plan.steps, LANES),
    }
    found = _call(_forward_kernel, plan, given, outputs, scratch, plan.reverse)
    y = s.narrow(found["y"]).astype(tensors[0].dtype)
    results = [y, s.to_state(found["end"])]
    return [*results, s.to_starts(found["starts"])] if keep else results


def backward(plan, tensors, dy, dend, starts):
    """The gradients of the nine floating tensors, or `None`."""
    x, dt, _, _, _, D, z, dt_bias = tensors[:8]
    s, f32 = plan.sizes, jnp.float32
    given = _inputs(plan, tensors)
    given["dy"] = s.widen(_known(dy))
    given["dend"] = s.from_state(dend)
    given["starts"] = s.from_starts(starts)
    steps, row = (s.b, s.l, s.channels), (s.b, 1, s.channels)
    state = (s.b, s.states, s.channels)
    maps = (s.blocks, s.b, s.g, s.l, s.states)
    outputs = {
        "dx": (steps, given["x"].dtype),
        "ddt": (steps, given["dt"].dtype),
        "dz": z is not None and (steps, given["z"].dtype),
        "dB": (maps, f32),
        "dC": (maps, f32),
        "dA": (state, f32),
        "dD": (row, f32),
        "dbias": (row, f32),
        "dstate": (state, f32),
    }
    rows = (plan.steps, LANES)
    scratch = {
        "g": (s.states, LANES),
        "before": (plan.chunk, s.states, LANES),
        **dict.fromkeys(("dx_rows", "ddt_rows", "dz_rows"), rows),
    }
    found = _call(
        _backward_kernel, plan, given, outputs, scratch, not plan.reverse
    )
    dB, dC = (
        jnp.swapaxes(found[name].sum(0)[..., : s.n], 1, 2)
        for name in ("dB", "dC")
    )
    dD, dbias = (s.narrow(found[name].sum((0, 1))) for name in ("dD", "dbias"))
    return [
        s.narrow(found["dx"]).astype(x.dtype),
        s.narrow(found["ddt"]).astype(dt.dtype),
        s.to_state(found["dA"].sum(0)),
        dB,
        dC,
        None if D is None else dD,
        None if z is None else s.narrow(found["dz"]).astype(z.dtype),
        None if dt_bias is None else dbias,
        s.to_state(found["dstate"]),
    ]


def _inputs(plan, tensors):
    """The tensors as the kernels read them, by name."""
    x, dt, A, B, C, D, z, dt_bias, state, mask, resets = tensors
    x, dt, B, C, z = (v if v is None else _known(v) for v in (x, dt, B, C, z))
    s = plan.sizes
    return {
        "x": s.widen(x),
        "dt": s.widen(dt),
        "A": s.from_state(A),
        "B": jnp.swapaxes(s.deepen(B), 1, 2),
        "C": jnp.swapaxes(s.deepen(C), 1, 2),
        "D": None if D is None else s.widen(D)[None],
        "z": s.widen(z),
        "bias": None if dt_bias is None else s.widen(dt_bias)[None],
        "state": s.from_state(state),
        "marks": _marks(plan, mask, resets),
    }


def _known(v):
    """`v` in a type that a TPU has."""
    return v.astype(jnp.float32) if v.dtype == jnp.float16 else v


def _marks(plan, mask, resets):
    """The bits of mask and resets for each block of time, or `None`."""
    bits = marks(mask, resets)
    if bits is None:
        return None
    s = plan.sizes
    added = plan.blocks * plan.steps - s.l
    bits = jnp.pad(bits, ((0, 0), (0, added)))
    return bits.reshape(s.b, plan.blocks, 1, plan.steps)


def _specs(plan, backwards):
    """The block of each tensor that a program sees, by name."""
    s = plan.sizes

    def time(i):
        return plan.blocks - 1 - i if backwards else i

    spec = functools.partial(pl.BlockSpec, memory_space=pltpu.VMEM)
    steps = spec((1, plan.steps, LANES), lambda b, j, i: (b, time(i), j))
    rates = spec((s.states, LANES), lambda b, j, i: (0, j))
    row = spec((1, LANES), lambda b, j, i: (0, j))
    maps = spec(
        (1, 1, plan.steps, s.states),
        lambda b, j, i: (b, s.place(j)[0], time(i), 0),
    )
    state = spec((1, s.states, LANES), lambda b, j, i: (b, 0, j))
    sums = spec((1, 1, LANES), lambda b, j, i: (b, 0, j))
    starts = spec(
        (1, plan.steps // plan.chunk, s.states, LANES),
        lambda b, j, i: (b, time(i), 0, j),
    )
    of_block = spec(
        (1, 1, 1, plan.steps, s.states),
        lambda b, j, i: (s.place(j)[1], b, s.place(j)[0], time(i), 0),
    )
    bits = pl.BlockSpec(
        (1, 1, 1, plan.steps),
        lambda b, j, i: (b, time(i), 0, 0),
        memory_space=pltpu.SMEM,
    )
    return {
        **dict.fromkeys(("x", "dt", "z", "y", "dy", "dx", "ddt", "dz"), steps),
        **dict.fromkeys(("D", "bias"), row),
        **dict.fromkeys(("B", "C"), maps),
        **dict.fromkeys(("state", "end", "dend", "dstate", "dA"), state),
        **dict.fromkeys(("dD", "dbias"), sums),
        **dict.fromkeys(("dB", "dC"), of_block),
        "A": rates,
        "starts": starts,
        "marks": bits,
    }


def _call(kernel, plan, given, outputs, scratch, backwards):
    """Runs a kernel; returns its outputs by name."""
    s = plan.sizes
    return call(
        lambda refs: kernel(_Program(plan, refs, backwards)),
        given,
        outputs,
        specs=_specs(plan, backwards),
        scratch={k: pltpu.VMEM(v, jnp.float32) for k, v in scratch.items()},
        grid=(s.b, s.g * s.blocks, plan.blocks),
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("parallel", "parallel", "arbitrary")
        ),
        interpret=plan.interpret,
        name=f"selective_scan{kernel.__name__}",
    )


def _forward_kernel(p):
    plan = p.plan

    @pl.when(p.is_first)
    def _():
        p.refs.h[...] = p.refs.state[0]

    def chunk(k, h):
        if p.refs.starts is not None:
            p.refs.starts[0, p.chunk_at(k)] = h
        return jax.lax.fori_loop(0, plan.chunk // GROUP, group(k), h)

    def group(k):
        return lambda i, h: _forward_group(p, p.first_of(k, i), h)

    chunks = plan.steps // plan.chunk
    p.refs.h[...] = jax.lax.fori_loop(0, chunks, chunk, p.refs.h[...])
    p.refs.y[0] = p.refs.y_rows[...].astype(p.refs.y.dtype)

    @pl.when(p.is_last)
    def _():
        p.refs.end[0] = p.refs.h[...]


def _forward_group(p, first, h):
    """Takes a group of steps; returns the state behind it."""
    group = _Group(p, first)
    rows = [None] * GROUP
    for k in p.order:
        h = group.advance(group.forget(h, k), k, group.decay(k))
        rows[k] = _over_states(h * group.C[k])
    y = group.with_skip(jnp.concatenate(rows))
    if group.z is not None:
        y = y * group.z * jax.nn.sigmoid(group.z)
    p.refs.y_rows[pl.ds(first, GROUP), :] = group.select(y)
    return h


def _backward_kernel(p):
    plan, r = p.plan, p.refs

    @pl.when(p.is_first)
    def _():
        r.g[...] = r.dend[0]
        for sums in (r.dA, r.dD, r.dbias):
            sums[...] = jnp.zeros_like(sums)

    groups, chunks = plan.chunk // GROUP, plan.steps // plan.chunk

    def chunk(k, g):
        k = chunks - 1 - k

        def recompute(i, h):
            return _recompute_group(p, p.first_of(k, i), p.place_of(i), h)

        def walk(i, carry):
            i = groups - 1 - i
            return _walk_back(p, p.first_of(k, i), p.place_of(i), carry)

        jax.lax.fori_loop(0, groups, recompute, r.starts[0, p.chunk_at(k)])
        none = jnp.zeros((1, LANES), jnp.float32)
        carry = g, jnp.zeros_like(g), none, none
        g, dA, dD, dbias = jax.lax.fori_loop(0, groups, walk, carry)
        # Chunk by chunk: long sums in float32 lose less in two levels.
        r.dA[0] += dA
        r.dD[0] += dD
        r.dbias[0] += dbias
        return g

    r.g[...] = jax.lax.fori_loop(0, chunks, chunk, r.g[...])
    r.dx[0] = r.dx_rows[...].astype(r.dx.dtype)
    r.ddt[0] = r.ddt_rows[...].astype(r.ddt.dtype)
    if r.dz is not None:
        r.dz[0] = r.dz_rows[...].astype(r.dz.dtype)

    @pl.when(p.is_last)
    def _():
        r.dstate[0] = r.g[...]


def _recompute_group(p, first, place, h):
    """Keeps the states before the steps of a group; returns the one behind."""
    group = _Group(p, first)
    for k in p.order:
        h = group.forget(h, k)
        p.refs.before[place + k] = h
        h = group.advance(h, k, group.decay(k))
    return h


def _walk_back(p, first, place, carry):
    """Takes a group of steps from its end.

    What is carried is the gradient of the state behind the group, and the sums
    over the chunk so far of the gradients of A, of D and of the bias.
    """
    group = _Group(p, first)
    g, dA, dD, dbias = carry
    dinner, gate = group.dy, None
    if group.z is not None:
        gate = jax.nn.sigmoid(group.z)
        dinner = dinner * group.z * gate
    dB, dC, inner, along, through = ([None] * GROUP for _ in range(5))
    for k in reversed(p.order):
        h, decay, into = (
            p.refs.before[place + k],
            group.decay(k),
            dinner[k : k + 1],
        )
        after = group.advance(h, k, decay)
        g = g + into * group.C[k]
        dB[k], dC[k] = g * group.update[k : k + 1], into * after
        inner[k] = _over_states(after * group.C[k])
        along[k] = _over_states(g * group.B[k])
        g = g * decay
        into_decay = g * h
        through[k] = _over_states(into_decay * p.rates)
        dA = dA + into_decay * group.size[k : k + 1]
        g = group.forget(g, k)
    at = pl.ds(first, GROUP)
    p.refs.dB[0, 0, 0, at, :] = jnp.stack(dB).sum(-1)
    p.refs.dC[0, 0, 0, at, :] = jnp.stack(dC).sum(-1)
    along = jnp.concatenate(along)
    ddt = (jnp.concatenate(through) + along * group.x) * group.slope
    ddt = group.select(ddt)
    dx = along * group.size
    dx = dx if p.D is None else dx + p.D * dinner
    p.refs.dx_rows[at, :] = group.select(dx)
    p.refs.ddt_rows[at, :] = ddt
    if group.z is not None:
        y = group.with_skip(jnp.concatenate(inner))
        slope = gate * (1 + group.z * (1 - gate))
        p.refs.dz_rows[at, :] = group.select(group.dy * y * slope)
    dD = dD + _over_states(dinner * group.x)
    dbias = dbias + _over_states(ddt)
    return g, dA, dD, dbias


class _Program:
    """What one program of a scan has."""

    def __init__(self, plan, refs, backwards):
        self.plan, self.refs = plan, refs
        i = pl.program_id(2)
        self.is_first, self.is_last = i == 0, i == plan.blocks - 1
        block = plan.blocks - 1 - i if backwards else i
        self.time = block * plan.steps  # of its first step
        steps = range(GROUP)
        self.order = list(reversed(steps) if plan.reverse else steps)
        self.rates = self.refs.A[...]
        self.D = None if self.refs.D is None else self.refs.D[...]

    def chunk_at(self, k):
        """Where the chunk lies that is the k-th in the order of the scan."""
        chunks = self.plan.steps // self.plan.chunk
        return chunks - 1 - k if self.plan.reverse else k

    def place_of(self, i):
        """Where the i-th group of a chunk begins in it."""
        groups = self.plan.chunk // GROUP
        i = groups - 1 - i if self.plan.reverse else i
        return i * GROUP

    def first_of(self, k, i):
        """Where the i-th group of the k-th chunk begins in the block."""
        first = self.chunk_at(k) * self.plan.chunk + self.place_of(i)
        return pl.multiple_of(first, GROUP)


class _Group:
    """A group of steps: rows of a register, masked ones 0."""

    def __init__(self, program, first):
        self._program, self._first = program, first
        p, r, at = program, program.refs, pl.ds(first, GROUP)
        bits = self._bits()
        self._live = None if bits is None else _rows(bits, LANES) & LIVE != 0

        def steps(ref):
            return None if ref is None else ref[0, at, :].astype(jnp.float32)

        def maps(ref):
            v = ref[0, 0, at, :].astype(jnp.float32)
            if bits is not None:
                v = jnp.where(_rows(bits, v.shape[1]) & LIVE != 0, v, 0)
            v = v.T  # (n, group)
            return [v[:, k : k + 1] for k in range(GROUP)]

        self.x = self.select(steps(r.x))
        self.z, self.dy = (
            None if v is None else self.select(v)
            for v in (steps(r.z), steps(getattr(r, "dy", None)))
        )
        self.B, self.C = maps(r.B), maps(r.C)
        raw = steps(r.dt)
        raw = raw if r.bias is None else raw + r.bias[...]
        self.size, self.slope = raw, jnp.float32(1)
        if p.plan.dt_softplus:
            e = jnp.exp(-jnp.abs(raw))
            self.size = jnp.maximum(raw, 0) + jnp.log1p(e)
            self.slope = jnp.where(raw < 0, e, 1) / (1 + e)
        self.size = self.select(self.size)
        self.update = self.size * self.x
        self._resets = None
        if r.marks is not None:
            self._resets = [bit & RESET != 0 for bit in bits]

    def _bits(self):
        """Which steps count and start anew, a number each, or `None`."""
        p = self._program
        if not p.plan.marked and not p.plan.ragged:
            return None
        found = []
        for k in range(GROUP):
            t = self._first + k
            within = p.time + t < p.plan.sizes.l
            bit = p.refs.marks[0, 0, 0, t] if p.plan.marked else LIVE
            found.append(jnp.where(within, bit, 0))
        return found

    def select(self, v):
        """`v`, or 0 at masked steps."""
        return v if self._live is None else jnp.where(self._live, v, 0)

    def decay(self, k):
        """exp(dt A)"""
        return jnp.exp(self.size[k : k + 1] * self._program.rates)

    def advance(self, h, k, decay):
        """exp(dt A) h + dt B x"""
        return decay * h + self.update[k : k + 1] * self.B[k]

    def forget(self, h, k):
        """A state, emptied where the step starts anew."""
        return h if self._resets is None else jnp.where(self._resets[k], 0, h)

    def with_skip(self, y):
        """y with the skip."""
        return y if self._program.D is None else y + self._program.D * self.x


def _rows(numbers, width):
    """Numbers as the rows of an array."""
    row = jax.lax.broadcasted_iota(jnp.int32, (GROUP, width), 0)
    found = jnp.zeros((GROUP, width), jnp.int32)
    for k, number in enumerate(numbers):
        found = jnp.where(row == k, number, found)
    return found


def _over_states(v):
    return v.sum(0, keepdims=True)
