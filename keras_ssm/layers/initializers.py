"""How the parameters of state space layers start."""

import math

import keras
from keras import ops


@keras.saving.register_keras_serializable(package="keras_ssm")
class S4DReal(keras.initializers.Initializer):
    """The logarithm of the decay rates 1, 2, ..., n in each channel.

    `A = -exp(A_log)` then is the real part of S4D-Lin, as in
    [Gu et al., 2022](https://arxiv.org/abs/2206.11893), section 4, and the
    start of Mamba.

    Example:

    ```python
    A_log = S4DReal()((channels, 16))
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
class LogUniformDt(keras.initializers.Initializer):
    """Biases whose softplus is log-uniform between two step sizes.

        dt = max(exp(u), floor),  u ~ U(log minimum, log maximum)
        bias = dt + log(1 - exp(-dt))

    Args:
        minimum: Smallest step size.
        maximum: Largest step size.
        floor: Step sizes below it are raised to it.
        seed: Integer, for the same values every time.

    Raises:
        ValueError: Unless `0 < minimum <= maximum`.

    Example:

    ```python
    Mamba(dt_bias_initializer=LogUniformDt(0.001, 0.1))
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
    ):
        if not 0 < minimum <= maximum:
            raise ValueError(
                "`LogUniformDt` needs 0 < minimum <= maximum. "
                f"Received: minimum={minimum}, maximum={maximum}."
            )
        self.minimum = minimum
        self.maximum = maximum
        self.floor = floor
        self.seed = seed

    def __call__(self, shape, dtype=None):
        low, high = math.log(self.minimum), math.log(self.maximum)
        # The same everywhere: not every backend draws float64.
        u = keras.random.uniform(
            shape, low, high, dtype="float32", seed=self.seed
        )
        dt = ops.maximum(ops.exp(u), self.floor)
        # The inverse of softplus.
        return ops.cast(dt + ops.log(-ops.expm1(-dt)), dtype)

    def get_config(self):
        return {
            "minimum": self.minimum,
            "maximum": self.maximum,
            "floor": self.floor,
            "seed": self.seed,
        }
