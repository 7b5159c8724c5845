"""What the ops mean: NumPy float64 loops, one time step after the other.

Every implementation is tested against these functions, and they are written
to be read, not to be fast. They take what the ops take, return `(y, state)`
wherever an op has a state, and hold no state of their own.
"""

import numpy as np


def selective_scan(
    x,
    dt,
    A,
    B,
    C,
    D=None,
    z=None,
    *,
    dt_bias=None,
    dt_softplus=False,
    initial_state=None,
    mask=None,
    segment_ids=None,
    reverse=False,
):
    """The selective scan; see `keras_ssm.ops.selective_scan`.

    Gu & Dao, 2023 (https://arxiv.org/abs/2312.00752), Algorithm 2, with the
    discretisation of its released code: zero-order hold for A, Euler for B.
    """
    x, dt, A, B, C, D, z, dt_bias, h = _float64(
        x, dt, A, B, C, D, z, dt_bias, initial_state
    )
    b, l, d = x.shape
    B, C = per_channel(B, d), per_channel(C, d)  # (b, l, d, n)
    h = np.zeros((b, d, A.shape[1])) if h is None else h
    dt = dt if dt_bias is None else dt + dt_bias
    dt = np.logaddexp(dt, 0) if dt_softplus else dt
    y = np.zeros((b, l, d))
    for t, live, new in _steps(b, l, mask, segment_ids, reverse):
        decay = np.exp(dt[:, t, :, None] * A)
        update = (dt[:, t] * x[:, t])[..., None] * B[:, t]
        step = decay * np.where(new[:, None, None], 0, h) + update
        h = np.where(live[:, None, None], step, h)
        out = (h * C[:, t]).sum(-1)
        out = out if D is None else out + D * x[:, t]
        out = out if z is None else out * silu(z[:, t])
        y[:, t] = np.where(live[:, None], out, 0)
    return y, h


def ssd(
    x,
    dt,
    A,
    B,
    C,
    D=None,
    *,
    dt_bias=None,
    dt_softplus=False,
    initial_state=None,
    mask=None,
    segment_ids=None,
    reverse=False,
    chunk_size=None,
):
    """The recurrence of Mamba-2; see `keras_ssm.ops.ssd`.

    Dao & Gu, 2024 (https://arxiv.org/abs/2405.21060), section 5. A recurrence
    has no chunks: it ignores their size.
    """
    x, dt, A, B, C, D, dt_bias, state = _float64(
        x, dt, A, B, C, D, dt_bias, initial_state
    )
    b, l, h, p = x.shape
    B, C = per_channel(B, h), per_channel(C, h)  # (b, l, h, n)
    state = np.zeros((b, h, p, B.shape[-1])) if state is None else state
    dt = dt if dt_bias is None else dt + dt_bias
    dt = np.logaddexp(dt, 0) if dt_softplus else dt
    y = np.zeros((b, l, h, p))
    for t, live, new in _steps(b, l, mask, segment_ids, reverse):
        decay = np.exp(dt[:, t] * A)[..., None, None]
        # The outer product of what each head reads and where it writes it.
        update = (dt[:, t, :, None] * x[:, t])[..., None] * B[:, t, :, None]
        before = np.where(new[:, None, None, None], 0, state)
        step = decay * before + update
        state = np.where(live[:, None, None, None], step, state)
        out = (state * C[:, t, :, None]).sum(-1)
        out = out if D is None else out + D[:, None] * x[:, t]
        y[:, t] = np.where(live[:, None, None], out, 0)
    return y, state


def causal_conv1d(
    x,
    weight,
    bias=None,
    *,
    activation=None,
    initial_state=None,
    mask=None,
    segment_ids=None,
    reverse=False,
):
    """The causal depthwise convolution; see `keras_ssm.ops.causal_conv1d`."""
    x, weight, bias, state = _float64(x, weight, bias, initial_state)
    b, l, d = x.shape
    k = weight.shape[0]
    # What each row remembers, oldest first; zeros until something is seen.
    taps = np.zeros((b, k, d))
    if state is not None:
        taps[:, 1:] = state
    y = np.zeros((b, l, d))
    for t, live, new in _steps(b, l, mask, segment_ids, reverse):
        known = np.where(new[:, None, None], 0, taps[:, 1:])
        step = np.concatenate([known, x[:, t : t + 1]], axis=1)
        taps = np.where(live[:, None, None], step, taps)
        out = (taps * weight).sum(1)
        out = out if bias is None else out + bias
        out = silu(out) if activation == "silu" else out
        y[:, t] = np.where(live[:, None], out, 0)
    return y, taps[:, 1:]


