"""The causal convolution on a TPU, forward and backward.

A program has a row, a block of `LANES` channels and a block of time. It copies
its inputs into a window, behind those of the block before it, and takes a tap
from a shifted view. Reversed, everything is mirrored: the window has the inputs
of the block after it at its end. The grid takes blocks of time in turn: forward
in the order of the scan, each leaving its last inputs in the window; backward
against it, each leaving what the gradients of the inputs before it get.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from keras_ssm.kernels.pallas.calls import call
from keras_ssm.kernels.pallas.conv_taps import activate, over_taps, visible

LANES = 128
# Steps in a block of time, if there are as many.
_BLOCK = 256
# Rows of the narrowest type in a register.
_TILE = 16


@dataclasses.dataclass(frozen=True)
class Plan:
    """How a convolution is cut into programs.

    Args:
        b: Batch.
        l: Length.
        d: Channels, with those added.
        k: Width.
        steps: Steps in a block of time.
        halo: Steps of the block before it that a window has room for.
        activation: `None` or "silu".
        reverse: Whether to run from the end.
        interpret: Whether Pallas interprets the kernel.
    """

    b: int
    l: int
    d: int
    k: int
    steps: int
    halo: int
    activation: str | None
    reverse: bool
    interpret: bool

    @property
    def blocks(self):
        """Blocks of time."""
        return -(-self.l // self.steps)

    @property
    def first(self):
        """Where the block's first step lies in its window."""
        return 0 if self.reverse else self.halo

    @property
    def state(self):
        """Where the state lies in the window of the first block."""
        if self.reverse:
            return self.l - (self.blocks - 1) * self.steps
        return self.halo - (self.k - 1)

    @property
    def ragged(self):
        """Whether the last block of time is not full."""
        return self.l % self.steps != 0


