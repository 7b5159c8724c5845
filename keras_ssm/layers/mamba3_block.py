"""A layer of a Mamba-3 network: norm, mixer, residual."""

import keras

from keras_ssm.layers.mamba3 import Mamba3
from keras_ssm.layers.residual_block import ResidualBlock


@keras.saving.register_keras_serializable(package="keras_ssm")
class Mamba3Block(ResidualBlock):
    """One layer of a Mamba-3 network, to be stacked.

        outputs = inputs + dropout(mamba3(norm(inputs)))

    The residual stream stays float32 under every dtype policy. End a stack of
    blocks with a norm. The paper's is `keras.layers.RMSNormalization`, which
    does not hand on a mask; where padding must stay out of what follows, such
    as an average, take `keras.layers.LayerNormalization`.

    Args:
        state_dim: Size of the state of each channel.
        head_dim: Channels of a head; a divisor of `expand * width`. `None` for
            the paper's 64, or where that is no divisor the greatest one that
            it shares with 64.
        groups: How many B and C there are, shared by as many heads each.
        rank: Inputs and outputs of a head at a time. The paper's MIMO has 4.
        rotary_dim: How many numbers of a state turn, an even number. `None`
            for the paper's half of them.
        expand: The recurrence has `expand` times the width of the input.
        dropout: Rate of dropout before the residual is added.
        epsilon: Of the RMS norm before the mixer.
        seed: Integer, for the dropout.
        return_sequences: Whether to return the output of every step, or only
            that of the last unmasked one.
        return_state: Whether to return
            `(outputs, ssm_state, x_state, B_state)`.
        go_backwards: Whether to process the sequence from its end and return
            the output, residual included, in that order.
        stateful: Whether the states after a batch are the initial states of
            the next one. Needs a fixed batch size.
        **kwargs: Arguments of `keras.layers.Layer`: `name`, `dtype`,
            `trainable`.

    Call arguments:
        sequences: `(batch, length, width)`.
        initial_state: The states before the first step, see `Mamba3`.
        mask: Boolean, `(batch, length)`. Masked steps are skipped, whatever
            they hold, and give 0.
        training: Whether dropout is on.

    Raises:
        ValueError: If an argument is out of its range, or a shape does not
            fit.

    Example:

    ```python
    model = keras.Sequential([
        keras.layers.Embedding(256, 128, mask_zero=True),
        keras_ssm.layers.Mamba3Block(),
        keras_ssm.layers.Mamba3Block(),
        keras.layers.LayerNormalization(epsilon=1e-5),
        keras.layers.GlobalAveragePooling1D(),
        keras.layers.Dense(2, activation="softmax"),
    ])
    ```

    Reference:
        [Lahoti et al., 2026](https://arxiv.org/abs/2603.15569), section 3.
    """

    def __init__(
        self,
        *,
        state_dim: int = 128,
        head_dim: int | None = None,
        groups: int = 1,
        rank: int = 1,
        rotary_dim: int | None = None,
        expand: int = 2,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.compose(
            keras.layers.RMSNormalization,
            Mamba3,
            state_dim=state_dim,
            head_dim=head_dim,
            groups=groups,
            rank=rank,
            rotary_dim=rotary_dim,
            expand=expand,
        )
