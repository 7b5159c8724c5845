"""How the parameters of state space layers start.

A complex parameter is two variables, and has an initializer for each `part`.
Decay rates are positive and trained as their logarithm, so that the diagonal
is `A = -exp(log_decay) + i imag`.
"""

import math

import keras
import numpy as np
from keras import ops

from keras_ssm.layers.arguments import check_choice

PARTS = ("real", "imag", "log_decay")


@keras.saving.register_keras_serializable(package="keras_ssm")
class S4DReal(keras.initializers.Initializer):
    """The logarithm of the decay rates 1, 2, ..., n in each channel.

    `A = -exp(A_log)` then is the real part of S4D-Lin, as in
    [Gu et al., 2022](https://arxiv.org/abs/2206.11893), section 4, and the
    start of Mamba.

    Example:

    ```python
    A_log = S4DReal()((8, 16))
    ```
    """

    def __call__(self, shape, dtype=None):
        rates = ops.arange(1, shape[-1] + 1, dtype="float32")
        # Not `broadcast_to`: on PyTorch rows that share memory cannot be
        # assigned to, and so neither trained nor loaded.
        return ops.cast(ops.log(rates) + ops.zeros(shape), dtype)

    def get_config(self):
        return {}


@keras.saving.register_keras_serializable(package="keras_ssm")
class UniformDecay(keras.initializers.Initializer):
    """The logarithm of decay rates that are uniform between two of them.

        A_log = log(a),  a ~ U(minimum, maximum)

    Args:
        minimum: Smallest decay rate.
        maximum: Largest decay rate.
        seed: Integer, for the same values every time.

    Raises:
        ValueError: Unless `0 < minimum <= maximum`.

    Example:

    ```python
    keras_ssm.layers.Mamba2(A_log_initializer=UniformDecay(0.1, 1.0))
    ```

    Reference:
        [Dao & Gu, 2024](https://arxiv.org/abs/2405.21060), its released code.
    """

    def __init__(
        self,
        minimum: float = 1.0,
        maximum: float = 16.0,
        seed: int | None = None,
    ):
        _check_bounds("UniformDecay", minimum, maximum)
        self.minimum = minimum
        self.maximum = maximum
        self.seed = seed

    def __call__(self, shape, dtype=None):
        # The same everywhere: not every backend draws float64.
        rates = keras.random.uniform(
            shape, self.minimum, self.maximum, dtype="float32", seed=self.seed
        )
        return ops.cast(ops.log(rates), dtype)

    def get_config(self):
        return {
            "minimum": self.minimum,
            "maximum": self.maximum,
            "seed": self.seed,
        }


@keras.saving.register_keras_serializable(package="keras_ssm")
class LogUniformDt(keras.initializers.Initializer):
    """Parameters of step sizes that are log-uniform between two of them.

        dt = max(exp(u), floor),  u ~ U(log minimum, log maximum)
        softplus:  parameter = dt + log(1 - exp(-dt))
        exp:       parameter = log(dt)

    Args:
        minimum: Smallest step size.
        maximum: Largest step size.
        floor: Step sizes below it are raised to it.
        seed: Integer, for the same values every time.
        activation: What the layer makes step sizes with: `"softplus"`, as in
            Mamba, or `"exp"`, as in S4.

    Raises:
        ValueError: Unless `0 < minimum <= maximum`, or if the activation is
            unknown.

    Example:

    ```python
    keras_ssm.layers.Mamba(dt_bias_initializer=LogUniformDt(0.001, 0.1))
    ```

    Reference:
        [Gu & Dao, 2023](https://arxiv.org/abs/2312.00752), section 3.6.
    """

    def __init__(
        self,
        minimum: float = 1e-3,
        maximum: float = 0.1,
        floor: float = 1e-4,
        seed: int | None = None,
        activation: str = "softplus",
    ):
        check_choice(
            "LogUniformDt", "activation", activation, ("softplus", "exp")
        )
        _check_bounds("LogUniformDt", minimum, maximum)
        self.minimum = minimum
        self.maximum = maximum
        self.floor = floor
        self.seed = seed
        self.activation = activation

    def __call__(self, shape, dtype=None):
        low, high = math.log(self.minimum), math.log(self.maximum)
        # The same everywhere: not every backend draws float64.
        u = keras.random.uniform(
            shape, low, high, dtype="float32", seed=self.seed
        )
        dt = ops.maximum(ops.exp(u), self.floor)
        if self.activation == "exp":
            return ops.cast(ops.log(dt), dtype)
        # The inverse of softplus.
        return ops.cast(dt + ops.log(-ops.expm1(-dt)), dtype)

    def get_config(self):
        return {
            "minimum": self.minimum,
            "maximum": self.maximum,
            "floor": self.floor,
            "seed": self.seed,
            "activation": self.activation,
        }


