"""The loop over time behind the selective scan, forward and backward.

Chunks of `q` steps share the work that does not depend on the step before,
so that the loop itself is one fused multiply-add a step, in memory that stays
in the cache. The state is laid out `(b, g, n, d/g)`: channels last. The
forward pass keeps the state at the start of each chunk; the backward pass
recomputes a chunk's states from it, then walks the chunk from its end, with the
formulas in `keras_ssm/kernels/lax/selective_scan.py`.
"""

import torch


def forward(x, dt, A, B, C, h, resets, reverse, q):
    """`y`, the last state, and the state at the start of each chunk."""
    layout = Layout(x, A, B, q)
    y, starts = layout.new(x.shape), layout.new_starts()
    inputs = [layout.over_time(v) for v in (x, dt, B, C, resets)]
    h, chunk = layout.state(h), _Chunk(layout, A, reverse)
    for start, steps in zip(starts.unbind(1), chunk.order(), strict=False):
        start.copy_(h)
        x, dt, B, C, reset = (_at(v, steps) for v in inputs)
        _, _, states = chunk.states(start, x, dt, B, reset)
        layout.over_time(y)[steps] = _over_states(C, states)
        h = states[0 if reverse else -1]
    return y, layout.from_state(h), starts


def backward(dy, dh, x, dt, A, B, C, resets, starts, reverse, q):
    """Gradients of x, dt, A (of each row), B, C and the initial state."""
    layout = Layout(x, A, B, q)
    gradients = [layout.new(v.shape) for v in (x, dt, B, C)]
    outputs = [layout.over_time(v) for v in gradients]
    inputs = [layout.over_time(v) for v in (dy, x, dt, B, C, resets)]
    g, chunk = layout.state(dh), _Chunk(layout, A, reverse)
    dA = torch.zeros_like(g, memory_format=torch.contiguous_format)
    walk = list(zip(starts.unbind(1), chunk.order(), strict=False))
    for start, steps in reversed(walk):
        g, of_chunk, of_steps = chunk.adjoint(
            start, g, *(_at(v, steps) for v in inputs)
        )
        # Chunk by chunk: long sums in float32 lose less in two levels.
        dA += of_chunk
        for output, gradient in zip(outputs, of_steps, strict=True):
            output[steps] = gradient
    dx, ddt, dB, dC = gradients
    return dx, ddt, layout.from_state(dA), dB, dC, layout.from_state(g)


