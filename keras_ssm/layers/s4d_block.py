"""A layer of an S4D network: norm, mixer, residual."""

import keras

from keras_ssm.layers.residual_block import ResidualBlock
from keras_ssm.layers.s4d import S4D
from keras_ssm.layers.state_space import check_direction


@keras.saving.register_keras_serializable(package="keras_ssm")
class S4DBlock(ResidualBlock):
    """One layer of an S4D network, to be stacked.

        outputs = inputs + dropout(s4d(norm(inputs)))

    with a `keras.layers.LayerNormalization`. The residual stream stays float32
    under every dtype policy. End a stack of blocks with a norm.

    Args:
        state_dim: Size of the state of each channel, in real numbers.
        mode: `"convolution"`, `"recurrence"`, or `None` for the convolution
            where it is possible.
        rate: Factor of all step sizes, to run a model at another sampling
            rate than the one it was trained at.
        bidirectional: Whether a second kernel sees the future.
        discretization: `"zoh"` or `"bilinear"`.
        A_initializer: For `A_log` and `A_imag`, see `S4D`.
        dt_initializer: For `log_dt`.
        dropout: Rate of dropout before the residual is added.
        epsilon: Of the norm.
        seed: Integer, for the dropout.
        return_sequences: Whether to return the output of every step, or only
            that of the last unmasked one.
        return_state: Whether to return `(outputs, state)`.
        go_backwards: Whether to process the sequence from its end and return
            the output, residual included, in that order.
        stateful: Whether the states after a batch are the initial states of
            the next one. Needs a fixed batch size.
        **kwargs: Arguments of `keras.layers.Layer`: `name`, `dtype`,
            `trainable`.

    Call arguments:
        sequences: `(batch, length, width)`.
        initial_state: The state before the first step, see `S4D`.
        mask: Boolean, `(batch, length)`. Masked steps are skipped, whatever
            they hold, and give 0.
        training: Whether dropout is on.

    Raises:
        ValueError: If an argument is out of its range, a shape does not fit,
            or a state is asked for where there is none.

    Example:

    ```python
    model = keras.Sequential([
        keras.layers.Dense(128),  # of pixels or samples
        keras_ssm.layers.S4DBlock(dropout=0.1),
        keras_ssm.layers.S4DBlock(dropout=0.1),
        keras.layers.LayerNormalization(epsilon=1e-5),
        keras.layers.GlobalAveragePooling1D(),
        keras.layers.Dense(10, activation="softmax"),
    ])
    ```

    Reference:
        [Gu et al., 2022](https://arxiv.org/abs/2206.11893), section 5.
    """

    def __init__(
        self,
        *,
        state_dim: int = 64,
        mode: str | None = None,
        rate: float = 1.0,
        bidirectional: bool = False,
        discretization: str = "zoh",
        A_initializer=None,
        dt_initializer=None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        check_direction(self, mode, bidirectional)
        self.compose(
            keras.layers.LayerNormalization,
            S4D,
            state_dim=state_dim,
            mode=mode,
            rate=rate,
            bidirectional=bidirectional,
            discretization=discretization,
            A_initializer=A_initializer,
            dt_initializer=dt_initializer,
        )
