"""Learning rates by parameter: those of a recurrence need smaller steps.

S4's authors train the parameters of the state space model with a learning rate
of 0.001 or less and without weight decay, whatever the others get: a step too
large makes a memory forget, or grow, all at once. What is left out of weight
decay, Keras' own optimizers are told by name; the learning rate, here.
"""

import re

import keras

__all__ = ["DYNAMICS", "LearningRateFactors"]

# The names of the parameters that make up the dynamics of a layer's recurrence.
DYNAMICS = (
    *("A_log", "A_imag", "log_dt", "dt_bias"),  # S4, S4D, S5, Mamba
    *("P_real", "P_imag", "B_real", "B_imag"),  # S4, S5
    *("nu_log", "theta_log", "gamma_log"),  # LRU
)


@keras.saving.register_keras_serializable(package="keras_ssm")
class LearningRateFactors(keras.optimizers.Optimizer):
    """An optimizer that gives some variables another learning rate.

        v <- v + factor * (update of the inner optimizer)

    which for every optimizer whose updates are proportional to its learning
    rate, weight decay included, is that learning rate times the factor. It
    works with any optimizer of Keras on every backend. Schedules and callbacks
    set the inner optimizer's learning rate.

    Args:
        inner_optimizer: The optimizer, not built yet.
        factors: Factors by regular expression: the first that is found in a
            variable's path counts; other variables have the factor 1.
        name: Name of the optimizer.

    Raises:
        TypeError: If `inner_optimizer` is not an optimizer.
        ValueError: If a factor is negative, there are none, or the inner
            optimizer averages the weights (`use_ema`), which would average
            them without the factors.

    Example:

    ```python
    optimizer = keras.optimizers.AdamW(1e-2, weight_decay=0.05)
    optimizer.exclude_from_weight_decay(var_names=keras_ssm.optimizers.DYNAMICS)
    factors = dict.fromkeys(keras_ssm.optimizers.DYNAMICS, 0.1)
    optimizer = keras_ssm.optimizers.LearningRateFactors(optimizer, factors)
    layer = keras_ssm.layers.S4D()
    model = keras.Sequential([keras.Input((None, 16)), layer])
    model.compile(optimizer, "mse")
    ```

    Reference:
        [Gu et al., 2021](https://arxiv.org/abs/2111.00396), appendix D.2.
    """

    def __init__(
        self,
        inner_optimizer: keras.optimizers.Optimizer,
        factors: dict[str, float],
        name: str | None = None,
    ):
        _check(inner_optimizer, factors)
        super().__init__(learning_rate=0.0, name=name)
        self.inner_optimizer = inner_optimizer
        self.factors = dict(factors)

    def build(self, variables):
        self.inner_optimizer.build(variables)
        super().build(variables)

    def apply(self, grads, trainable_variables=None):
        if trainable_variables is not None:
            trainable_variables = list(trainable_variables)
            if not self.built:
                self.build(trainable_variables)
        variables = trainable_variables or self._trainable_variables
        scaled = [(v, self.factor(v)) for v in variables]
        scaled = [(v, factor) for v, factor in scaled if factor != 1]
        kept = [keras.ops.multiply(v, 1 - factor) for v, factor in scaled]
        self.inner_optimizer.apply(grads, trainable_variables)
        for (v, factor), rest in zip(scaled, kept, strict=True):
            v.assign(rest + keras.ops.multiply(v, factor))

    def factor(self, variable) -> float:
        """The factor of a variable's learning rate."""
        for pattern, factor in self.factors.items():
            if re.search(pattern, variable.path):
                return factor
        return 1

    @property
    def variables(self):
        return self._variables + self.inner_optimizer.variables

    @property
    def learning_rate(self):
        return self.inner_optimizer.learning_rate

    @learning_rate.setter
    def learning_rate(self, learning_rate):
        self.inner_optimizer.learning_rate = learning_rate

    @property
    def iterations(self):
        return self.inner_optimizer.iterations

    def scale_loss(self, loss):
        return self.inner_optimizer.scale_loss(loss)

    def finalize_variable_values(self, var_list):
        self.inner_optimizer.finalize_variable_values(var_list)

    def get_config(self):
        inner = keras.saving.serialize_keras_object(self.inner_optimizer)
        return {
            "name": self.name,
            "inner_optimizer": inner,
            "factors": self.factors,
        }

    @classmethod
    def from_config(cls, config, custom_objects=None):
        inner = keras.saving.deserialize_keras_object(
            config["inner_optimizer"], custom_objects=custom_objects
        )
        return cls(**{**config, "inner_optimizer": inner})


def _check(optimizer, factors):
    if not isinstance(optimizer, keras.optimizers.Optimizer):
        raise TypeError(
            "`LearningRateFactors` needs an optimizer of Keras. "
            f"Received: inner_optimizer={optimizer!r}."
        )
    if not factors or any(factor < 0 for factor in factors.values()):
        raise ValueError(
            "`LearningRateFactors` needs factors, none of them negative. "
            f"Received: factors={factors}."
        )
    if optimizer.use_ema:
        raise ValueError(
            "`LearningRateFactors` cannot average weights: the average would "
            "not know of the factors. Received: an optimizer with "
            "use_ema=True."
        )
