"""The selective scan in plain operators, for programs that are exported.

The number of operators must not depend on the length, which may be a symbol.
So all chunks of `CHUNK` steps walk at the same time: first from an empty
state, which gives each chunk as one map `h -> a h + u`; these are composed in
logarithmic steps to the state at the start of each chunk (Hillis & Steele,
1986), from where the chunks walk again. It holds `l / CHUNK` states; gradients
are those of autograd, which keeps every state.
"""

import torch

from keras_ssm.kernels.ssd_chunk import Chunk, join_heads, split_heads
from keras_ssm.kernels.torch.loop import Layout, forget

CHUNK = 16
# A symbolic length is at most this if the exporter knows no better.
LONGEST = 2**32


def recurrence(x, dt, A, B, C, h, resets, reverse):
    """`h[t] = exp(dt[t] A) h[t-1] + dt[t] B[t] x[t]; y[t] = C[t] h[t]`."""
    layout = Layout(x, A, B, CHUNK)
    A, h = layout.state(A[None])[0], layout.state(h)[:, None]
    inputs = [layout.grouped(v) for v in (x, dt, B, C, resets)]
    if reverse:
        inputs = [None if v is None else v.flip(1) for v in inputs]
    steps = _steps_of_chunks(*inputs)
    a, u = _compose(*_chunks_as_maps(A, steps))
    ends = a * h + u
    h, y = _starts(h, ends), []
    for dt, dt_x, B, C, reset in steps:
        h = torch.exp(dt * A) * forget(h, reset) + dt_x * B
        y.append((C * h).sum(-2))
    y = _in_order(y, layout.length, reverse)
    return y.flatten(2), layout.from_state(ends[:, -1])


def linear_recurrence(a, x, h, resets, reverse):
    """`h[t] = a[t] h[t-1] + x[t]`: all of it, and the last one."""
    inputs = [a, x, resets]
    if reverse:
        inputs = [None if v is None else v.flip(1) for v in inputs]
    steps = _linear_steps_of_chunks(*inputs)
    a, u = torch.ones_like(steps[0][0]), torch.zeros_like(steps[0][1])
    for decay, update, reset in steps:
        a = forget(decay * a, reset)
        u = decay * forget(u, reset) + update
    a, u = _compose(a, u)
    ends = a * h[:, None] + u
    h, y = _starts(h[:, None], ends), []
    for decay, update, reset in steps:
        h = decay * forget(h, reset) + update
        y.append(h)
    return _in_order(y, x.shape[1], reverse), ends[:, -1]


def ssd(x, dt, A, B, C, h, resets, reverse, chunk_size):
    """`h[t] = exp(dt[t] A) h[t-1] + dt[t] x[t] B[t]; y[t] = h[t] C[t]`."""
    inputs = [x, dt, B, C, resets]
    if reverse:
        inputs = [None if v is None else v.flip(1) for v in inputs]
    time, exists = _times(x.shape[1], x, chunk_size)
    inputs = [None if v is None else v[:, time] for v in inputs]
    # A step behind the end has size 0, which changes nothing.
    inputs[1] = torch.where(exists[..., None], inputs[1], 0)
    if resets is not None:
        inputs[4] = inputs[4] & exists
    rows = [None if v is None else v.flatten(0, 1) for v in inputs]
    chunk = Chunk(*rows, A, reverse=False)
    a, u = (
        v.unflatten(0, (-1, time.shape[0]))
        for v in (chunk.decay(), chunk.update())
    )
    a, u = _compose(a, u)
    h = split_heads(h, B.shape[2])[:, None]
    ends = a * h + u
    y = chunk.outputs(_starts(h, ends).flatten(0, 1))
    y = y.unflatten(0, (-1, time.shape[0])).flatten(1, 2)
    y = y[:, _in_time(x.shape[1], y, reverse)]
    return y, join_heads(ends[:, -1])


def _times(length, like, q=CHUNK):
    """The step at each place of each chunk, and whether it exists.

    Behind the end, the last step is repeated. There are at least two chunks:
    of a size that may be 1, exporters may conclude that it must not be.
    """
    chunks = length // q + 2
    time = q * _count(chunks, like)[:, None] + _count(q, like)
    exists = time < length
    return torch.where(exists, time, length - 1), exists


def _steps_of_chunks(x, dt, B, C, resets):
    """dt, dt x, B, C and resets of each step, for all chunks at once.

    Each is `(b, chunks, g, n, d/g)` with 1 for what it does not depend on.
    A step behind the end has size 0, which changes nothing.
    """
    time, exists = _times(x.shape[1], x)
    x, dt, B, C = (v[:, time] for v in (x, dt, B, C))
    dt = torch.where(exists[..., None, None], dt, 0)
    inputs = [dt.unsqueeze(-2), (dt * x).unsqueeze(-2)]
    inputs += [B.unsqueeze(-1), C.unsqueeze(-1)]
    inputs = [v.unbind(2) for v in inputs]
    if resets is None:
        inputs.append([None] * CHUNK)
    else:
        inputs.append((resets[:, time] & exists).unbind(2))
    return list(zip(*inputs, strict=True))


def _linear_steps_of_chunks(a, x, resets):
    """a, x and resets of each step, for all chunks at once.

    A step behind the end keeps the state as it is.
    """
    time, exists = _times(x.shape[1], x)
    a = torch.where(exists[..., None], a[:, time], 1)
    x = torch.where(exists[..., None], x[:, time], 0)
    new = [None] * CHUNK
    if resets is not None:
        new = (resets[:, time] & exists).unbind(2)
    return list(zip(a.unbind(2), x.unbind(2), new, strict=True))


def _starts(h, ends):
    """The state before each chunk, from the first and those after each."""
    chunk = _count(ends.shape[1], ends)
    return torch.where(_per_chunk(chunk == 0, ends), h, ends[:, chunk - 1])


def _in_order(y, length, reverse):
    """The steps of all chunks behind each other, `(b, l, ...)`."""
    y = torch.stack(y, dim=2)
    time = _in_time(length, y, reverse)
    return y[:, time // CHUNK, time % CHUNK]


def _in_time(length, like, reverse):
    """Where the steps are that have been walked in their order."""
    time = _count(length, like)
    return time.flip(0) if reverse else time


def _chunks_as_maps(A, steps):
    """Each chunk as the map `h -> a h + u`, `(b, chunks, g, n, d/g)`."""
    a, u = None, None
    for dt, dt_x, B, _, reset in steps:
        decay, update = torch.exp(dt * A), dt_x * B
        a = decay if a is None else decay * a
        a = forget(a, reset)
        u = update if u is None else decay * forget(u, reset) + update
    return a, u


def _compose(a, u):
    """The maps from the start of the row to the end of each chunk."""
    # It imports sympy, which takes long, and which an exporter has already.
    from torch.fx.experimental.symbolic_shapes import statically_known_true

    chunks = a.shape[1]
    chunk = _count(chunks, a)
    distance = 1
    while distance < LONGEST // CHUNK:
        if statically_known_true(distance >= chunks):
            break
        source = (chunk - distance).clamp(min=0)
        inside = _per_chunk(chunk >= distance, a)
        u = u + torch.where(inside, a * u[:, source], 0)
        a = torch.where(inside, a * a[:, source], a)
        distance *= 2
    return a, u


def _count(size, like):
    return torch.arange(size, device=like.device)


def _per_chunk(v, like):
    return v[(slice(None), *[None] * (like.ndim - 2))]
