"""A chunk of the dual form of Mamba-2, and its adjoint, as matrix products.

With `a[t] = dt[t] A`, sums `c[t] = a[1] + ... + a[t]` from the start of the
chunk, `u[t] = dt[t] x[t]`, and `h` the state before the chunk of `q` steps:

    y[t] = sum_{s<=t} exp(c[t] - c[s]) (C[t] B[s]) u[s] + exp(c[t]) C[t] h
    end  = exp(c[q]) h + sum_s exp(c[q] - c[s]) B[s] u[s]

A row that starts anew at `t` has an `a[t]` whose exponential is 0.

The difference of two sums loses what a strong decay between them has rounded
away. So `a` is split into a coarse part, a multiple of 1/128, of which sums
and differences are exact, and a fine one. Sums of the fine part are small, and
of any sign: their exponentials scale `u[s]` and `y[t]` on their own, so that
those below are of the coarse part, at most 0.

With `g` the gradient with respect to the end, `k[t,s]` the exponential in the
first sum, and `w[s]` that in the last:

    P[t,s] = k[t,s] (C[t] B[s]) (dy[t] u[s])
    du[s]  = sum_{t>=s} k[t,s] (C[t] B[s]) dy[t] + w[s] B[s] g
    dC[t]  = sum_{s<=t} k[t,s] (dy[t] u[s]) B[s] + exp(c[t]) dy[t] h
    dB[s]  = sum_{t>=s} k[t,s] (dy[t] u[s]) C[t] + w[s] u[s] g
    dh     = exp(c[q]) g + sum_t exp(c[t]) C[t] dy[t]
    da[r]  = sum_{t>=r} (sum_{s<r} P[t,s] + exp(c[t]) dy[t] C[t] h)
             + sum_{s<r} w[s] u[s] (B[s] g) + exp(c[q]) (h g)

The sums for `da` are over what decays by `a[r]` alone. Those over all of
`dy[t] y[t] - u[t] du[t]` from `r` are the same, and cheaper, but differences of
larger numbers.

All of it is `keras.ops`: the loop over chunks, and what is kept for the
backward pass, are the backend's own.
"""

import keras
import numpy as np
from keras import ops

from keras_ssm.kernels import exact

GRAINS = 128  # in 1, of the coarse part