class Diagonal(keras.initializers.Initializer):
    """Base of those that start each channel with the same complex numbers.

    A subclass computes the `n` numbers of a channel, one of each conjugate
    pair, in float64: `numbers(n)`.

    Args:
        part: `"real"`, `"imag"`, or `"log_decay"` for `log(-real)`.

    Raises:
        ValueError: If the part is unknown.
    """

    def __init__(self, part: str = "real"):
        check_choice(type(self).__name__, "part", part, PARTS)
        self.part = part

    def numbers(self, n):
        raise NotImplementedError

    def __call__(self, shape, dtype=None):
        return constant(self.numbers(shape[-1]), self.part, shape, dtype)

    def get_config(self):
        return {"part": self.part}


@keras.saving.register_keras_serializable(package="keras_ssm")
class S4DLin(Diagonal):
    """The diagonal of S4D-Lin: frequencies of a Fourier series.

        A_n = -1/2 + i pi n,  n = 0, 1, ...

    Args:
        part: `"real"`, `"imag"`, or `"log_decay"` for `log(-real)`.

    Raises:
        ValueError: If the part is unknown.

    Example:

    ```python
    A_log = S4DLin("log_decay")((8, 32))
    A_imag = S4DLin("imag")((8, 32))
    ```

    Reference:
        [Gu et al., 2022](https://arxiv.org/abs/2206.11893), equation 9.
    """

    def numbers(self, n):
        return -0.5 + 1j * np.pi * np.arange(n)


@keras.saving.register_keras_serializable(package="keras_ssm")
class S4DInv(Diagonal):
    """The diagonal of S4D-Inv: frequencies that fall like those of HiPPO-LegS.

        A_j = -1/2 + i (N / pi) (N / (2j + 1) - 1),  j = 0 .. n-1,  N = 2n

    Args:
        part: `"real"`, `"imag"`, or `"log_decay"` for `log(-real)`.

    Raises:
        ValueError: If the part is unknown.

    Example:

    ```python
    A_imag = S4DInv("imag")((8, 32))
    ```

    Reference:
        [Gu et al., 2022](https://arxiv.org/abs/2206.11893), equation 8.
    """

    def numbers(self, n):
        size = 2 * n
        odd = 2 * np.arange(n) + 1
        return -0.5 + 1j * size / np.pi * (size / odd - 1)


@keras.saving.register_keras_serializable(package="keras_ssm")
class LRURing(keras.initializers.Initializer):
    """Eigenvalues of a linear recurrence, uniform on a ring of the unit disk.

        lambda = exp(-exp(log_decay) + i exp(log_phase))
        |lambda|^2 ~ U(r_min^2, r_max^2),  phase ~ U(0, max_phase)
        log_gain = log sqrt(1 - |lambda|^2)

    With the same seed, all parts are those of the same eigenvalues.

    Args:
        r_min: Smallest modulus.
        r_max: Largest modulus.
        max_phase: Largest phase.
        part: `"log_decay"`, `"log_phase"` or `"log_gain"`.
        seed: Integer, for the same values every time.

    Raises:
        ValueError: Unless `0 <= r_min < r_max <= 1` and `max_phase > 0`, or
            if the part is unknown.

    Example:

    ```python
    ring = [
        LRURing(0.9, 0.999, part=part, seed=1)((64,))
        for part in ("log_decay", "log_phase", "log_gain")
    ]
    ```

    Reference:
        [Orvieto et al., 2023](https://arxiv.org/abs/2303.06349), Lemma 3.2
        and equation 7.
    """

    def __init__(
        self,
        r_min: float = 0.0,
        r_max: float = 1.0,
        max_phase: float = 2 * math.pi,
        part: str = "log_decay",
        seed: int | None = None,
    ):
        parts = ("log_decay", "log_phase", "log_gain")
        check_choice("LRURing", "part", part, parts)
        _check_ring("LRURing", r_min, r_max)
        if not max_phase > 0:
            raise ValueError(
                "`LRURing` needs max_phase > 0. "
                f"Received: max_phase={max_phase}."
            )
        self.r_min = r_min
        self.r_max = r_max
        self.max_phase = max_phase
        self.part = part
        self.seed = seed

    def __call__(self, shape, dtype=None):
        u = _uniform((2, *shape), self.seed)
        if self.part == "log_phase":
            return ops.cast(ops.log(self.max_phase * u[1]), dtype)
        # log |lambda|^2, and -expm1 of it, are exact near |lambda| = 1.
        size = _log_square(u[0], self.r_min, self.r_max)
        if self.part == "log_gain":
            return ops.cast(ops.log(-ops.expm1(size)) / 2, dtype)
        return ops.cast(ops.log(-size / 2), dtype)

    def get_config(self):
        return {
            "r_min": self.r_min,
            "r_max": self.r_max,
            "max_phase": self.max_phase,
            "part": self.part,
            "seed": self.seed,
        }


