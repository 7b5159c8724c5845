"""The selective scan in plain operators, for programs that are exported.

The number of operators must not depend on the length, which may be a symbol.
So all chunks of `CHUNK` steps walk at the same time: first from an empty
state, which gives each chunk as one map `h -> a h + u`; these are composed in
logarithmic steps to the state at the start of each chunk (Hillis & Steele,
1986), from where the chunks walk again. It holds `l / CHUNK` states; gradients
are those of autograd, which keeps every state.
"""

import torch

from keras_ssm.kernels.torch.loop import Layout, forget

CHUNK = 16
# A symbolic length is at most this if the exporter knows no better.
LONGEST = 2**32


def recurrence(x, dt, A, B, C, h, resets, reverse):
    """`h[t] = exp(dt[t] A) h[t-1] + dt[t] B[t] x[t]; y[t] = C[t] h[t]`."""
    layout = Layout(x, A, B)
    A, h = layout.state(A[None])[0], layout.state(h)[:, None]
    inputs = [layout.grouped(v) for v in (x, dt, B, C, resets)]
    if reverse:
        inputs = [None if v is None else v.flip(1) for v in inputs]
    steps = _steps_of_chunks(*inputs)
    a, u = _compose(*_chunks_as_maps(A, steps))
    ends = a * h + u
    chunk = _count(ends.shape[1], ends)
    h = torch.where(_per_chunk(chunk == 0), h, ends[:, chunk - 1])
    y = []
    for dt, dt_x, B, C, reset in steps:
        h = torch.exp(dt * A) * forget(h, reset) + dt_x * B
        y.append((C * h).sum(-2))
    time = _count(layout.length, x)
    time = time.flip(0) if reverse else time
    y = torch.stack(y, dim=2)[:, time // CHUNK, time % CHUNK]
    return y.flatten(2), layout.from_state(ends[:, -1])


def _steps_of_chunks(x, dt, B, C, resets):
    """dt, dt x, B, C and resets of each step, for all chunks at once.

    Each is `(b, chunks, g, n, d/g)` with 1 for what it does not depend on.
    Behind the end, the last step is repeated with size 0, which changes
    nothing. There are at least two chunks: of a size that may be 1, exporters
    may conclude that it must not be.
    """
    length, chunks = x.shape[1], x.shape[1] // CHUNK + 2
    time = CHUNK * _count(chunks, x)[:, None] + _count(CHUNK, x)
    exists = time < length
    time = torch.where(exists, time, length - 1)
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
        inside = _per_chunk(chunk >= distance)
        u = u + torch.where(inside, a * u[:, source], 0)
        a = torch.where(inside, a * a[:, source], a)
        distance *= 2
    return a, u


def _count(size, like):
    return torch.arange(size, device=like.device)


def _per_chunk(v):
    return v[:, None, None, None]