class Chunk:
    """A chunk of each row, from the inputs of `ssd` in the dtype of the state.

    The first axis `r` has rows that know nothing of each other: those of the
    batch, or all chunks of all of them. The heads are split into `g` groups of
    `e` heads. A state is `(r, g, n, e, p)`, which makes one product of matrices
    for all heads of a group.

    Args:
        x: `(r, q, h, p)`.
        dt: `(r, q, h)`.
        B: `(r, q, g, n)`.
        C: `(r, q, g, n)`.
        resets: `(r, q)`, or `None`.
        A: `(h,)`.
        reverse: Whether time runs from the end.
    """

    def __init__(self, x, dt, B, C, resets, A, reverse):
        (self._q, h, p), g = x.shape[1:], B.shape[2]
        self._heads = g, h // g
        self._A, self._dt, self._B, self._C = A, dt, B, C
        self._x = ops.reshape(x, (-1, self._q, *self._heads, p))
        self._reverse = reverse
        coarse, fine, self._clipped = exponents(dt, A, resets)
        self._coarse = self._sums_until(coarse)
        fine = self._sums_until(fine)

        last = slice(0, 1) if reverse else slice(self._q - 1, self._q)
        self._fine = ops.exp(self._of_heads(fine))
        self._per_fine = self._of_heads(ops.exp(-fine))
        self._u = self._x * (self._of_heads(dt) * self._per_fine)
        self._from_start = ops.exp(self._of_heads(self._coarse))
        to_end = self._coarse[:, last] - self._coarse
        self._to_end = ops.exp(self._of_heads(to_end))
        # To multiply states with, (r, g, 1, e, 1).
        self._whole = ops.swapaxes(self._from_start[:, last], 1, 2)
        self._fine_whole = ops.swapaxes(self._fine[:, last], 1, 2)

    def decay(self):
        """What is left of the state before the chunk, `(r, g, 1, e, 1)`."""
        return self._whole * self._fine_whole

    def update(self):
        """What the chunk adds to it, `(r, g, n, e, p)`."""
        u = self._u * self._to_end
        return self._fine_whole * ops.einsum("rsgn,rsgep->rgnep", self._B, u)

    def outputs(self, h):
        """`y`, `(r, q, h, p)`, where `h` is the state before the chunk."""
        within = self._scores() * self._decays()
        y = ops.einsum("rgets,rsgep->rtgep", within, self._u)
        carried = ops.einsum("rtgn,rgnep->rtgep", self._C, h)
        return self._joined((y + self._from_start * carried) * self._fine)

    def adjoint(self, h, dy, dend):
        """From the gradients of `outputs(h)` and of the state at the end.

        Returns:
            The gradients of x, dt, A (in each row, `(r, h)`), B, C and `h`.
        """
        dy = ops.reshape(dy, (-1, *self._x.shape[1:])) * self._fine
        dend = dend * self._fine_whole
        du, dB, dC, of_pairs = self._adjoint_within(dy)

        carried = ops.einsum("rtgn,rgnep->rtgep", self._C, h)
        dy_start = dy * self._from_start
        of_start = ops.sum(dy_start * carried, axis=-1)
        dC = dC + ops.einsum("rtgep,rgnep->rtgn", dy_start, h)
        dh = ops.einsum("rtgn,rtgep->rgnep", self._C, dy_start)

        back = self._to_end * ops.einsum("rsgn,rgnep->rsgep", self._B, dend)
        of_end = ops.sum(self._u * back, axis=-1)
        u_end = self._u * self._to_end
        dB = dB + ops.einsum("rsgep,rgnep->rsgn", u_end, dend)

        passed = self._whole * dend
        of_whole = ops.expand_dims(ops.sum(passed * h, axis=(2, 4)), 1)
        da = of_pairs + of_whole + self._sums_from(of_start)
        da = da + self._sums_until(self._later(of_end))
        da = ops.where(self._clipped, 0.0, self._joined(da))
        du = (du + back) * self._per_fine
        ddt = self._joined(ops.sum(du * self._x, axis=-1)) + da * self._A
        dA = ops.sum(da * self._dt, axis=1)
        dx = self._joined(du * self._of_heads(self._dt))
        return dx, ddt, dA, dB, dC, dh + passed

    def _adjoint_within(self, dy):
        """The part of the pairs of steps in the chunk.

        Returns:
            Gradients of u, B and C, and of the exponents.
        """
        scores, decays = self._scores(), self._decays()
        du = ops.einsum("rgets,rtgep->rsgep", scores * decays, dy)
        dscores = decays * ops.einsum("rtgep,rsgep->rgets", dy, self._u)
        before = ops.cast(self._order(ops.less), dy.dtype)
        pairs = ops.einsum("rgets,sv->rgetv", dscores * scores, before)
        pairs = ops.where(self._order(ops.greater_equal), pairs, 0.0)
        dscores = ops.sum(dscores, axis=2)
        dB = ops.einsum("rgts,rtgn->rsgn", dscores, self._C)
        dC = ops.einsum("rgts,rsgn->rtgn", dscores, self._B)
        of_pairs = ops.transpose(ops.sum(pairs, axis=-2), (0, 3, 1, 2))
        return du, dB, dC, of_pairs

    def _scores(self):
        """C[t] B[s], `(r, g, 1, t, s)`."""
        scores = ops.einsum("rtgn,rsgn->rgts", self._C, self._B)
        return ops.expand_dims(scores, 2)

    def _decays(self):
        """What is left at `t` of step `s`, coarsely, `(r, g, e, t, s)`."""
        c = ops.reshape(self._coarse, (-1, self._q, *self._heads))
        c = ops.transpose(c, (0, 2, 3, 1))
        c = ops.expand_dims(c, -1) - ops.expand_dims(c, -2)
        # Before the exponential, which may be of large numbers elsewhere.
        return ops.exp(ops.where(self._order(ops.greater_equal), c, -np.inf))

    def _order(self, compare):
        """Whether `t` compares so with `s` in the order of time, `(t, s)`."""
        time = ops.arange(self._q)
        time = -time if self._reverse else time
        return compare(time[:, None], time)

    def _sums_until(self, v):
        """Sums over the steps up to each, which is included."""
        return _cumsum(v, self._reverse)

    def _sums_from(self, v):
        """Sums over the steps from each, which is included."""
        return _cumsum(v, not self._reverse)

    def _later(self, v):
        """`v` one step later in the order of time."""
        if self._reverse:
            return ops.concatenate([v[:, 1:], ops.zeros_like(v[:, :1])], 1)
        return ops.concatenate([ops.zeros_like(v[:, :1]), v[:, :-1]], 1)

    def _of_heads(self, v):
        """(r, q, h) -> (r, q, g, e, 1)."""
        return ops.reshape(v, (-1, self._q, *self._heads, 1))

    def _joined(self, v):
        """(r, q, g, e, ...) -> (r, q, h, ...)."""
        g, e = self._heads
        return ops.reshape(v, (-1, self._q, g * e, *v.shape[4:]))


def split_heads(h, groups):
    """The state of a chunk from that of the op, `(b, h, p, n)`."""
    heads, p, n = h.shape[1:]
    h = ops.reshape(h, (-1, groups, heads // groups, p, n))
    return ops.transpose(h, (0, 1, 4, 2, 3))


def join_heads(h):
    """The inverse of `split_heads`."""
    g, n, e, p = h.shape[1:]
    return ops.reshape(ops.transpose(h, (0, 1, 3, 4, 2)), (-1, g * e, p, n))


def exponents(dt, A, resets):
    """The `a` of each step, `(r, q, h)`.

    Returns:
        Its coarse part, its fine part, and where it is not `dt A`.
    """
    wide = keras.backend.standardize_dtype(dt.dtype) == "float64"
    # Its exponential is 0, and 1024 of it have an exact sum.
    lowest = -1024.0 if wide else -128.0
    a = dt * A
    # Not `ops.maximum`, which is in float32 on PyTorch.
    a = ops.where(a < lowest, lowest, a)
    if resets is not None:
        a = ops.where(resets[..., None], lowest, a)
    coarse = ops.round(a * GRAINS) / GRAINS
    return coarse, a - coarse, a <= lowest


def _cumsum(v, reverse):
    if reverse:
        return ops.flip(exact.cumsum(ops.flip(v, 1)), 1)
    return exact.cumsum(v)