def make_plan(tensors, activation, reverse, interpret):
    """The plan for canonical tensors."""
    (b, l, d), k = tensors[0].shape, tensors[1].shape[0]
    halo = max(_TILE, pl.next_power_of_2(k - 1))
    steps = max(halo, min(_BLOCK, -(-l // _TILE) * _TILE))
    steps = -(-steps // halo) * halo
    d = -(-d // LANES) * LANES
    return Plan(b, l, d, k, steps, halo, activation, reverse, interpret)


def forward(plan, x, weight, bias, state, resets):
    """y"""
    given = _inputs(plan, x, weight, bias, state, resets)
    outputs = {"y": ((plan.b, plan.l, plan.d), given["x"].dtype)}
    scratch = {"window": (plan.steps + plan.halo, LANES)}
    found = _call(_forward_kernel, plan, given, outputs, scratch, plan.reverse)
    return found["y"][..., : x.shape[2]].astype(x.dtype)


def backward(plan, x, weight, bias, state, resets, dy):
    """The gradients of x, the weight, the bias (or `None`) and the state."""
    f32, d, taps = jnp.float32, x.shape[2], plan.k - 1
    given = _inputs(plan, x, weight, bias, state, resets)
    # What lies before a block, a few steps only, is read by itself.
    given["before"] = given["x"]
    given["dy"] = _padded(plan, dy)
    rows = -(-plan.k // 8) * 8
    outputs = {
        "dx": ((plan.b, plan.l, plan.d), given["x"].dtype),
        "dweight": ((plan.b, rows, plan.d), f32),
        "dbias": ((plan.b, 1, plan.d), f32),
        "dstate": ((plan.b, plan.halo, plan.d), f32),
    }
    window = (plan.steps + plan.halo, LANES)
    scratch = {
        "window": window,
        "dwindow": window,
        "g": (plan.steps, LANES),
    }
    found = _call(
        _backward_kernel, plan, given, outputs, scratch, not plan.reverse
    )
    dstate = found["dstate"][:, :taps, :d]
    return [
        found["dx"][..., :d].astype(x.dtype),
        found["dweight"].sum(0)[: plan.k, :d],
        None if bias is None else found["dbias"].sum((0, 1))[:d],
        dstate[:, ::-1] if plan.reverse else dstate,
    ]


def _padded(plan, v):
    """Whole blocks of channels, in a type that a TPU has."""
    if v.dtype == jnp.float16:
        v = v.astype(jnp.float32)
    added = plan.d - v.shape[-1]
    if added == 0:
        return v
    return jnp.pad(v, [*[(0, 0)] * (v.ndim - 1), (0, added)])


def _inputs(plan, x, weight, bias, state, resets):
    """The tensors as the kernels read them, by name."""
    # The state in the order of time, in as many rows as there is room for.
    state = _padded(plan, state[:, ::-1] if plan.reverse else state)
    rows = -(-plan.k // 8) * 8
    seen = visible(resets, plan.k, plan.reverse)
    return {
        "x": _padded(plan, x),
        "weight": jnp.pad(_padded(plan, weight), ((0, rows - plan.k), (0, 0))),
        "bias": None if bias is None else _padded(plan, bias)[None],
        "state": jnp.pad(
            state, ((0, 0), (0, plan.halo - (plan.k - 1)), (0, 0))
        ),
        "visible": None if seen is None else seen[..., None],
    }


def _specs(plan, backwards):
    """The block of each tensor that a program sees, by name."""

    def time(i):
        return plan.blocks - 1 - i if backwards else i

    def before(i):
        """The block of `halo` steps that lies before a block of time."""
        count = plan.steps // plan.halo
        if plan.reverse:
            last = -(-plan.l // plan.halo) - 1
            return jnp.minimum((time(i) + 1) * count, last)
        return jnp.maximum(time(i) * count - 1, 0)

    spec = functools.partial(pl.BlockSpec, memory_space=pltpu.VMEM)
    steps = spec((1, plan.steps, LANES), lambda b, j, i: (b, time(i), j))
    halo = spec((1, plan.halo, LANES), lambda b, j, i: (b, 0, j))
    rows = -(-plan.k // 8) * 8
    return {
        **dict.fromkeys(("x", "y", "dy", "dx"), steps),
        **dict.fromkeys(("state", "dstate"), halo),
        "before": spec(
            (1, plan.halo, LANES), lambda b, j, i: (b, before(i), j)
        ),
        "weight": spec((rows, LANES), lambda b, j, i: (0, j)),
        "bias": spec((1, LANES), lambda b, j, i: (0, j)),
        "dweight": spec((1, rows, LANES), lambda b, j, i: (b, 0, j)),
        "dbias": spec((1, 1, LANES), lambda b, j, i: (b, 0, j)),
        "visible": spec((1, plan.steps, 1), lambda b, j, i: (b, time(i), 0)),
    }


def _call(kernel, plan, given, outputs, scratch, backwards):
    """Runs a kernel; returns its outputs by name."""
    return call(
        lambda refs: kernel(_Program(plan, refs, backwards)),
        given,
        outputs,
        specs=_specs(plan, backwards),
        scratch={k: pltpu.VMEM(v, jnp.float32) for k, v in scratch.items()},
        grid=(plan.b, plan.d // LANES, plan.blocks),
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("parallel", "parallel", "arbitrary")
        ),
        interpret=plan.interpret,
        name=f"causal_conv1d{kernel.__name__}",
    )


def _forward_kernel(p):
    plan, r = p.plan, p.refs
    moved = _moved(plan)

    @pl.when(p.block != p.first_block)
    def _():
        r.window[moved, :] = r.window[_last(plan), :]

    p.fill_window()
    y, _ = activate(p.products(), plan.activation)
    r.y[0] = y.astype(r.y.dtype)


def _backward_kernel(p):
    plan, r = p.plan, p.refs

    @pl.when(p.block != p.first_block)
    def _():
        r.window[_moved(plan), :] = r.before[0].astype(jnp.float32)

    p.fill_window()
    g = r.dy[0].astype(jnp.float32)
    if plan.activation is not None:
        _, slope = activate(p.products(), plan.activation)
        g = g * slope
    r.g[...] = p.within(g)

    @pl.when(p.is_first)
    def _():
        for sums in (r.dweight, r.dbias):
            sums[...] = jnp.zeros_like(sums)

    carried = r.dwindow[_moved(plan), :]
    r.dwindow[...] = jnp.zeros_like(r.dwindow)

    @pl.when(jnp.logical_not(p.is_first))
    def _():
        r.dwindow[_last(plan), :] = carried

    def tap(j, carry):
        g = p.seen(j, r.g[...])
        at = p.view(j)
        r.dwindow[at, :] += g * p.weight(j)
        product = (g * r.window[at, :]).sum(0, keepdims=True)
        r.dweight[0, pl.ds(plan.k - 1 - j, 1), :] += product
        return carry

    over_taps(plan.k, tap, 0)
    r.dbias[0] += r.g[...].sum(0, keepdims=True)
    dx = r.dwindow[plan.first : plan.first + plan.steps, :]
    r.dx[0] = dx.astype(r.dx.dtype)

    @pl.when(p.block == p.first_block)
    def _():
        if plan.k > 1:
            dstate = r.dwindow[plan.state : plan.state + plan.k - 1, :]
            r.dstate[0, : plan.k - 1] = dstate


def _moved(plan):
    """Where a window has the inputs before its block."""
    first = plan.steps if plan.reverse else 0
    return slice(first, first + plan.halo)


def _last(plan):
    """Where it has those that the next block will see."""
    first = 0 if plan.reverse else plan.steps
    return slice(first, first + plan.halo)


class _Program:
    """What one program of a convolution has."""

    def __init__(self, plan, refs, backwards):
        self.plan, self.refs = plan, refs
        i = pl.program_id(2)
        self.is_first = i == 0
        self.block = plan.blocks - 1 - i if backwards else i
        self.first_block = plan.blocks - 1 if plan.reverse else 0

    def fill_window(self):
        """Puts the block's inputs, or the state, beside those before it."""
        plan, r = self.plan, self.refs
        x = self.within(r.x[0].astype(jnp.float32))
        r.window[plan.first : plan.first + plan.steps, :] = x

        @pl.when(self.block == self.first_block)
        def _():
            r.window[_moved(plan), :] = jnp.zeros_like(r.state[0])
            if plan.k > 1:
                at = slice(plan.state, plan.state + plan.k - 1)
                r.window[at, :] = r.state[0, : plan.k - 1]

    def within(self, v):
        """`v`, or 0 behind the last step, where a block has anything."""
        plan = self.plan
        if not plan.ragged:
            return v
        step = jax.lax.broadcasted_iota(jnp.int32, v.shape, 0)
        return jnp.where(self.block * plan.steps + step < plan.l, v, 0)

    def view(self, j):
        """Where the window has the inputs j steps before those of the block."""
        plan = self.plan
        first = plan.first + j if plan.reverse else plan.first - j
        return pl.ds(first, plan.steps)

    def weight(self, j):
        """The tap that weighs the inputs j steps before."""
        return self.refs.weight[pl.ds(self.plan.k - 1 - j, 1), :]

    def seen(self, j, v):
        """`v` at the steps that see what lies j steps before them."""
        if self.refs.visible is None:
            return v
        return jnp.where(j <= self.refs.visible[0], v, 0)

    def products(self):
        """The convolution before its activation."""

        def tap(j, total):
            v = self.seen(j, self.refs.window[self.view(j), :])
            return total + v * self.weight(j)

        none = jnp.zeros((self.plan.steps, LANES), jnp.float32)
        total = over_taps(self.plan.k, tap, none)
        bias = self.refs.bias
        return total if bias is None else total + bias[...]
