"""Gradients of the ops as NumPy loops, the oracle of every gradient test.

The forward loops repeat `keras_ssm.ops.reference` and remember each step; the
backward loops walk the same steps from their end. In float32 they are also
the plain float32 loop that implementations have to match in accuracy.
"""

import dataclasses

import numpy as np

from keras_ssm.ops import reference


@dataclasses.dataclass
class Result:
    """What an op returns, and its gradients by the names of the arguments."""

    y: np.ndarray
    state: np.ndarray
    gradients: dict[str, np.ndarray]


def solve(
    op: str, arrays, options, cotangents, dtype="float64", exp=np.exp
) -> Result:
    """Runs an op and its adjoint.

    Args:
        op: "selective_scan", "causal_conv1d", "linear_scan", "ssm_scan" or
            "ssd".
        arrays: The arguments that are arrays, by name.
        options: The plain arguments.
        cotangents: Gradients with respect to y and the state.
        dtype: Dtype of the computation.
        exp: The exponential function, for the decays of a scan.
    """
    arrays = {
        name: v.astype(dtype) if v.dtype.kind == "f" else v
        for name, v in arrays.items()
    }
    dy, dstate = (v.astype(dtype) for v in cotangents)
    if op == "causal_conv1d":
        return _solve_conv(arrays, options, dy, dstate)
    if op == "linear_scan":
        return _solve_linear(arrays, options, dy, dstate)
    if op == "ssm_scan":
        return _solve_ssm(arrays, options, dy, dstate)
    if op == "ssd":
        return _solve_ssd(arrays, options, dy, dstate, exp)
    return _solve_scan(arrays, options, dy, dstate, exp)


def _solve_scan(arrays, options, dy, dh, exp):
    live = _live(arrays)
    v = _without_masked(arrays, live)
    x, A, z, D = v["x"], v["A"], v.get("z"), v.get("D")
    b, l, d = x.shape
    raw = v["dt"] + v.get("dt_bias", x.dtype.type(0))
    dt = np.logaddexp(raw, 0) if options["dt_softplus"] else raw
    dt = np.where(live[..., None], dt, 0)
    B, C = (reference.per_channel(v[name], d) for name in "BC")
    decays = exp(dt[..., None] * A)
    before, after = (np.zeros((l, b, *A.shape), x.dtype) for _ in range(2))
    h = v.get("initial_state", np.zeros((b, *A.shape), x.dtype))
    steps = _steps(arrays, options)
    for t, new in steps:
        before[t] = np.where(new[:, None, None], 0, h)
        update = (dt[:, t] * x[:, t])[..., None] * B[:, t]
        h = decays[:, t] * before[t] + update
        after[t] = h
    inner = (np.moveaxis(after, 0, 1) * C).sum(-1)
    inner = inner if D is None else inner + D * x
    gate = np.ones_like(x) if z is None else reference.silu(z)
    gate = np.where(live[..., None], gate, 0)

    dinner = dy * gate
    ds, dx = np.zeros_like(x), np.zeros_like(x)
    dA, dB, dC = (np.zeros_like(array) for array in (A, B, C))
    g = dh
    for t, new in reversed(steps):
        g = g + dinner[:, t, :, None] * C[:, t]
        through = g * decays[:, t] * before[t]
        along = (g * B[:, t]).sum(-1)
        ds[:, t] = (through * A).sum(-1) + along * x[:, t]
        dx[:, t] = along * dt[:, t]
        dA = dA + (through * dt[:, t, :, None]).sum(0)
        dB[:, t] = g * (dt[:, t] * x[:, t])[..., None]
        dC[:, t] = dinner[:, t, :, None] * after[t]
        g = np.where(new[:, None, None], 0, g * decays[:, t])
    draw = ds * _sigmoid(raw) if options["dt_softplus"] else ds
    draw = np.where(live[..., None], draw, 0)
    gradients = {
        "x": dx if D is None else dx + D * dinner,
        "dt": draw,
        "A": dA,
        "B": _per_group(dB, arrays["B"].shape),
        "C": _per_group(dC, arrays["C"].shape),
        "D": (dinner * x).sum((0, 1)),
        "z": None if z is None else dy * inner * _silu_slope(z),
        "dt_bias": draw.sum((0, 1)),
        "initial_state": g,
    }
    return _result(inner * gate, h, gradients, arrays, live)


