"""The loop over chunks behind `ssd`, forward and backward.

The formulas are those of `keras_ssm/kernels/ssd_chunk.py`, arranged so that
PyTorch makes few passes over memory. What belongs to pairs of steps is laid out
heads first, `(b, h, q, ...)`; the products with states are one for all heads of
a group, with `(b, g, q, e, p)` and states `(b, g, n, e, p)`. The forward pass
keeps the state at the start of each chunk.
"""

import torch

from keras_ssm.kernels.ssd_chunk import exponents, join_heads, split_heads


def forward(x, dt, A, B, C, h, resets, reverse, q):
    """`y`, the last state, and the state at the start of each chunk."""
    layout = Layout(x, B, q)
    coarse, fine, _ = exponents(dt, A, resets)
    y, starts = x.new_empty(x.shape), layout.new_starts()
    h = split_heads(h, layout.groups)
    walk = zip(starts.unbind(1), layout.order(reverse), strict=False)
    for start, steps in walk:
        inputs = (v[:, steps] for v in (x, dt, coarse, fine, B, C))
        chunk = _Chunk(layout, reverse, *inputs)
        start.copy_(h)
        chunk.outputs(start, y[:, steps])
        h = chunk.end(start)
    return y, join_heads(h).contiguous(), starts


def backward(dy, dh, x, dt, A, B, C, resets, starts, reverse, q):
    """Gradients of x, dt, A (of each row), B, C and the initial state."""
    layout = Layout(x, B, q)
    coarse, fine, clipped = exponents(dt, A, resets)
    dx, ddt, dB, dC = outputs = [v.new_empty(v.shape) for v in (x, dt, B, C)]
    g, dA = split_heads(dh, layout.groups).contiguous(), 0
    walk = zip(starts.unbind(1), layout.order(reverse), strict=False)
    for start, steps in reversed(list(walk)):
        inputs = (v[:, steps] for v in (x, dt, coarse, fine, B, C))
        chunk = _Chunk(layout, reverse, *inputs)
        g, da = chunk.adjoint(
            start, dy[:, steps], g, *(v[:, steps] for v in outputs)
        )
        da.masked_fill_(clipped[:, steps], 0)
        ddt[:, steps] += da * A
        # Chunk by chunk: long sums in float32 lose less in two levels.
        dA = dA + (da * dt[:, steps]).sum(1)
    return dx, ddt, dA, dB, dC, join_heads(g).contiguous()


class Layout:
    """Sizes, and how tensors are split into groups and chunks.

    Args:
        x: `(b, l, h, p)`.
        B: `(b, l, g, n)`.
        q: Steps of a chunk.
    """

    def __init__(self, x, B, q):
        self.rows, self._length, self.heads, self.width = x.shape
        self.groups, self.n = B.shape[2:]
        self._q, self._like = q, x

    def new_starts(self):
        """Room for the state at the start of each chunk, and one more.

        So there are at least two: where there may be one, `torch.compile`
        compiles twice, for one and for more.
        """
        chunks = (self._length + self._q - 1) // self._q + 1
        shape = self.groups, self.n, self.heads // self.groups, self.width
        return self._like.new_zeros((self.rows, chunks, *shape))

    def order(self, reverse):
        """The steps of each chunk as slices, in the order of the scan."""
        starts = range(0, self._length, self._q)
        steps = [slice(s, min(s + self._q, self._length)) for s in starts]
        return steps[::-1] if reverse else steps

    def grouped(self, v):
        """A view, (b, q, h, ...) -> (b, g, q, e, ...)."""
        return v.unflatten(2, (self.groups, -1)).transpose(1, 2)

    def matrices(self, v):
        """(b, q, g, n) -> (b * g, q, n)."""
        return v.transpose(1, 2).flatten(0, 1)

    def maps(self, v):
        """The inverse of `matrices`."""
        return v.unflatten(0, (-1, self.groups)).transpose(1, 2)

    def columns(self, v):
        """(b, g, ., e, p) -> (b * g, ., e * p)."""
        return v.flatten(0, 1).flatten(-2)

    def heads_of(self, columns):
        """The inverse of `columns`."""
        v = columns.unflatten(0, (-1, self.groups))
        return v.unflatten(-1, (-1, self.width))

    def pairs(self, v):
        """(b * h, q, q) -> (b * g, e, q, q), to go with what groups share."""
        return v.unflatten(0, (self.rows * self.groups, -1))


