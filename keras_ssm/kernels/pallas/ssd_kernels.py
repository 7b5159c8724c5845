"""The kernels of `ssd`, for a GPU and for a TPU alike.

A program has a chunk of `q` steps of a row and a head, or of the heads of a
group. Sequences are `(b, h, l, P)` or `(b, g, l, N)` with whole chunks, states
`(b, h, c, N, P)`. Of each step, `columns` `(b, h, l, 5)` has the size, the sums
of the coarse and the fine exponents, what is left of the state before the
chunk, and what is left of the step behind it; `rows` `(b, h, c, 3, q)` the
first three. The formulas are those of `keras_ssm/kernels/ssd_chunk.py`.
"""

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl

from keras_ssm.kernels.pallas.calls import call

# Heads that a program takes at most: their states have to fit into the memory
# of a core of a TPU.
MOST_HEADS = 16
# The numbers of a step in `columns` and `rows`.
SIZE, COARSE, FINE, FROM_START, TO_END = range(5)


def states(how, x, maps, weights):
    """`sum_s weights[s] maps[s] x[s]` of each chunk."""
    q = how[-1]
    (b, h, l, P), N = x.shape, maps.shape[3]
    return _call(
        _states_kernel,
        how,
        {"x": x, "maps": maps, "weights": weights},
        {"states": (b, h, l // q, N, P)},
        _by_head(how, h // maps.shape[1]),
        (b, h, l // q),
    )["states"]


def outputs(how, columns, rows, x, B, C, starts):
    """y, from the states before chunks."""
    given = dict(columns=columns, rows=rows, x=x, B=B, C=C, starts=starts)
    specs = _by_head(how, x.shape[1] // B.shape[1])
    found = {"y": x.shape}
    grid = starts.shape[:3]
    return _call(_outputs_kernel, how, given, found, specs, grid)["y"]


def inputs(how, columns, rows, x, dy, B, C, starts, after):
    """Gradients of x, and `(b, h, c, q)` of dt and of exponents.

    That of dt leaves out its exponent, that of exponents the whole chunk's.
    """
    b, h, c = starts.shape[:3]
    given = dict(columns=columns, rows=rows, x=x, dy=dy, B=B, C=C)
    given |= dict(starts=starts, after=after)
    found = {"dx": x.shape, "of_end": (b, h, x.shape[2], 1)}
    found["of_steps"] = b, h, c, 2, how[-1]
    specs = _by_head(how, h // B.shape[1])
    found = _call(_inputs_kernel, how, given, found, specs, (b, h, c))
    of_dt = found["of_steps"][:, :, :, 0] + found["of_end"].reshape(b, h, c, -1)
    return found["dx"], of_dt, found["of_steps"][:, :, :, 1]


def maps(how, columns, rows, x, dy, B, C, starts, after):
    """Gradients of B and C, sums over the heads of a group."""
    (b, h, c), g = starts.shape[:3], B.shape[1]
    members = h // g
    each = next(
        size
        for size in range(min(members, MOST_HEADS), 0, -1)
        if members % size == 0
    )
    parts = h // each
    given = dict(columns=columns, rows=rows, x=x, dy=dy, B=B, C=C)
    given |= dict(starts=starts, after=after)
    shape = (b, parts, *B.shape[2:])
    specs = _by_head(how, members // each, each)
    found, grid = {"dB": shape, "dC": shape}, (b, parts, c)
    found = _call(_maps_kernel, how, given, found, specs, grid)
    return tuple(
        v.reshape(b, g, parts // g, *v.shape[2:]).sum(2)
        for v in (found["dB"], found["dC"])
    )


def _by_head(how, members, each=1):
    """Makes the block that a program sees of a tensor, by its name.

    Args:
        how: The platform, whether it is interpreted, and the steps of a chunk.
        members: How many programs share a group.
        each: Heads of a program.
    """
    q = how[-1]

    def group(k):
        # Not `//`: to round, it asks what device this is.
        return k if members == 1 else jax.lax.div(k, jnp.int32(members))

    def block(name, shape):
        if name in ("B", "C", "maps"):
            size = (1, 1, q, shape[3])
            return pl.BlockSpec(size, lambda i, k, c: (i, group(k), c, 0))
        heads = 1 if name in ("dB", "dC") else each
        if len(shape) == 4:
            size = (1, heads, q, shape[3])
            return pl.BlockSpec(size, lambda i, k, c: (i, k, c, 0))
        size = (1, heads, 1, *shape[3:])
        return pl.BlockSpec(size, lambda i, k, c: (i, k, c, 0, 0))

    return block


def _call(kernel, how, given, found, block, grid):
    """Runs a kernel; returns its outputs by name."""
    platform, interpret, _ = how
    shapes = {name: v.shape for name, v in given.items()} | found
    return call(
        lambda refs: kernel(_Program(refs, how)),
        given,
        {name: (shape, jnp.float32) for name, shape in found.items()},
        specs={name: block(name, shape) for name, shape in shapes.items()},
        grid=grid,
        compiler_params=_parameters(platform),
        interpret=interpret,
        name=f"ssd{kernel.__name__}",
    )


def _parameters(platform):
    # Only what the platform needs: JAX may not have the other any more.
    if platform == "gpu":
        from jax.experimental.pallas import triton as plgpu

        return plgpu.CompilerParams(num_warps=4, num_stages=1)
    from jax.experimental.pallas import tpu as pltpu

    return pltpu.CompilerParams(dimension_semantics=("parallel",) * 3)


def _states_kernel(p):
    r = p.refs
    v = r.maps[0, 0] * r.weights[0, 0]
    r.states[0, 0, 0] = p.multiply(v, r.x[0, 0], 0, 0)


def _outputs_kernel(p):
    r = p.refs
    within = p.multiply(r.C[0, 0], r.B[0, 0], 1, 1) * p.between(0)
    y = p.multiply(within * p.row(0, SIZE), r.x[0, 0], 1, 0)
    carried = p.multiply(r.C[0, 0], r.starts[0, 0, 0], 1, 0)
    r.y[0, 0] = y + carried * p.column(0, FROM_START)


def _inputs_kernel(p):
    r, size = p.refs, p.column(0, SIZE)
    dy = r.dy[0, 0]
    within = p.multiply(r.C[0, 0], r.B[0, 0], 1, 1) * p.between(0)
    back = p.multiply(r.B[0, 0], r.after[0, 0, 0], 1, 0)
    back = back * p.column(0, TO_END)
    r.dx[0, 0] = size * (p.multiply(within, dy, 0, 0) + back)
    of_end = jnp.sum(r.x[0, 0] * back, axis=1, keepdims=True)
    r.of_end[0, 0] = of_end
    carried = p.multiply(r.C[0, 0], r.starts[0, 0, 0], 1, 0)
    carried = carried * p.column(0, FROM_START)
    of_start = jnp.sum(dy * carried, axis=1, keepdims=True)
    pairs = p.multiply(dy, r.x[0, 0], 1, 1) * within
    first, second = (_order(pairs.shape, axis) for axis in (0, 1))
    until = jnp.where(first >= second, 1.0, 0.0)  # (t, r)
    sums = p.multiply(pairs * p.row(0, SIZE), until, 0, 0)  # (s, r)
    sums = jnp.where(first < second, sums + of_end * size, of_start)
    r.of_steps[0, 0, 0, 1:2] = jnp.sum(sums, axis=0, keepdims=True)
    r.of_steps[0, 0, 0, 0:1] = jnp.sum(pairs, axis=0, keepdims=True)


def _maps_kernel(p):
    r = p.refs

    def head(i, sums):
        pairs, dB, dC = sums
        x, dy = r.x[0, i], r.dy[0, i]
        of_head = p.multiply(dy, x, 1, 1) * p.between(i)
        pairs = pairs + of_head * p.row(i, SIZE)
        carried = p.multiply(dy, r.starts[0, i, 0], 1, 1)
        dC = dC + carried * p.column(i, FROM_START)
        back = p.multiply(x, r.after[0, i, 0], 1, 1)
        back = back * (p.column(i, SIZE) * p.column(i, TO_END))
        return pairs, dB + back, dC

    B, C = r.B[0, 0], r.C[0, 0]
    q = B.shape[0]
    none = jnp.zeros((q, q), jnp.float32), jnp.zeros_like(B), jnp.zeros_like(C)
    pairs, dB, dC = jax.lax.fori_loop(0, r.x.shape[1], head, none)
    r.dB[0, 0] = dB + p.multiply(pairs, C, 0, 0)
    r.dC[0, 0] = dC + p.multiply(pairs, B, 1, 0)


class _Program:
    """What one program has, and how it multiplies; `i` is one of its heads."""

    def __init__(self, refs, how):
        self.refs = refs
        platform, interpret, _ = how
        self._precision = jax.lax.Precision.HIGHEST
        if platform == "gpu" and not interpret:
            # Three products of parts, in the units for them.
            self._precision = jax.lax.DotAlgorithmPreset.TF32_TF32_F32_X3

    def multiply(self, a, b, of_a, of_b):
        """A product of matrices, summed over an axis of each."""
        return jax.lax.dot_general(
            a,
            b,
            (((of_a,), (of_b,)), ((), ())),
            precision=self._precision,
            preferred_element_type=jnp.float32,
        )

    def column(self, i, k):
        """A number of each step, `(q, 1)`."""
        return self.refs.columns[0, i, :, k : k + 1]

    def row(self, i, k):
        """The same, `(1, q)`."""
        return self.refs.rows[0, i, 0, k : k + 1, :]

    def between(self, i):
        """What is left at step `t` of step `s`, `(t, s)`."""
        v = self.column(i, COARSE) - self.row(i, COARSE)
        v = v + (self.column(i, FINE) - self.row(i, FINE))
        past = _order(v.shape, 0) >= _order(v.shape, 1)
        # Before the exponential, which may be of large numbers elsewhere.
        return jnp.exp(jnp.where(past, v, -jnp.inf))


def _order(shape, axis):
    return jax.lax.broadcasted_iota(jnp.int32, shape, axis)