def _solve_ssd(arrays, options, dy, dstate, exp):
    """A selective scan whose channels share a decay head by head."""
    b, l, h, p = arrays["x"].shape
    n = arrays["B"].shape[-1]
    flat = dict(arrays)
    flat["x"] = arrays["x"].reshape(b, l, h * p)
    flat["A"] = np.tile(np.repeat(arrays["A"], p)[:, None], n)
    flat["dt"] = np.repeat(arrays["dt"], p, axis=2)
    for name in {"D", "dt_bias"} & set(arrays):
        flat[name] = np.repeat(arrays[name], p)
    if "initial_state" in arrays:
        flat["initial_state"] = arrays["initial_state"].reshape(b, h * p, n)
    cotangents = dy.reshape(b, l, h * p), dstate.reshape(b, h * p, n)
    result = _solve_scan(flat, options, *cotangents, exp)
    spread = {
        "dt": ((b, l, h, p), 3),
        "A": ((h, p, n), (1, 2)),
        "D": ((h, p), 1),
        "dt_bias": ((h, p), 1),
    }
    gradients = {}
    for name, v in result.gradients.items():
        if name in spread:
            shape, axes = spread[name]
            v = v.reshape(shape).sum(axes)
        gradients[name] = v.reshape(arrays[name].shape)
    y, state = result.y.reshape(b, l, h, p), result.state.reshape(b, h, p, n)
    return Result(y, state, gradients)


def _solve_conv(arrays, options, dy, dstate):
    live = _live(arrays)
    v = _without_masked(arrays, live)
    x, weight = v["x"], v["weight"]
    (b, l, d), k = x.shape, len(weight)
    first, taps = np.zeros((b, 1, d), x.dtype), np.zeros((b, k, d), x.dtype)
    if "initial_state" in v:
        taps[:, 1:] = v["initial_state"]
    seen = np.zeros((l, b, k, d), x.dtype)
    steps = _steps(arrays, options)
    for t, new in steps:
        known = np.where(new[:, None, None], 0, taps[:, 1:])
        step = np.concatenate([known, x[:, t : t + 1]], axis=1)
        taps = np.where(live[:, t, None, None], step, taps)
        seen[t] = taps
    p = (np.moveaxis(seen, 0, 1) * weight).sum(2)
    p = p + v.get("bias", x.dtype.type(0))
    silu = options["activation"] == "silu"
    y = np.where(live[..., None], reference.silu(p) if silu else p, 0)

    dp = np.where(live[..., None], dy * _silu_slope(p) if silu else dy, 0)
    dx, dweight = np.zeros_like(x), np.zeros_like(weight)
    g = np.concatenate([first, dstate], axis=1)
    for t, new in reversed(steps):
        of_taps = g + dp[:, t, None] * weight
        dweight = dweight + (dp[:, t, None] * seen[t]).sum(0)
        dx[:, t] = of_taps[:, -1]
        known = np.where(new[:, None, None], 0, of_taps[:, :-1])
        moved = np.concatenate([first, known], axis=1)
        g = np.where(live[:, t, None, None], moved, g)
    gradients = {
        "x": dx,
        "weight": dweight,
        "bias": dp.sum((0, 1)),
        "initial_state": g[:, 1:],
    }
    return _result(y, taps[:, 1:], gradients, arrays, live)


def _solve_linear(arrays, options, dy, dh):
    pairs = options["complex"]
    live = _live(arrays)
    given = {
        name: _number(v, name in pairs) if name in floating(arrays) else v
        for name, v in _without_masked(arrays, live).items()
    }
    x, name = given["x"], "a" if "a" in given else "constant_a"
    a = np.broadcast_to(given[name], x.shape)
    b, l, d = x.shape
    before, y = np.zeros((l, b, d), x.dtype), np.zeros_like(x)
    h = given.get("initial_state", np.zeros((b, d), x.dtype))
    steps = _steps(arrays, options)
    for t, new in steps:
        before[t] = np.where(new[:, None], 0, h)
        step = a[:, t] * before[t] + x[:, t]
        h = np.where(live[:, t, None], step, h)
        y[:, t] = np.where(live[:, t, None], h, 0)

    dx, da = np.zeros_like(x), np.zeros_like(x)
    dy, g = _number(dy, "x" in pairs), _number(dh, "x" in pairs)
    for t, new in reversed(steps):
        of_step = g + dy[:, t]
        dx[:, t] = of_step
        da[:, t] = of_step * before[t].conj()
        passed = np.where(new[:, None], 0, a[:, t].conj() * of_step)
        g = np.where(live[:, t, None], passed, g)
    da[~live] = 0
    gradients = {"x": dx, "a": da, "constant_a": da.sum((0, 1))}
    gradients["initial_state"] = g
    gradients = {
        name: _halves(v, name in pairs)
        for name, v in gradients.items()
        if name in arrays
    }
    y, h = (_halves(v, "x" in pairs) for v in (y, h))
    return _result(y, h, gradients, arrays, live)


