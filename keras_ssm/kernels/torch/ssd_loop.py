"""The chunks behind `ssd`, forward and backward.

The formulas are those of `keras_ssm/kernels/ssd_chunk.py`, arranged so that
PyTorch makes few calls and few passes over memory. A block of consecutive
chunks is computed at once, as many as leave what is between the calls in the
cache; only its states take turns. What belongs to pairs of steps is laid out
heads first, `(k, b, h, q, ...)` for `k` chunks; the products with states are
one for all heads of a group, with `(k, b, g, q, e, p)` and states
`(k, b, g, n, e, p)`. The forward pass keeps the state at each border of chunks.
"""

import itertools
import math

import numpy as np
import torch

from keras_ssm.kernels.ssd_chunk import exponents, join_heads, split_heads

# Numbers of each tensor of a block, 4 MiB in float32.
ROOM = 2**20


def forward(x, dt, A, B, C, h, resets, reverse, q):
    """`y`, the last state, and the states at the borders of chunks."""
    layout = Layout(x, B, q)
    coarse, fine, _ = exponents(dt, A, resets)
    y, borders = x.new_empty(x.shape), layout.new_borders()
    first, last = (-1, 0) if reverse else (0, -1)
    borders[:, first] = split_heads(h, layout.groups)
    for place in layout.blocks(reverse):
        inputs = (place.steps(v) for v in (x, dt, coarse, fine, B, C))
        block = _Block(layout, reverse, *inputs)
        states = place.borders(borders)
        block.walk(states)
        block.outputs(states, place.steps(y))
    end = join_heads(borders[:, last])
    return y, end.clone(memory_format=torch.contiguous_format), borders


def backward(dy, dh, x, dt, A, B, C, resets, borders, reverse, q):
    """Gradients of x, dt, A (of each row), B, C and the initial state."""
    layout = Layout(x, B, q)
    coarse, fine, clipped = exponents(dt, A, resets)
    dx, ddt, dB, dC = outputs = [v.new_empty(v.shape) for v in (x, dt, B, C)]
    g, dA = split_heads(dh, layout.groups), 0
    for place in reversed(layout.blocks(reverse)):
        inputs = (place.steps(v) for v in (x, dt, coarse, fine, B, C))
        block = _Block(layout, reverse, *inputs)
        g, da = block.adjoint(
            *(place.borders(borders), place.steps(dy), g),
            *(place.steps(v) for v in outputs),
        )
        da.masked_fill_(place.steps(clipped), 0)
        place.steps(ddt).add_(da * A)
        # Chunk by chunk: long sums in float32 lose less in two levels.
        dA = dA + (da * place.steps(dt)).sum(2).sum(0)
    return dx, ddt, dA, dB, dC, join_heads(g).contiguous()