def linear_scan(
    a,
    x,
    *,
    initial_state=None,
    mask=None,
    segment_ids=None,
    reverse=False,
):
    """The linear scan; see `keras_ssm.ops.linear_scan`."""
    pairs = isinstance(x, tuple)
    a, x, h = (_number(v) for v in (a, x, initial_state))
    b, l, d = x.shape
    a = np.broadcast_to(a, x.shape)
    h = np.zeros((b, d), x.dtype) if h is None else h
    y = np.zeros_like(x)
    for t, live, new in _steps(b, l, mask, segment_ids, reverse):
        step = a[:, t] * np.where(new[:, None], 0, h) + x[:, t]
        h = np.where(live[:, None], step, h)
        y[:, t] = np.where(live[:, None], h, 0)
    return ((y.real, y.imag), (h.real, h.imag)) if pairs else (y, h)


def fft_conv(
    x, kernel, D=None, *, backward_kernel=None, mask=None, reverse=False
):
    """The long convolution; see `keras_ssm.ops.fft_conv`."""
    x, kernel, D, backward = _float64(x, kernel, D, backward_kernel)
    b, l, d = x.shape
    mask = np.ones((b, l), bool) if mask is None else np.asarray(mask)
    x = np.where(mask[..., None], x, 0)
    y = np.zeros((b, l, d)) if D is None else D * x
    # An input reaches the output so many steps after its own.
    taps = dict(enumerate(kernel))
    for j, tap in enumerate(() if backward is None else backward):
        taps[-1 - j] = tap
    for distance, tap in taps.items():
        distance = -distance if reverse else distance
        for t in range(max(0, distance), min(l, l + distance)):
            y[:, t] += tap * x[:, t - distance]
    return np.where(mask[..., None], y, 0)


def discretize(dt, A, B, *, discretization="zoh", rate=1.0):
    """Diagonal steps as complex arrays; see `keras_ssm.ops.discretize`."""
    dt, A, B = (_number(v) for v in (dt, A, B))
    dt = dt[:, None] * rate
    if discretization == "bilinear":
        below = 1 - dt * A / 2
        return (1 + dt * A / 2) / below, dt * B / below
    # At A = 0, the limit.
    still = A == 0
    safe = np.where(still, 1, A)
    gain = np.where(still, dt, np.expm1(dt * safe) / safe)
    return np.exp(dt * A), gain * B


def s4d_conv_kernel(dt, A, B, C, length, *, discretization="zoh", rate=1.0):
    """S4D's kernel; see `keras_ssm.ops.s4d_conv_kernel`."""
    options = {"discretization": discretization, "rate": rate}
    A_bar, h = discretize(dt, A, B, **options)
    C, kernel = _number(C), np.zeros((length, len(h)))
    for t in range(length):
        kernel[t] = 2 * (C * h).sum(-1).real
        h = A_bar * h
    return kernel


def s4_conv_kernel(dt, A, P, B, C, length, *, rate=1.0):
    """S4's kernel by dense matrices; see `keras_ssm.ops.s4_conv_kernel`."""
    dt, A, P, B, C = (_number(v) for v in (dt, A, P, B, C))
    # The numbers and their conjugates.
    A, P, B, C = (np.concatenate([v, v.conj()], -1) for v in (A, P, B, C))
    eye = np.eye(A.shape[1])
    dense = eye * A[:, None] - P[:, :, None] * P[:, None].conj()
    half = dense * (rate * dt / 2)[:, None, None]
    A_bar = np.linalg.solve(eye - half, eye + half)
    h = (rate * dt)[:, None, None] * np.linalg.solve(eye - half, B[..., None])
    kernel = np.zeros((length, len(A)))
    for t in range(length):
        kernel[t] = (C[:, None] @ h)[:, 0, 0].real
        h = A_bar @ h
    return kernel


def ssm_scan(
    x, A, B, C, D=None, *, initial_state=None, mask=None, reverse=False
):
    """The time-invariant scan; see `keras_ssm.ops.ssm_scan`."""
    (real, imag), C = _float64(*B), _number(C)
    B = np.concatenate([real, imag], axis=-1)
    x, D, h = _float64(x, D, initial_state)
    b, l, d = x.shape
    h = np.zeros((b, *B.shape)) if h is None else h
    D = np.zeros(d) if D is None else D
    A = as_matrices(_number(A)) if isinstance(A, tuple) else _float64(A)[0]
    y = np.zeros((b, l, d))
    for t, live, _ in _steps(b, l, mask, None, reverse):
        step = (A @ h[..., None])[..., 0] + B * x[:, t, :, None]
        h = np.where(live[:, None, None], step, h)
        real, imag = np.split(h, 2, axis=-1)
        out = 2 * (C * (real + 1j * imag)).sum(-1).real + D * x[:, t]
        y[:, t] = np.where(live[:, None], out, 0)
    return y, h


