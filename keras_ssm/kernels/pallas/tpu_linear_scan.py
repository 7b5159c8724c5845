"""The linear scan on a TPU.

A program has a row, a block of `LANES` channels and a block of time. The grid
takes the blocks of time in the order of the scan, and each leaves its last
state to the next.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from keras_ssm.kernels.pallas.calls import call
from keras_ssm.kernels.pallas.linear_step import step

LANES = 128
# Steps in a block of time, if there are as many, and of a register.
_BLOCK, _TILE = 256, 8


@dataclasses.dataclass(frozen=True)
class Plan:
    """How a scan is cut into programs.

    Args:
        l: Length.
        d: Channels, with those added.
        steps: Steps in a block of time.
        backwards: Whether it runs from the end.
        adjoint: Whether it is the adjoint.
    """

    l: int
    d: int
    steps: int
    backwards: bool
    adjoint: bool

    @property
    def blocks(self):
        """Blocks of time."""
        return pl.cdiv(self.l, self.steps)


def scan(given, *, backwards, adjoint, interpret):
    """y and the last state, by name.

    Args:
        given: The canonical tensors of `linear_scan` by name.
        backwards: Whether to run from the end.
        adjoint: Whether to take the steps of the adjoint.
        interpret: Whether Pallas interprets the kernel.
    """
    (b, l, d), dtype = given["x"].shape, given["x"].dtype
    steps = min(_BLOCK, pl.cdiv(l, _TILE) * _TILE)
    plan = Plan(l, pl.cdiv(d, LANES) * LANES, steps, backwards, adjoint)
    imag = given["x_imag"] is not None
    steps, state = ((b, l, plan.d), dtype), ((b, 1, plan.d), dtype)
    found = call(
        lambda refs: _kernel(_Program(plan, refs)),
        {name: _readable(plan, v) for name, v in given.items()},
        {
            "y": steps,
            "y_imag": imag and steps,
            "end": state,
            "end_imag": imag and state,
        },
        specs=_specs(plan, given["a"].ndim == 1),
        scratch={"h": pltpu.VMEM((2, LANES), dtype)},
        grid=(b, plan.d // LANES, plan.blocks),
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("parallel", "parallel", "arbitrary")
        ),
        interpret=interpret,
        name="linear_scan" + "_adjoint" * adjoint,
    )
    found = {name: v[..., :d] for name, v in found.items()}
    return {
        name: v[:, 0] if name.startswith("end") else v
        for name, v in found.items()
    }


def _readable(plan, v):
    """A tensor as the kernel reads it: `(b, l or 1, d or 1)`."""
    if v is None:
        return None
    if v.dtype == bool:
        return v.astype(jnp.int32)[..., None]
    v = jnp.pad(v, [*[(0, 0)] * (v.ndim - 1), (0, plan.d - v.shape[-1])])
    return v if v.ndim == 3 else v.reshape(-1, 1, plan.d)


def _specs(plan, constant):
    """The block of each tensor that a program sees, by name."""

    def time(i):
        return plan.blocks - 1 - i if plan.backwards else i

    spec = functools.partial(pl.BlockSpec, memory_space=pltpu.VMEM)
    steps = spec((1, plan.steps, LANES), lambda b, j, i: (b, time(i), j))
    of_row = spec((1, 1, LANES), lambda b, j, i: (b, 0, j))
    shared = spec((1, 1, LANES), lambda b, j, i: (0, 0, j))
    flags = spec((1, plan.steps, 1), lambda b, j, i: (b, time(i), 0))
    return {
        **dict.fromkeys(("x", "x_imag", "y", "y_imag"), steps),
        **dict.fromkeys(("a", "a_imag"), shared if constant else steps),
        **dict.fromkeys(("state", "state_imag", "end", "end_imag"), of_row),
        **dict.fromkeys(("mask", "resets"), flags),
    }


def _kernel(p):
    plan, r = p.plan, p.refs

    @pl.when(pl.program_id(2) == 0)
    def _():
        for k, v in enumerate(p.number("state", 0)):
            r.h[k : k + 1, :] = v

    def take(s, h):
        at = plan.steps - 1 - s if plan.backwards else s
        anew = None if r.resets is None else p.flag(r.resets, at)
        live = p.exists(at)
        if r.mask is not None:
            live &= p.flag(r.mask, at)
        h, y = step(
            h, p.number("x", at), p.number("a", at), live, anew, plan.adjoint
        )
        for ref, v in zip((r.y, r.y_imag), y, strict=False):
            ref[0, pl.ds(at, 1), :] = v
        return h

    parts = 1 if r.x_imag is None else 2
    h = tuple(r.h[k : k + 1, :] for k in range(parts))
    h = jax.lax.fori_loop(0, plan.steps, take, h)
    for k, (ref, v) in enumerate(zip((r.end, r.end_imag), h, strict=False)):
        r.h[k : k + 1, :] = v
        ref[0] = v


class _Program:
    """A row, a block of channels and a block of time; steps are `(1, d)`."""

    def __init__(self, plan, refs):
        self.plan, self.refs = plan, refs
        i = pl.program_id(2)
        block = plan.blocks - 1 - i if plan.backwards else i
        self._first = block * plan.steps

    def number(self, name, at):
        """The parts of a number, at a step of the block if it has steps."""
        refs = (getattr(self.refs, v) for v in (name, f"{name}_imag"))
        return tuple(
            ref[0, pl.ds(at if ref.shape[1] > 1 else 0, 1), :]
            for ref in refs
            if ref is not None
        )

    def flag(self, ref, at):
        """Whether a flag is set at a step, for all channels."""
        return jnp.broadcast_to(ref[0, pl.ds(at, 1), :] != 0, (1, LANES))

    def exists(self, at):
        """Whether there is such a step, for all channels."""
        return jnp.full((1, LANES), self._first + at < self.plan.l)
