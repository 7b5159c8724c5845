"""A layer of an S5 network: norm, mixer, residual."""

import keras

from keras_ssm.layers.residual_block import ResidualBlock
from keras_ssm.layers.s5 import S5


@keras.saving.register_keras_serializable(package="keras_ssm")
class S5Block(ResidualBlock):
    """One layer of an S5 network, to be stacked.

        outputs = inputs + dropout(s5(norm(inputs)))

    The residual stream stays float32 under every dtype policy. The norm is a
    layer norm, which is the same for a step as for a sequence; the paper takes
    a batch norm for most of its tasks.

    Args:
        state_dim: Size of the state in real numbers, even.
        blocks: How many equal systems the state starts as.
        rate: Sampling steps to one of the sequences that the layer was trained
            on: 2 for every other sample, 0.5 for two where there was one.
        activation: What follows the recurrence: `"half_glu"`, `"glu"` or
            `None`, see `S5`.
        dt_initializer: For `log_dt`, see `S5`.
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
        initial_state: The states before the first step, see `S5`.
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
        keras_ssm.layers.S5Block(state_dim=128),
        keras_ssm.layers.S5Block(state_dim=128),
        keras.layers.GlobalAveragePooling1D(),
        keras.layers.Dense(10, activation="softmax"),
    ])
    ```

    Reference:
        [Smith et al., 2022](https://arxiv.org/abs/2208.04933), appendix G.
    """

    def __init__(
        self,
        *,
        state_dim: int = 256,
        blocks: int = 8,
        rate: float = 1.0,
        activation: str | None = "half_glu",
        dt_initializer=None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.compose(
            keras.layers.LayerNormalization,
            S5,
            state_dim=state_dim,
            blocks=blocks,
            rate=rate,
            activation=activation,
            dt_initializer=dt_initializer,
        )
