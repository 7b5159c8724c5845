"""The linear scan on a GPU.

A program takes a block of channels of one row through all of the time. It asks
for `STEPS` steps before it takes the first of them, so that it seldom waits for
memory.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu

from keras_ssm.kernels.pallas.calls import call
from keras_ssm.kernels.pallas.linear_step import step

BLOCK = 32  # channels of a program, one for each lane of a warp
STEPS = 8


@dataclasses.dataclass(frozen=True)
class Plan:
    """How a scan is computed.

    Args:
        l: Length.
        d: Channels.
        backwards: Whether it runs from the end.
        adjoint: Whether it is the adjoint.
    """

    l: int
    d: int
    backwards: bool
    adjoint: bool


def scan(given, *, backwards, adjoint, interpret):
    """y and the last state, by name.

    Args:
        given: The canonical tensors of `linear_scan` by name.
        backwards: Whether to run from the end.
        adjoint: Whether to take the steps of the adjoint.
        interpret: Whether Pallas interprets the kernel.
    """
    x, state = given["x"], given["state"]
    b, l, d = x.shape
    plan = Plan(l, d, backwards, adjoint)
    given = {
        name: v.astype(jnp.int32) if v is not None and v.dtype == bool else v
        for name, v in given.items()
    }
    imag = given["x_imag"] is not None
    return call(
        lambda refs: _kernel(plan, refs),
        given,
        {
            "y": (x.shape, x.dtype),
            "y_imag": imag and (x.shape, x.dtype),
            "end": (state.shape, state.dtype),
            "end_imag": imag and (state.shape, state.dtype),
        },
        grid=(pl.cdiv(d, BLOCK), b),
        compiler_params=plgpu.CompilerParams(num_warps=1, num_stages=1),
        interpret=interpret,
        name="linear_scan" + "_adjoint" * adjoint,
    )


def _kernel(plan, r):
    p = _Program(plan)

    def steps(i, h):
        places = [p.place(i * STEPS + u) for u in range(STEPS)]
        read = [
            [p.number(r, name, t) for name in ("x", "a")] for t, _ in places
        ]
        for (t, exists), (x, a) in zip(places, read, strict=True):
            anew = None if r.resets is None else r.resets[p.row, t] != 0
            live = exists
            if r.mask is not None:
                live &= r.mask[p.row, t] != 0
            h, y = step(h, x, a, live, anew, plan.adjoint)
            for ref, v in zip((r.y, r.y_imag), y, strict=False):
                p.store(ref.at[p.row, t, p.channel], v, exists)
        return h

    h = p.number(r, "state")
    h = jax.lax.fori_loop(0, pl.cdiv(plan.l, STEPS), steps, h)
    for ref, v in zip((r.end, r.end_imag), h, strict=False):
        p.store(ref.at[p.row, p.channel], v)


class _Program:
    """A row and a block of channels."""

    def __init__(self, plan):
        self._plan = plan
        self.row = pl.program_id(1)
        channel = jax.lax.iota(jnp.int32, BLOCK)
        self.channel = pl.program_id(0) * BLOCK + channel
        self._exists = self.channel < plan.d
        self._inside = jnp.minimum(self.channel, plan.d - 1)

    def place(self, s):
        """Where step `s` of the scan lies, and whether it exists."""
        last = self._plan.l - 1
        at = jnp.minimum(s, last)
        return last - at if self._plan.backwards else at, s <= last

    def number(self, refs, name, *step):
        """The parts of a number, at a step if it has steps."""
        parts = getattr(refs, name), getattr(refs, f"{name}_imag")
        return tuple(self._load(ref, *step) for ref in parts if ref is not None)

    def _load(self, ref, *step):
        # All rows share a constant factor.
        index = (self.row, *step) if ref.ndim > 1 else ()
        at = ref.at[(*index, self._inside)]
        return plgpu.load(at, mask=self._exists, other=0.0)

    def store(self, at, v, condition=True):
        """Writes a block of channels, those that exist."""
        plgpu.store(at, v, mask=self._exists & condition)
