"""What a linear system is asked to compute, and its float64 reference."""

import numpy as np
from oracle import Result
from problem import Problem


class System(Problem):
    """S4D's recurrence with the parameters that its layer starts from.

        y[t] = 2 Re(C h[t]),    h[t] = Ā h[t-1] + B̄ x[t]

    for `n` complex numbers in each channel, Ā and B̄ those of a zero-order hold
    with B = 1. Its states forget little: the reference runs over all steps.

    Args:
        case: The case: `b`, `l`, `d` and `n`.
        dtype: Dtype of the input; the parameters are float32.
        checked: Whether `error` compares anything.
    """

    forgets = False

    def __init__(self, case, dtype="float32", checked=True):
        super().__init__("system", case, dtype, checked=checked)

    def draw(self, case):
        self.options, self._pairs = {}, ()
        random = np.random.default_rng(0)
        shape, (low, high) = (case.d, case.n), np.log([1e-3, 0.1])
        arrays = {
            "x": random.normal(size=(case.b, case.l, case.d)),
            "log_dt": random.uniform(low, high, case.d),
            "A_log": np.full(shape, np.log(0.5)),
            "A_imag": np.broadcast_to(np.pi * np.arange(case.n), shape),
            "C_real": random.normal(size=shape) * np.sqrt(0.5),
            "C_imag": random.normal(size=shape) * np.sqrt(0.5),
        }
        return arrays, random.normal(size=(case.b, case.l, case.d))

    def solve(self, case, arrays, dy, dtype):
        """The recurrence and its adjoint, step by step."""
        _, _, *steps = _system(arrays, dtype)
        x, dy = arrays["x"].astype(dtype), dy.astype(dtype)
        y, of_x, of_a, of_gain, of_C = _loop(x, dy, *steps)
        # Exact in any case: nobody has to difference what is nearly equal.
        dt, A, a, gain, _ = _system(arrays, "float64")
        of_dt = (A * a).conj() * of_a + a.conj() * of_gain
        of_A = (dt * a).conj() * of_a
        of_A = of_A + ((dt * a - gain) / A).conj() * of_gain
        gradients = {
            "x": of_x,
            "log_dt": (dt * of_dt.real).sum(-1),
            "A_log": A.real * of_A.real,
            "A_imag": of_A.imag,
            "C_real": of_C.real,
            "C_imag": of_C.imag,
        }
        return Result(y, None, gradients)


def _system(arrays, dtype):
    """dt, A, Ā, B̄ and C."""
    v = {name: array.astype(dtype) for name, array in arrays.items()}
    dt = np.exp(v["log_dt"])[:, None]
    A = -np.exp(v["A_log"]) + 1j * v["A_imag"]
    C = v["C_real"] + 1j * v["C_imag"]
    return dt, A, np.exp(dt * A), np.expm1(dt * A) / A, C


def _loop(x, dy, a, gain, C):
    """y, and the gradients of x, Ā, B̄ and C."""
    (b, l, d), n = x.shape, a.shape[1]
    h = np.zeros((l + 1, b, d, n), a.dtype)  # before each step
    y, of_x = np.empty_like(x), np.empty_like(x)
    for t in range(l):
        h[t + 1] = a * h[t] + gain * x[:, t, :, None]
        y[:, t] = 2 * (C * h[t + 1]).sum(-1).real
    g, of_a, of_gain, of_C = (np.zeros((b, d, n), a.dtype) for _ in range(4))
    for t in reversed(range(l)):
        of_y = 2 * dy[:, t, :, None]
        of_C += of_y * h[t + 1].conj()
        g = g * a.conj() + of_y * C.conj()
        of_a += g * h[t].conj()
        of_gain += g * x[:, t, :, None]
        of_x[:, t] = (g * gain.conj()).sum(-1).real
    return y, of_x, of_a.sum(0), of_gain.sum(0), of_C.sum(0)
