"""The selective scan on a GPU, forward and backward.

A program is a warp with a block of channels of one row, in one part of time,
and walks through it step by step. The states of a channel lie in its column of
lanes, as many in each row: register `r` of lane row `i` is the state
`i * registers + r`. What belongs to a step and a channel is read in tiles,
vectors with a step in each row, so that nothing is computed twice.

The forward pass keeps the state before every chunk of steps. The backward pass
takes chunk after chunk from the end. It recomputes the states in a run of steps
in registers and walks them back; where a chunk has several runs, the states
between them lie in a spare array. The gradients of B and C are summed over the
channels of a block; their sums over blocks are left to XLA: nothing is atomic,
the bits are always the same.

Where rows and channels are too few for a GPU, time is cut into parts that run
at once. A first pass computes what each part makes of an empty state, and by
how much it lets a state decay, `exp(A sum(dt))`; what lies before each part
follows from these. The backward pass does the same to gradients.

`keras_ssm/kernels/lax/selective_scan.py` has the formulas.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from jax.experimental.pallas import triton as plgpu

from keras_ssm.kernels.pallas.calls import call
from keras_ssm.kernels.pallas.gpu_scan_plan import make_plan as make_plan
from keras_ssm.kernels.pallas.gpu_scan_program import Fate, Program, Run
from keras_ssm.kernels.pallas.scan_sizes import marks

_LOG2E = 1.4426950408889634
_LN2 = 0.6931471805599453


def forward(plan, tensors, keep):
    """y, the last state, and with `keep` the states before every chunk."""
    s, f32 = plan.sizes, jnp.float32
    given = _inputs(plan, tensors)
    given["states"] = first = s.from_state(tensors[8])[:, None]
    if plan.parts > 1:
        found = _call(_ends_kernel, plan, given, _ends(plan), "ends")
        given["states"] = _carry(plan, first, found, False)
    outputs = {
        "y": ((s.b, s.l, s.channels), tensors[0].dtype),
        "end": (_state_of_parts(plan), f32),
        "starts": keep and ((s.b, plan.chunks, s.states, s.channels), f32),
    }
    found = _call(_forward_kernel, plan, given, outputs, "forward")
    results = [s.narrow(found["y"]), s.to_state(found["end"][:, -1])]
    return [*results, s.to_starts(found["starts"])] if keep else results


def backward(plan, tensors, dy, dend, starts):
    """The gradients of the nine floating tensors, or `None`."""
    x, dt, _, _, _, D, z, dt_bias = tensors[:8]
    s, f32 = plan.sizes, jnp.float32
    given = _inputs(plan, tensors)
    given["dy"] = s.widen(dy)
    given["states"] = last = s.from_state(dend)[:, None]
    if plan.parts > 1:
        found = _call(
            _adjoint_ends_kernel, plan, given, _ends(plan), "adjoint_ends"
        )
        given["states"] = _carry(plan, last, found, True)
    given["starts"] = s.from_starts(starts)
    steps, row = (s.b, s.l, s.channels), (s.b, plan.parts, s.channels)
    state = _state_of_parts(plan)
    runs = plan.chunk // plan.run
    spare = (s.b, plan.parts, runs, s.states, s.channels)
    outputs = {
        "dx": (steps, x.dtype),
        "ddt": (steps, dt.dtype),
        "dA": (state, f32),
        # Of B and of C.
        "dmaps": ((s.blocks, s.b, s.l, s.g, 2, s.states), f32),
        "dD": D is not None and (row, f32),
        "dz": z is not None and (steps, z.dtype),
        "dbias": dt_bias is not None and (row, f32),
        "end": (state, f32),
        "spare": runs > 1 and (spare, f32),
    }
    found = _call(_backward_kernel, plan, given, outputs, "backward")
    dB, dC = jnp.moveaxis(found["dmaps"].sum(0)[..., : s.n], 3, 0)
    sums = {
        k: found[k].sum((0, 1)) for k in ("dA", "dD", "dbias") if k in found
    }
    return [
        s.narrow(found["dx"]),
        s.narrow(found["ddt"]),
        s.to_state(sums["dA"]),
        dB,
        dC,
        None if D is None else s.narrow(sums["dD"]),
        None if z is None else s.narrow(found["dz"]),
        None if dt_bias is None else s.narrow(sums["dbias"]),
        s.to_state(found["end"][:, 0]),
    ]


def _state_of_parts(plan):
    """The shape of a state for each part."""
    s = plan.sizes
    return s.b, plan.parts, s.states, s.channels


def _ends(plan):
    """What the first pass of a scan in parts computes."""
    state = _state_of_parts(plan), jnp.float32
    return {"end": state, "decay": state}


def _carry(plan, first, found, backwards):
    """The states before the parts, or the gradients behind them."""
    given = {"states": first, **found}
    kernel = functools.partial(_carry_kernel, backwards=backwards)
    outputs = {"before": (_state_of_parts(plan), jnp.float32)}
    plan = dataclasses.replace(plan, parts=1)
    return _call(kernel, plan, given, outputs, "carry")["before"]


def _inputs(plan, tensors):
    """The tensors as the kernels read them, by name."""
    x, dt, A, B, C, D, z, dt_bias, _, mask, resets = tensors
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
        "marks": marks(mask, resets),
    }


def _call(kernel, plan, given, outputs, name):
    """Runs a kernel on whole arrays; returns its outputs by name."""
    s = plan.sizes
    return call(
        lambda refs: kernel(Program(plan, refs)),
        given,
        outputs,
        grid=(s.g * s.blocks, plan.parts, s.b),
        compiler_params=plgpu.CompilerParams(num_warps=1, num_stages=1),
        interpret=plan.interpret,
        name=f"selective_scan_{name}",
    )


def _forward_kernel(p):
    def chunk(c, h):
        if p.refs.starts is not None:
            p.store_state(p.refs.starts, h, p.row, c)
        return p.over_runs(c, lambda first, h: _forward_run(p, first, h), h)

    h = p.load_state(p.refs.states, p.row, p.part)
    h = p.over_chunks(chunk, h)
    p.store_state(p.refs.end, h, p.row, p.part)


def _forward_run(p, first, h):
    """Takes the steps of a run; returns the state behind it."""
    run = Run(p, first, ("x", "dt", "z"))
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

    def chunk(c, carry):
        h = p.load_state(p.refs.starts, p.row, c)
        if last == 0:
            return _walk_back(p, c * plan.chunk, h, carry)

        def keep(j, h):
            p.store_state(p.refs.spare, h, p.row, p.part, j)
            run = Run(p, c * plan.chunk + j * plan.run, ("x", "dt"))
            return _states_of_run(run, h)[-1]

        h = jax.lax.fori_loop(0, last, keep, h)
        p.store_state(p.refs.spare, h, p.row, p.part, last)

        def walk(k, carry):
            j = last - k
            h = p.load_state(p.refs.spare, p.row, p.part, j)
            return _walk_back(p, c * plan.chunk + j * plan.run, h, carry)

        return jax.lax.fori_loop(0, last + 1, walk, carry)

    none = [p.warp.zeros()] * plan.registers
    g = p.load_state(p.refs.states, p.row, p.part)
    carry = g, none, p.warp.zeros(), p.warp.zeros()
    g, dA, dD, dbias = p.over_chunks(chunk, carry, backwards=True)
    p.store_state(p.refs.end, g, p.row, p.part)
    p.store_state(p.refs.dA, dA, p.row, p.part)
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
    run = Run(p, first, ("x", "dt", "z", "dy"))
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


def _ends_kernel(p):
    """What a part makes of an empty state, and how one before it decays."""

    def run(first, carry):
        h, fate = carry
        run = Run(p, first, ("x", "dt"))
        for tile in run.tiles:
            for step in tile.steps:
                h = step.advance(step.forget(h), step.maps("B"))
            fate = fate.after(tile)
        return h, fate

    _first_pass(p, run, backwards=False)


def _adjoint_ends_kernel(p):
    """The same of the gradient of the state behind a part."""

    def run(first, carry):
        g, fate = carry
        run = Run(p, first, ("dt", "z", "dy"))
        for tile in reversed(run.tiles):
            dinner = tile.dy
            if tile.z is not None:
                dinner = dinner * tile.z * _sigmoid(tile.z)
            for step in reversed(tile.steps):
                into, C = step.of(dinner), step.maps("C")
                g = [
                    (v + into * c) * decay
                    for v, c, decay in zip(g, C, step.decays(), strict=True)
                ]
                g = step.forget(g)
            fate = fate.after(tile)
        return g, fate

    _first_pass(p, run, backwards=True)


def _first_pass(p, run, backwards):
    def chunk(c, carry):
        return p.over_runs(c, run, carry, backwards)

    none = p.warp.zeros()
    carry = [none] * p.plan.registers, Fate(none, none + 1)
    end, fate = p.over_chunks(chunk, carry, backwards)
    p.store_state(p.refs.end, end, p.row, p.part)
    p.store_state(p.refs.decay, fate.decays(p), p.row, p.part)


def _carry_kernel(p, backwards):
    """The states before all parts, or the gradients behind them."""
    parts = p.refs.end.shape[1]

    def part(k, h):
        k = parts - 1 - k if backwards else k
        p.store_state(p.refs.before, h, p.row, k)
        decays = p.load_state(p.refs.decay, p.row, k)
        end = p.load_state(p.refs.end, p.row, k)
        # Selected: behind a reset not even infinity is left.
        return [
            jnp.where(a == 0, 0, a * v) + e
            for a, v, e in zip(decays, h, end, strict=True)
        ]

    jax.lax.fori_loop(0, parts, part, p.load_state(p.refs.states, p.row, 0))


def _dot(v, w):
    """The sum of products of two lists of vectors."""
    total = v[0] * w[0]
    for a, b in zip(v[1:], w[1:], strict=True):
        total = total + a * b
    return total


def _sigmoid(v):
    return 1 / (1 + jnp.exp(-v))