def mamba3_scan(
    x,
    dt,
    A,
    B,
    C,
    D=None,
    *,
    lam,
    theta,
    initial_state=None,
    mask=None,
    segment_ids=None,
    reverse=False,
):
    """The recurrence of Mamba-3; see `keras_ssm.ops.mamba3_scan`.

    Lahoti et al., 2026 (https://arxiv.org/abs/2603.15569), section 3: the
    exponential-trapezoidal rule for a complex state with several inputs.
    """
    x, dt, A, B, C, D = _float64(x, dt, A, B, C, D)
    lam, theta, *state = _float64(lam, theta, *(initial_state or (None,) * 3))
    b, l, r, h, p = x.shape
    n, a = B.shape[-1], theta.shape[-1]
    shapes = (b, h, p, n), (b, r, h, p), (b, r, h, n)
    g, u, K = (
        np.zeros(shape) if v is None else v
        for v, shape in zip(state, shapes, strict=True)
    )
    g = _complex_numbers(g, a)
    theta = np.concatenate([theta, np.zeros((b, l, n - 2 * a))], axis=-1)
    y = np.zeros(x.shape)
    for t, live, new in _steps(b, l, mask, segment_ids, reverse):
        size = dt[:, t, :, None, None]
        rate = A[:, t, :, None] - 1j * theta[:, t, None]
        present = lam[:, t, :, None, None] * size
        step = g + (size - present) * _complex_numbers(_outer(u, K), a)
        step = np.exp(size * rate[:, :, None]) * _where(~new, step, 0)
        step += present * _complex_numbers(_outer(x[:, t], B[:, t]), a)
        g, u, K = (
            _where(live, now, before)
            for now, before in ((step, g), (x[:, t], u), (B[:, t], K))
        )
        c = _complex_numbers(C[:, t], a)[:, :, :, None]
        out = (g[:, None] * c.conj()).sum(-1).real
        out = out if D is None else out + D[:, None] * x[:, t]
        y[:, t] = _where(live, out, 0)
    g = np.concatenate([g.real[..., :a], g.imag[..., :a], g.real[..., a:]], -1)
    return y, (g, u, K)


def silu(x):
    """x * sigmoid(x)."""
    return x * np.exp(-np.logaddexp(0, -x))


def per_channel(v, d):
    """Spreads groups over their channels: (b, l, [g,] n) -> (b, l, d, n)."""
    v = v[:, :, None] if v.ndim == 3 else v
    return np.repeat(v, d // v.shape[2], axis=2)


def as_matrices(diagonal):
    """What multiplies `[real; imag]` by complex numbers `(d, n)`."""
    real, imag = (
        v[..., None] * np.eye(v.shape[-1])
        for v in (diagonal.real, diagonal.imag)
    )
    return np.block([[real, -imag], [imag, real]])


def _complex_numbers(v, a):
    """The first `a` numbers with the next `a` as their imaginary parts."""
    return np.concatenate(
        [v[..., :a] + 1j * v[..., a : 2 * a], v[..., 2 * a :]], -1
    )


def _outer(x, B):
    """The sum over ranks of outer products: (b, r, h, p), (b, r, h, n)."""
    return np.einsum("brhp,brhn->bhpn", x, B)


def _where(rows, v, other):
    """Selects rows."""
    return np.where(rows.reshape(-1, *(1,) * (v.ndim - 1)), v, other)


def _steps(b, l, mask, segment_ids, reverse):
    """Yields each time step with its live rows and its rows that start anew.

    A row starts anew where its segment id differs from that of its previous
    live step; its first live step continues the initial state.
    """
    mask = np.ones((b, l), bool) if mask is None else np.asarray(mask)
    ids = np.zeros((b, l), int) if segment_ids is None else segment_ids
    seen, last = np.zeros(b, bool), np.zeros(b, int)
    for t in reversed(range(l)) if reverse else range(l):
        live = mask[:, t]
        yield t, live, live & seen & (ids[:, t] != last)
        seen, last = seen | live, np.where(live, ids[:, t], last)


def _number(v):
    """A pair of real arrays as a complex one."""
    if isinstance(v, tuple):
        real, imag = _float64(*v)
        return real + 1j * imag
    return _float64(v)[0]


def _float64(*arrays):
    return tuple(
        None if array is None else np.asarray(array, np.float64)
        for array in arrays
    )