def _solve_ssm(arrays, options, dy, g):
    """Of an `A` that is dense, or of `A` and `A_imag`."""
    live = _live(arrays)
    x = np.where(live[..., None], arrays["x"], 0)
    dy = np.where(live[..., None], dy, 0)
    A = arrays["A"]
    if "A_imag" in arrays:
        A = reference.as_matrices(A + 1j * arrays["A_imag"])
    B, C = (
        np.concatenate([arrays[name], sign * arrays[f"{name}_imag"]], axis=-1)
        for name, sign in (("B", 1), ("C", -1))
    )
    D = arrays.get("D", np.zeros(x.shape[2], x.dtype))
    h = arrays.get("initial_state", np.zeros((len(x), *B.shape), x.dtype))
    y, before, after = D * x, {}, {}
    steps = [t for t, _ in _steps(arrays, options)]
    for t in steps:
        before[t] = h
        step = (A @ h[..., None])[..., 0] + B * x[:, t, :, None]
        h = after[t] = np.where(live[:, t, None, None], step, h)
        y[:, t] += 2 * (C * h).sum(-1)
    y[~live] = 0

    dx, (dA, dB, dC) = D * dy, (np.zeros_like(v) for v in (A, B, C))
    end = h
    for t in reversed(steps):
        of_output = 2 * dy[:, t, :, None]
        dC = dC + (of_output * after[t]).sum(0)
        of_step = np.where(live[:, t, None, None], g + of_output * C, 0)
        dA = dA + (of_step[..., None] * before[t][..., None, :]).sum(0)
        dB = dB + (of_step * x[:, t, :, None]).sum(0)
        dx[:, t] += (of_step * B).sum(-1)
        passed = (of_step[..., None, :] @ A)[..., 0, :]
        g = np.where(live[:, t, None, None], passed, g)
    gradients = {"x": dx, "D": (dy * x).sum((0, 1)), "initial_state": g}
    gradients["A"] = dA
    if "A_imag" in arrays:
        gradients["A"], gradients["A_imag"] = _of_numbers(dA)
    gradients["B"], gradients["B_imag"] = np.split(dB, 2, axis=-1)
    gradients["C"], dC_imag = np.split(dC, 2, axis=-1)
    gradients["C_imag"] = -dC_imag
    return Result(y, end, {name: gradients[name] for name in floating(arrays)})


def _of_numbers(gradient):
    """That of complex numbers, from that of `reference.as_matrices` of them."""
    n = gradient.shape[-1] // 2
    blocks = gradient.reshape(-1, 2, n, 2, n)
    (a, b), (c, d) = (
        [blocks[:, i, :, j].diagonal(axis1=1, axis2=2) for j in (0, 1)]
        for i in (0, 1)
    )
    return a + d, c - b


def _number(v, pair):
    """An array of complex numbers from their parts side by side."""
    if not pair:
        return v
    real, imag = np.split(v, 2, axis=-1)
    return real + 1j * imag


def _halves(v, pair):
    """The inverse of `_number`."""
    return np.concatenate([v.real, v.imag], axis=-1) if pair else v.real


def _result(y, state, gradients, arrays, live):
    gradients = {name: gradients[name] for name in floating(arrays)}
    for name in ("x", "dt", "a", "B", "C", "z"):
        if name in gradients:
            gradients[name][~live] = 0
    return Result(y, state, gradients)


def floating(arrays) -> list[str]:
    """The names of the arguments that have a gradient."""
    return [name for name, v in arrays.items() if v.dtype.kind == "f"]


def _live(arrays):
    return arrays.get("mask", np.ones(arrays["x"].shape[:2], bool))


def _without_masked(arrays, live):
    arrays = {name: v.copy() for name, v in arrays.items()}
    for name in ("x", "dt", "a", "B", "C", "z"):
        if name in arrays:
            arrays[name][~live] = 0
    return arrays


def _steps(arrays, options):
    """The steps in their order, each with the rows that start anew."""
    ids, live = arrays.get("segment_ids"), _live(arrays)
    b, l = live.shape
    order = range(l)[::-1] if options["reverse"] else range(l)
    steps, last = [], [None] * b
    for t in order:
        new = np.zeros(b, bool)
        for row in range(b):
            if ids is not None and live[row, t]:
                new[row] = last[row] not in (None, ids[row, t])
                last[row] = ids[row, t]
        steps.append((t, new))
    return steps


def _per_group(gradient, shape):
    """(b, l, d, n) -> (b, l, [g,] n)."""
    b, l, d, n = gradient.shape
    g = shape[2] if len(shape) == 4 else 1
    return gradient.reshape(b, l, g, d // g, n).sum(3).reshape(shape)


def _sigmoid(x):
    return np.exp(-np.logaddexp(0, -x))


def _silu_slope(x):
    return _sigmoid(x) * (1 + x * (1 - _sigmoid(x)))