class Layout:
    """Moves between the op's layouts and those of the loop.

    Args:
        x: `(b, l, d)`.
        A: `(d, n)`.
        B: `(b, l, g, n)`.
        q: Steps of a chunk.
    """

    def __init__(self, x, A, B, q):
        self.q = q
        self.rows, self.length, d = x.shape
        self.groups, n = B.shape[2:]
        self.state_shape = (self.groups, n, d // self.groups)
        self._like = x

    def new(self, shape):
        """Uninitialised memory, like the inputs."""
        return self._like.new_empty(shape)

    def new_starts(self):
        """Room for the state at the start of each chunk, and one more.

        So there are at least two: where there may be one, `torch.compile`
        compiles twice, for one and for more.
        """
        chunks = (self.length + self.q - 1) // self.q + 1
        return self._like.new_zeros((self.rows, chunks, *self.state_shape))

    def grouped(self, v):
        """(b, l, d) -> (b, l, g, d/g); maps and resets stay as they are."""
        if v is None or v.ndim != 3:
            return v
        return v.unflatten(2, (self.groups, self.state_shape[2]))

    def over_time(self, v):
        """A view with time first, (l, b, g, d/g); maps and resets likewise."""
        return None if v is None else self.grouped(v).transpose(0, 1)

    def state(self, h):
        """(b, d, n) -> (b, g, n, d/g)."""
        groups, _, channels = self.state_shape
        return h.unflatten(1, (groups, channels)).transpose(2, 3)

    def from_state(self, h):
        """The inverse of `state`, in memory of its own."""
        h = h.transpose(2, 3).clone(memory_format=torch.contiguous_format)
        return h.flatten(1, 2)


class _Chunk:
    """Scratch memory for one chunk, and what is computed in it.

    Args:
        layout: The `Layout` of the inputs.
        A: `(d, n)`.
        reverse: Whether the scan runs from the end.
    """

    def __init__(self, layout, A, reverse):
        self._length, self._q = layout.length, layout.q
        self._reverse = reverse
        self._A = layout.state(A[None])[0].contiguous()  # (g, n, d/g)
        size = min(layout.q, layout.length)
        shape = (layout.rows, *layout.state_shape)
        self._decays = layout.new((size, *shape))
        self._gradients = layout.new((size, *shape))
        # Those after each step, and the one before them all.
        self._states = layout.new((size + 1, *shape))

    def order(self):
        """The steps of each chunk as slices, in the order of the scan."""
        starts = range(0, self._length, self._q)
        steps = [slice(s, min(s + self._q, self._length)) for s in starts]
        return steps[::-1] if self._reverse else steps

    def states(self, start, x, dt, B, reset):
        """Decays, states before and states after each step, from `start`."""
        count = x.shape[0]
        a, states = self._decays[:count], self._states[: count + 1]
        before, after = states[:-1], states[1:]
        if self._reverse:
            before, after = after, before
        torch.mul(dt[..., None, :], self._A, out=a).exp_()
        torch.mul((dt * x)[..., None, :], B[..., None], out=after)
        states[-1 if self._reverse else 0].copy_(start)
        a_at, h_at, u_at = a.unbind(), before.unbind(), after.unbind()
        for t in self._walk(count):
            h = forget(h_at[t], _at(reset, t))
            u_at[t].addcmul_(a_at[t], h)
        return a, before, after

    def adjoint(self, start, carry, dy, x, dt, B, C, reset):
        """The gradient carried on, the sum for A, and those of the steps.

        What is carried from step to step is multiplied with the decay of the
        step that it comes from.
        """
        a, before, after = self.states(start, x, dt, B, reset)
        g = self._gradients[: x.shape[0]]
        torch.mul(C[..., None], dy[..., None, :], out=g)
        a_at, g_at = a.unbind(), g.unbind()
        last, *others = self._walk(x.shape[0])[::-1]
        g_at[last].add_(carry)
        for t in others:
            if reset is None:
                g_at[t].addcmul_(a_at[last], g_at[last])
            else:
                carry = a_at[last] * g_at[last]
                g_at[t].add_(forget(carry, reset[last]))
            last = t
        dC, dB = _over_channels(after, dy), _over_channels(g, dt * x)
        dB_x = _over_states(B, g)
        a.mul_(g)
        carry = forget(a[last], _at(reset, last)).clone()
        d_exponent = forget(a.mul_(before), reset)
        ddt = torch.mul(d_exponent, self._A, out=g).sum(-2)
        ddt.addcmul_(dB_x, x)
        dA = torch.mul(d_exponent, dt[..., None, :], out=g).sum(0)
        return carry, dA, (dB_x * dt, ddt, dB, dC)

    def _walk(self, count):
        """The steps of a chunk in the order of the scan."""
        return range(count)[::-1] if self._reverse else range(count)


def _over_states(maps, states):
    """sum_n maps * states: (q, b, g, n), (q, b, g, n, e) -> (q, b, g, e)."""
    *rows, n, e = states.shape
    sums = torch.bmm(maps.reshape(-1, 1, n), states.view(-1, n, e))
    return sums.view(*rows, e)


def _over_channels(states, v):
    """sum_e states * v: (q, b, g, n, e), (q, b, g, e) -> (q, b, g, n)."""
    *rows, n, e = states.shape
    sums = torch.bmm(states.view(-1, n, e), v.reshape(-1, e, 1))
    return sums.view(*rows, n)


def forget(h, reset):
    """Empties the state of the rows that start anew."""
    if reset is None:
        return h
    return h.masked_fill(reset[(..., *[None] * (h.ndim - reset.ndim))], 0)


def _at(v, steps):
    return None if v is None else v[steps]
