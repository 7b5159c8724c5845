"""The dual form of Mamba-2 as kernels of Pallas, one code for GPU and TPU.

The kernels of `ssd_kernels.py` multiply the matrices of all chunks at once.
What is left is element by element or, like the sums of exponents, small, and
XLA does it: the states between chunks take turns in a loop.
"""

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl

from keras_ssm.kernels import border, jax_fused, jax_fused_ssd
from keras_ssm.kernels.pallas import ssd_kernels
from keras_ssm.kernels.pallas.interpreter import resolve
from keras_ssm.kernels.pallas.limits import unsupported as unsupported
from keras_ssm.kernels.ssd_chunk import exponents

# The sides of matrices: steps of a chunk, and channels of a head; a head of
# more is several that share their step sizes.
SHORTEST, LONGEST = 16, 64


def ssd(*tensors, dt_softplus, reverse, chunk_size):
    """The op on canonical tensors; see `keras_ssm.ops.ssd`."""
    return border.around_ssd(
        recurrence,
        tensors,
        dt_softplus=dt_softplus,
        reverse=reverse,
        chunk_size=chunk_size,
    )


def recurrence(x, dt, A, B, C, h, resets, reverse, chunk_size):
    """`h[t] = exp(dt[t] A) h[t-1] + dt[t] x[t] B[t]; y[t] = h[t] C[t]`."""
    b, l, heads, p = x.shape
    parts = -(-p // LONGEST)
    width = -(-p // parts)
    added = parts * width - p
    x = jnp.pad(x, ((0, 0), (0, 0), (0, 0), (0, added)))
    h = jnp.pad(h, ((0, 0), (0, 0), (0, added), (0, 0)))
    y, end = jax_fused_ssd.recurrence(
        *(_KERNELS, reverse, chunk_size),
        x.reshape(b, l, heads * parts, width),
        jnp.repeat(dt, parts, axis=2),
        jnp.repeat(A, parts),
        *(B, C, h.reshape(b, heads * parts, width, -1), resets),
    )
    y = y.reshape(b, l, heads, parts * width)[..., :p]
    return y, end.reshape(b, heads, parts * width, -1)[:, :, :p]


def steps_of(chunk_size: int) -> int:
    """Steps of a chunk, at most what the caller wants if that is enough."""
    return max(SHORTEST, min(LONGEST, pl.next_power_of_2(chunk_size)))


def _forward(*arguments, platform):
    *tensors, reverse, chunk_size, keep = arguments
    x, _, _, B, C, h, _ = tensors
    chunks = _Chunks(tensors, reverse, chunk_size, platform)
    v, b, c = (chunks.enter(v) for v in (x, B, C))
    updates = ssd_kernels.states(chunks.how, v, b, chunks.weights)
    first = chunks.padded(jnp.swapaxes(h, 2, 3))
    end, starts = chunks.pass_states(first, updates, backwards=False)
    y = ssd_kernels.outputs(*chunks.known, v, b, c, starts)
    p, n = h.shape[2:]
    found = [chunks.leave(y, p), jnp.swapaxes(end, 2, 3)[:, :, :p, :n]]
    return [*found, starts[..., :n, :p]] if keep else found


def _backward(*arguments, platform):
    *tensors, dy, dend, starts, reverse, chunk_size = arguments
    x, dt, A, B, C, h, _ = tensors
    p, n = h.shape[2:]
    chunks = _Chunks(tensors, reverse, chunk_size, platform)
    v, dv, b, c = (chunks.enter(v) for v in (x, dy, B, C))
    starts = chunks.padded(starts)
    updates = ssd_kernels.states(chunks.how, dv, c, chunks.from_start)
    last = chunks.padded(jnp.swapaxes(dend, 2, 3))
    dh, after = chunks.pass_states(last, updates, backwards=True)
    dx, of_dt, of_exponents = ssd_kernels.inputs(
        *chunks.known, v, dv, b, c, starts, after
    )
    dB, dC = ssd_kernels.maps(*chunks.known, v, dv, b, c, starts, after)
    of_whole = chunks.decay * (starts * after).sum((-1, -2))
    da = chunks.steps(of_exponents + of_whole[..., None])
    ddt = chunks.steps(of_dt) + da * A
    return [
        *(chunks.leave(dx, p), ddt, (da * dt).sum(1).sum(0)),
        *(chunks.leave(dB, n), chunks.leave(dC, n)),
        jnp.swapaxes(dh, 2, 3)[:, :, :p, :n],
    ]


class _Chunks:
    """A call as its kernels see it: heads first, in whole chunks.

    Time runs forwards. Channels and states are as many as units for products
    of matrices take; what is added is 0 and stays 0.

    Args:
        tensors: Those of the recurrence.
        reverse: Whether the scan runs from the end.
        chunk_size: What the caller wants of a chunk.
        platform: What the program is lowered for.
    """

    def __init__(self, tensors, reverse, chunk_size, platform):
        x, dt, A, *_, resets = tensors
        self._reverse, self._length = reverse, x.shape[1]
        self._q = steps_of(chunk_size)
        self._count = -(-self._length // self._q)
        self.how = *resolve(platform), self._q
        coarse, fine, _ = exponents(dt, A, resets)
        size, coarse, fine = (
            self._whole(v[..., None]) for v in (dt, coarse, fine)
        )
        shape = (*size.shape[:2], self._count, self._q)
        size, coarse, fine = (v.reshape(shape) for v in (size, coarse, fine))
        coarse, fine = jnp.cumsum(coarse, -1), jnp.cumsum(fine, -1)
        from_start = jnp.exp(coarse + fine)
        to_end = (coarse[..., -1:] - coarse) + (fine[..., -1:] - fine)
        to_end = jnp.exp(to_end)
        self.decay = from_start[..., -1]
        rows = jnp.stack([size, coarse, fine], 3)
        of_steps = size, coarse, fine, from_start, to_end, size * to_end
        of_steps = [v.reshape(*v.shape[:2], -1, 1) for v in of_steps]
        columns = jnp.concatenate(of_steps[:5], -1)
        # What all kernels but the first begin with.
        self.known = self.how, columns, rows
        self.from_start, self.weights = of_steps[3], of_steps[5]

    def enter(self, v):
        """(b, l, h, w) -> (b, h, c * q, W)."""
        return _padded(self._whole(v), -1)

    def _whole(self, v):
        """(b, l, h, w) -> (b, h, c * q, w)."""
        v = jnp.flip(v, 1) if self._reverse else v
        added = self._count * self._q - self._length
        v = jnp.pad(v, ((0, 0), (0, added), (0, 0), (0, 0)))
        return jnp.swapaxes(v, 1, 2)

    def leave(self, v, width):
        """The inverse of `enter`."""
        v = jnp.swapaxes(v, 1, 2)[:, : self._length, :, :width]
        return jnp.flip(v, 1) if self._reverse else v

    def steps(self, v):
        """(b, h, c, q) -> (b, l, h)."""
        return self.leave(v.reshape(*v.shape[:2], -1, 1), 1)[..., 0]

    def padded(self, h):
        """States `(..., n, p)` as large as the kernels' `(..., N, P)`."""
        return _padded(_padded(h, -1), -2)

    def pass_states(self, h, updates, backwards):
        """The state behind all chunks, and those before each of them.

        With `backwards`, the gradients of the first state and of those behind
        each chunk.
        """

        def step(h, of_chunk):
            decay, update = of_chunk
            return decay[..., None, None] * h + update, h

        given = (jnp.moveaxis(v, 2, 0) for v in (self.decay, updates))
        h, kept = jax.lax.scan(step, h, tuple(given), reverse=backwards)
        return h, jnp.moveaxis(kept, 0, 2)


def _padded(v, axis):
    """A tensor with an axis as long as a side of a matrix that kernels take."""
    size = v.shape[axis]
    padding = [(0, 0)] * v.ndim
    padding[axis] = (0, max(SHORTEST, pl.next_power_of_2(size)) - size)
    return jnp.pad(v, padding)


_KERNELS = jax_fused.Fused(_forward, _backward, steps_of, exports=("tpu",))