@keras.saving.register_keras_serializable(package="keras_ssm")
class RGLRURing(keras.initializers.Initializer):
    """Parameters of the decay of an RG-LRU, uniform on a ring.

        a = exp(-c softplus(parameter)),  a^2 ~ U(r_min^2, r_max^2)

    is what remains of the state where the recurrence gate is open. Griffin's
    paper has it in the ring with its `c = 8`; its released code leaves `c` out
    here, with `c=1`, and so forgets faster.

    Args:
        r_min: Smallest decay.
        r_max: Largest decay.
        c: The constant of the layer.
        seed: Integer, for the same values every time.

    Raises:
        ValueError: Unless `0 <= r_min < r_max <= 1` and `c > 0`.

    Example:

    ```python
    parameter = RGLRURing()((8,))
    ```

    Reference:
        [De et al., 2024](https://arxiv.org/abs/2402.19427), section 2.4.
    """

    def __init__(
        self,
        r_min: float = 0.9,
        r_max: float = 0.999,
        c: float = 8.0,
        seed: int | None = None,
    ):
        _check_ring("RGLRURing", r_min, r_max)
        if not c > 0:
            raise ValueError(f"`RGLRURing` needs c > 0. Received: c={c}.")
        self.r_min = r_min
        self.r_max = r_max
        self.c = c
        self.seed = seed

    def __call__(self, shape, dtype=None):
        u = _uniform(shape, self.seed)
        decay = -_log_square(u, self.r_min, self.r_max) / (2 * self.c)
        # The inverse of softplus.
        return ops.cast(ops.log(ops.expm1(decay)), dtype)

    def get_config(self):
        return {
            "r_min": self.r_min,
            "r_max": self.r_max,
            "c": self.c,
            "seed": self.seed,
        }


def constant(numbers, part, shape, dtype=None):
    """A part of complex numbers, the same for all leading axes of `shape`."""
    values = {
        "real": numbers.real,
        "imag": numbers.imag,
        "log_decay": np.log(np.maximum(-numbers.real, 1e-300)),
    }[part]
    # A copy: rows that share memory cannot be assigned to on PyTorch.
    values = np.array(np.broadcast_to(values, shape))
    return ops.convert_to_tensor(values, dtype or keras.config.floatx())


def _check_ring(name, r_min, r_max):
    if not 0 <= r_min < r_max <= 1:
        raise ValueError(
            f"`{name}` needs 0 <= r_min < r_max <= 1. "
            f"Received: r_min={r_min}, r_max={r_max}."
        )


def _uniform(shape, seed):
    """U(0, 1) without its ends, of which logarithms are infinite."""
    # The same everywhere: not every backend draws float64.
    u = keras.random.uniform(shape, dtype="float32", seed=seed)
    return ops.clip(u, 2**-24, 1 - 2**-24)


def _log_square(u, r_min, r_max):
    """`log r^2` of radii uniform over the area of a ring."""
    # Counted from the outer edge: near r = 1 only the difference is exact.
    outer = 1 - r_max**2
    return ops.log1p(-(outer + (1 - u) * (r_max**2 - r_min**2)))


def _check_bounds(name, minimum, maximum):
    if not 0 < minimum <= maximum:
        raise ValueError(
            f"`{name}` needs 0 < minimum <= maximum. "
            f"Received: minimum={minimum}, maximum={maximum}."
        )