class _Chunk:
    """One chunk: what both directions need of it, and what they compute.

    Args:
        layout: The `Layout`.
        reverse: Whether the scan runs from the end.
        x: `(b, q, h, p)`.
        dt: `(b, q, h)`.
        coarse: Of the exponents, `(b, q, h)`.
        fine: Likewise.
        B: `(b, q, g, n)`.
        C: `(b, q, g, n)`.
    """

    def __init__(self, layout, reverse, x, dt, coarse, fine, B, C):
        self._layout, self._reverse, self._x = layout, reverse, x
        self._B, self._C = layout.matrices(B), layout.matrices(C)
        last = slice(0, 1) if reverse else slice(x.shape[1] - 1, None)
        self._sums = _cumsum(coarse, reverse)
        fine = _cumsum(fine, reverse)
        self._fine, self._per_fine = torch.exp(fine), torch.exp(-fine)
        self._dt_scaled = dt * self._per_fine
        self._from_start = torch.exp(self._sums)
        self._to_end = torch.exp(self._sums[:, last] - self._sums)
        self._to_end.mul_(self._fine[:, last])
        decay = self._from_start[:, last] * self._fine[:, last]
        self._decay = layout.grouped(decay)[..., None]  # (b, g, 1, e, 1)

    def outputs(self, h, y):
        """Writes `y`, `(b, q, h, p)`, where `h` is the state before."""
        layout = self._layout
        decays, scores = self._decays(), self._scores()
        layout.pairs(decays).mul_(scores[:, None])
        within = torch.bmm(decays, self._heads_first(self._x, self._dt_scaled))
        carried = self._carried(h)
        carried.mul_(layout.grouped(self._from_start)[..., None])
        carried.add_(self._grouped_again(within))
        fine = layout.grouped(self._fine)[..., None]
        torch.mul(carried, fine, out=layout.grouped(y))

    def end(self, h):
        """The state after the chunk, `(b, g, n, e, p)`."""
        update = torch.bmm(self._B.mT, self._layout.columns(self._u_to_end()))
        return torch.addcmul(self._layout.heads_of(update), h, self._decay)

    def adjoint(self, h, dy, g, dx, ddt, dB, dC):
        """From the gradients of `outputs(h)` and of the state at the end.

        Writes those of x, of dt but for its exponent, of B and of C.

        Returns:
            The gradients of `h` and of the exponents.
        """
        layout = self._layout
        du, dB_within, dC_within, da = self._adjoint_within(dy)
        dy = self._scaled(dy, self._fine * self._from_start)
        h_columns, g_columns = layout.columns(h), layout.columns(g)
        of_start = self._sums_over_width(self._carried(h), dy)
        dC_within.baddbmm_(layout.columns(dy), h_columns.mT)
        dB_within.baddbmm_(layout.columns(self._u_to_end()), g_columns.mT)
        dB.copy_(layout.maps(dB_within))
        dC.copy_(layout.maps(dC_within))

        back = layout.heads_of(torch.bmm(self._B, g_columns))
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

        g = g * self._decay
        of_whole = (g * h).sum((2, 4)).flatten(1)  # (b, h)
        g_columns = layout.columns(g).baddbmm_(self._C.mT, layout.columns(dy))
        da = da + of_whole[:, None] + _cumsum(of_start, not self._reverse)
        da += _cumsum(_later(of_end, self._reverse), self._reverse)
        return layout.heads_of(g_columns), da

    def _adjoint_within(self, dy):
        """The part of the pairs of steps in the chunk.

        Returns:
            Gradients of u, B, C, and of the exponents.
        """
        layout = self._layout
        decays, scores = self._decays(), self._scores()
        dy = self._heads_first(dy, self._fine)
        pairs = torch.bmm(dy, self._heads_first(self._x, self._dt_scaled).mT)
        pairs.mul_(decays)
        dscores = layout.pairs(pairs).sum(1)
        dB = torch.bmm(dscores.mT, self._C)
        dC = torch.bmm(dscores, self._B)
        for v in (decays, pairs):
            layout.pairs(v).mul_(scores[:, None])
        du = torch.bmm(decays.mT, dy)
        before = torch.ones_like(pairs[0])
        before = before.tril_(-1) if self._reverse else before.triu_(1)
        pairs = pairs.flatten(0, 1).mm(before).view_as(pairs)
        pairs = pairs.triu_() if self._reverse else pairs.tril_()
        da = pairs.sum(-2).unflatten(0, (layout.rows, -1)).mT
        return du, dB, dC, da

    def _scores(self):
        """C[t] B[s], `(b * g, q, q)`."""
        return torch.bmm(self._C, self._B.mT)

    def _decays(self):
        """What is left at `t` of the coarse part from `s`, `(b * h, q, q)`."""
        c = self._sums.mT.flatten(0, 1)
        future = c.new_full((c.shape[1], c.shape[1]), -torch.inf)
        future = future.tril_(-1) if self._reverse else future.triu_(1)
        # Before the exponential, which may be of large numbers elsewhere.
        return torch.sub(c[..., None], c[:, None]).add_(future).exp_()

    def _carried(self, h):
        """C[t] h, `(b, g, q, e, p)`."""
        layout = self._layout
        return layout.heads_of(torch.bmm(self._C, layout.columns(h)))

    def _u_to_end(self):
        """What is left of each u at the end, `(b, g, q, e, p)`."""
        return self._scaled(self._x, self._dt_scaled * self._to_end)

    def _scaled(self, v, scale):
        """The product of (b, q, h, p) and (b, q, h), `(b, g, q, e, p)`."""
        v, scale = self._layout.grouped(v), self._layout.grouped(scale)
        return torch.mul(v, scale[..., None], out=v.new_empty(v.shape))

    def _heads_first(self, v, scale):
        """The same, `(b * h, q, p)`."""
        v, scale = v.transpose(1, 2), scale.transpose(1, 2)
        scaled = torch.mul(v, scale[..., None], out=v.new_empty(v.shape))
        return scaled.flatten(0, 1)

    def _grouped_again(self, v):
        """(b * h, q, p) -> (b, g, q, e, p)."""
        layout = self._layout
        v = v.unflatten(0, (layout.rows, layout.groups, -1))
        return v.transpose(2, 3)

    def _sums_over_width(self, v, w):
        """The sum over p of two `(b, g, q, e, p)`, `(b, q, h)`."""
        return (v * w).sum(-1).transpose(1, 2).flatten(2)


def _cumsum(v, reverse):
    """Sums over the steps up to each, `(b, q, h)`."""
    return v.flip(1).cumsum(1).flip(1) if reverse else v.cumsum(1)


def _later(v, reverse):
    """`v` one step later in the order of the scan."""
    none = torch.zeros_like(v[:, :1])
    if reverse:
        return torch.cat([v[:, 1:], none], dim=1)
    return torch.cat([none, v[:, :-1]], dim=1)
