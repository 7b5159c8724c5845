"""A layer of an LRU network: norm, mixer, residual."""

import math

import keras

from keras_ssm.layers.lru import LRU
from keras_ssm.layers.residual_block import ResidualBlock


@keras.saving.register_keras_serializable(package="keras_ssm")
class LRUBlock(ResidualBlock):
    """One layer of an LRU network, to be stacked.

        outputs = inputs + dropout(lru(norm(inputs)))

    The recurrence is linear, and a gated linear unit follows it.
    The residual stream stays float32 under every dtype policy. The norm is a
    layer norm, which is the same for a step as for a sequence; the paper takes
    a batch norm.

    Args:
        state_dim: Size of the state in complex numbers.
        r_min: Smallest modulus of the eigenvalues at the start.
        r_max: Largest one. For long dependencies, both are close to 1.
        max_phase: Largest phase of them; small for long dependencies.
        activation: What follows the recurrence: `"half_glu"`, `"glu"` or
            `None`, see `LRU`.
        dropout: Rate of dropout before the residual is added.
        epsilon: Of the layer norm.
        seed: Integer, for the dropout.
        return_sequences: Whether to return the output of every step, or only
            that of the last unmasked one.
        return_state: Whether to return `(outputs, real, imag)`.
        go_backwards: Whether to process the sequence from its end and return
            the output, residual included, in that order.
        stateful: Whether the states after a batch are the initial states of
            the next one. Needs a fixed batch size.
        **kwargs: Arguments of `keras.layers.Layer`: `name`, `dtype`,
            `trainable`.

    Call arguments:
        sequences: `(batch, length, width)`.
        initial_state: The states before the first step, see `LRU`.
        mask: Boolean, `(batch, length)`. Masked steps are skipped, whatever
            they hold, and give 0.
        training: Whether dropout is on.

    Raises:
        ValueError: If an argument is out of its range, or a shape does not
            fit.

    Example:

    ```python
    model = keras.Sequential([
        keras.Input((784, 1)),
        keras.layers.Dense(96),
        keras_ssm.layers.LRUBlock(r_min=0.9),
        keras_ssm.layers.LRUBlock(r_min=0.9),
        keras.layers.GlobalAveragePooling1D(),
        keras.layers.Dense(10, activation="softmax"),
    ])
    ```

    Reference:
        [Orvieto et al., 2023](https://arxiv.org/abs/2303.06349), figure 1.
    """

    def __init__(
        self,
        *,
        state_dim: int = 256,
        r_min: float = 0.0,
        r_max: float = 1.0,
        max_phase: float = 2 * math.pi,
        activation: str | None = "glu",
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.compose(
            keras.layers.LayerNormalization,
            LRU,
            state_dim=state_dim,
            r_min=r_min,
            r_max=r_max,
            max_phase=max_phase,
            activation=activation,
        )