class Layout:
    """Sizes, and how tensors are split into blocks, chunks and groups.

    Args:
        x: `(b, l, h, p)`.
        B: `(b, l, g, n)`.
        q: Steps of a chunk.
    """

    def __init__(self, x, B, q):
        self.rows, self._length, self.heads, self.width = x.shape
        self.groups, self.n = B.shape[2:]
        self._q, self._like = q, x

    def new_borders(self):
        """Room for the state at each border of chunks, in the order of time.

        There are at least two: where there may be one, `torch.compile`
        compiles twice, for one and for more.
        """
        chunks = (self._length + self._q - 1) // self._q
        shape = self.groups, self.n, self.heads // self.groups, self.width
        # Chunks outside: a block's states are behind one another.
        borders = self._like.new_empty((chunks + 1, self.rows, *shape))
        return borders.transpose(0, 1)

    def blocks(self, reverse):
        """The `_Place` of each block, in the order of the scan.

        A last chunk that is shorter is a block of its own.
        """
        whole, rest = divmod(self._length, self._q)
        largest = max(self._q**2, self._q * self.width, self.n * self.width)
        most = max(1, ROOM // (self.rows * self.heads * largest))
        # Equally long, but for one chunk.
        cuts = np.linspace(0, whole, -(-whole // most) + 1).astype(int)
        places = [
            _Place(first, end - first, self._q, self._q)
            for first, end in itertools.pairwise(cuts.tolist())
        ]
        if rest:
            places.append(_Place(whole, 1, self._q, rest))
        return places[::-1] if reverse else places

    def grouped(self, v):
        """A view, (k, b, q, h, ...) -> (k, b, g, q, e, ...)."""
        return v.unflatten(3, (self.groups, -1)).transpose(2, 3)

    def matrices(self, v):
        """(k, b, q, g, n) -> (k * b * g, q, n)."""
        return v.transpose(2, 3).flatten(0, 2)

    def maps(self, v):
        """The inverse of `matrices`."""
        return v.unflatten(0, (-1, self.rows, self.groups)).transpose(2, 3)

    def columns(self, v):
        """(k, b, g, ., e, p) -> (k * b * g, ., e * p)."""
        return v.flatten(0, 2).flatten(-2)

    def heads_of(self, columns):
        """The inverse of `columns`."""
        v = columns.unflatten(0, (-1, self.rows, self.groups))
        return v.unflatten(-1, (-1, self.width))

    def pairs(self, v):
        """(k * b * h, q, q) -> (k * b * g, e, q, q), for what groups share."""
        return v.unflatten(0, (-1, self.heads // self.groups))


class _Place:
    """Where a block is: so many chunks of `length` steps from a chunk on."""

    def __init__(self, first, chunks, q, length):
        self._first, self._chunks = first, chunks
        start = first * q
        self._steps = slice(start, start + chunks * length)

    def steps(self, v):
        """A view, (b, l, ...) -> (k, b, q, ...)."""
        v = v[:, self._steps].unflatten(1, (self._chunks, -1))
        return v.transpose(0, 1)

    def borders(self, states):
        """A view of the states at the borders of its chunks, k + 1."""
        states = states.transpose(0, 1)
        return states[self._first : self._first + self._chunks + 1]


class _Block:
    """A block of chunks: what both directions need, and what they compute.

    Args:
        layout: The `Layout`.
        reverse: Whether the scan runs from the end.
        x: `(k, b, q, h, p)`.
        dt: `(k, b, q, h)`.
        coarse: Of the exponents, `(k, b, q, h)`.
        fine: Likewise.
        B: `(k, b, q, g, n)`.
        C: `(k, b, q, g, n)`.
    """

    def __init__(self, layout, reverse, x, dt, coarse, fine, B, C):
        self._layout, self._reverse, self._x = layout, reverse, x
        self._B, self._C = layout.matrices(B), layout.matrices(C)
        q = x.shape[2]
        last = slice(0, 1) if reverse else slice(q - 1, None)
        self._sums = _cumsum(coarse, reverse)
        fine = _cumsum(fine, reverse)
        self._fine, self._per_fine = torch.exp(fine), torch.exp(-fine)
        self._dt_scaled = dt * self._per_fine
        self._from_start = torch.exp(self._sums)
        self._to_end = torch.exp(self._sums[:, :, last] - self._sums)
        self._to_end.mul_(self._fine[:, :, last])
        decay = self._from_start[:, :, last] * self._fine[:, :, last]
        self._decay = layout.grouped(decay)[..., None]  # (k, b, g, 1, e, 1)

    def walk(self, borders):
        """Writes the states after those at the first border of the scan."""
        update = torch.bmm(self._B.mT, self._layout.columns(self._u_to_end()))
        update = self._layout.heads_of(update)
        _walk(borders, self._decay, update, self._reverse)

    def outputs(self, borders, y):
        """Writes `y`, `(k, b, q, h, p)`."""
        layout, (h, _) = self._layout, self._ends(borders)
        decays, scores = self._decays(), self._scores()
        layout.pairs(decays).mul_(scores[:, None])
        within = torch.bmm(decays, self._heads_first(self._x, self._dt_scaled))
        carried = self._carried(h)
        torch.addcmul(
            self._grouped_again(within),
            carried,
            layout.grouped(self._from_start)[..., None],
            out=carried,
        )
        fine = layout.grouped(self._fine)[..., None]
        torch.mul(carried, fine, out=layout.grouped(y))

    def adjoint(self, borders, dy, g, dx, ddt, dB, dC):
        """From the gradients of y and of the state at the end, `g`.

        Writes those of x, of dt but for its exponent, of B and of C.

        Returns:
            The gradients of the state at the start and of the exponents.
        """
        layout, (h, _) = self._layout, self._ends(borders)
        du, dB_within, dC_within, da = self._adjoint_within(dy)
        dy = self._scaled(dy, self._fine * self._from_start)
        of_start = self._sums_over_width(self._carried(h), dy)
        first, g = self._adjoint_walk(g, dy)
        dC_within.baddbmm_(layout.columns(dy), layout.columns(h).mT)
        dB_within.baddbmm_(
            layout.columns(self._u_to_end()), layout.columns(g).mT
        )
        dB.copy_(layout.maps(dB_within))
        dC.copy_(layout.maps(dC_within))

        back = layout.heads_of(torch.bmm(self._B, layout.columns(g)))
        back.mul_(layout.grouped(self._to_end)[..., None])
        x = layout.grouped(self._x)
        of_end = self._dt_scaled * self._sums_over_width(back, x)
        back.add_(self._grouped_again(du))
        torch.mul(
            back,
            layout.grouped(self._dt_scaled)[..., None],
            out=layout.grouped(dx),
        )
        torch.mul(self._sums_over_width(back, x), self._per_fine, out=ddt)

        of_whole = (g * h).sum((3, 5), keepdim=True).mul_(self._decay)
        da = da + of_whole.flatten(2)[:, :, None]
        da += _cumsum(of_start, not self._reverse)
        da += _cumsum(_later(of_end, self._reverse), self._reverse)
        return first, da

    def _adjoint_walk(self, g, dy):
        """From the gradient of the state at the end, and of y at its starts.

        Returns:
            The gradients of the state at the start, and after each chunk.
        """
        update = torch.bmm(self._C.mT, self._layout.columns(dy))
        update = self._layout.heads_of(update)
        borders = update.new_empty((len(update) + 1, *update.shape[1:]))
        first, last = (-1, 0) if self._reverse else (0, -1)
        borders[last] = g
        _walk(borders, self._decay, update, not self._reverse)
        return borders[first], self._ends(borders)[1]

    def _adjoint_within(self, dy):
        """The part of the pairs of steps in a chunk.

        Returns:
            Gradients of u, B, C, and of the exponents.
        """
        layout = self._layout
        decays, scores = self._decays(), self._scores()
        dy = self._heads_first(dy, self._fine)
        pairs = torch.bmm(dy, self._heads_first(self._x, self._dt_scaled).mT)
        pairs.mul_(decays)
        dscores = self._past(layout.pairs(pairs).sum(1))
        dB = torch.bmm(dscores.mT, self._C)
        dC = torch.bmm(dscores, self._B)
        for v in (decays, pairs):
            layout.pairs(v).mul_(scores[:, None])
        du = torch.bmm(decays.mT, dy)
        sums = _cumsum(pairs, self._reverse)
        sums = sums.triu_(1) if self._reverse else sums.tril_(-1)
        da = sums.sum(1).unflatten(0, (*self._x.shape[:2], -1)).mT
        return du, dB, dC, _later(da, self._reverse)

    def _ends(self, borders):
        """The states before and after each chunk, in the order of the scan."""
        earlier, later = borders[:-1], borders[1:]
        return (later, earlier) if self._reverse else (earlier, later)

    def _scores(self):
        """C[t] B[s] where `s` is not after `t`, `(k * b * g, q, q)`."""
        return self._past(torch.bmm(self._C, self._B.mT))

    def _past(self, v):
        """Sets to 0 in place where `s` is after `t`, `(., t, s)`."""
        return v.triu_() if self._reverse else v.tril_()

    def _decays(self):
        """What is left at `t` of the coarse part from `s`, `(k * b * h, q, q)`.

        Where `s` is after `t`, it is anything finite.
        """
        c = self._sums.mT.flatten(0, 2)
        # Before the exponential, which may be of large numbers there.
        most = self._past(c.new_full((c.shape[1], c.shape[1]), torch.inf))
        decays = torch.sub(c[..., None], c[:, None])
        torch.minimum(decays, most, out=decays)
        # Twice as fast as `exp` on a CPU, and five times where it underflows.
        return decays.mul_(math.log2(math.e)).exp2_()

    def _carried(self, h):
        """C[t] h, `(k, b, g, q, e, p)`."""
        layout = self._layout
        return layout.heads_of(torch.bmm(self._C, layout.columns(h)))

    def _u_to_end(self):
        """What is left of each u at the end, `(k, b, g, q, e, p)`."""
        return self._scaled(self._x, self._dt_scaled * self._to_end)

    def _scaled(self, v, scale):
        """(k, b, q, h, p) times (k, b, q, h), `(k, b, g, q, e, p)`."""
        v, scale = self._layout.grouped(v), self._layout.grouped(scale)
        return torch.mul(v, scale[..., None], out=v.new_empty(v.shape))

    def _heads_first(self, v, scale):
        """The same, `(k * b * h, q, p)`."""
        v, scale = v.transpose(2, 3), scale.transpose(2, 3)
        scaled = torch.mul(v, scale[..., None], out=v.new_empty(v.shape))
        return scaled.flatten(0, 2)

    def _grouped_again(self, v):
        """(k * b * h, q, p) -> (k, b, g, q, e, p)."""
        v = v.unflatten(0, (*self._x.shape[:2], self._layout.groups, -1))
        return v.transpose(3, 4)

    def _sums_over_width(self, v, w):
        """The sum over p of two `(k, b, g, q, e, p)`, `(k, b, q, h)`."""
        return (v * w).sum(-1).transpose(2, 3).flatten(3)


def _walk(borders, decays, updates, reverse):
    """`h[i+1] = decays[i] h[i] + updates[i]`, or from the last to the first."""
    chunks = range(len(updates))
    for i in reversed(chunks) if reverse else chunks:
        source, target = (i + 1, i) if reverse else (i, i + 1)
        torch.addcmul(
            updates[i], borders[source], decays[i], out=borders[target]
        )


def _cumsum(v, reverse):
    """Sums over the steps of a chunk up to each, its third axis."""
    return v.flip(2).cumsum(2).flip(2) if reverse else v.cumsum(2)


def _later(v, reverse):
    """`v` one step later in the order of the scan."""
    none = torch.zeros_like(v[:, :, :1])
    if reverse:
        return torch.cat([v[:, :, 1:], none], dim=2)
    return torch.cat([none, v[:, :, :-1]], dim=2)
