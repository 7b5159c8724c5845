"""A layer of a Griffin or Hawk network: norm, mixer, residual."""

import keras

from keras_ssm.layers.griffin import Griffin
from keras_ssm.layers.residual_block import ResidualBlock


@keras.saving.register_keras_serializable(package="keras_ssm")
class GriffinBlock(ResidualBlock):
    """One layer of a Griffin or Hawk network, to be stacked.

        outputs = inputs + dropout(griffin(norm(inputs)))

    It is a residual block around the recurrent block; networks
    have a block with an MLP after each. The residual stream stays float32
    under every dtype policy.

    Args:
        state_dim: Width of the recurrence, and the size of its state. `None`
            for that of the input; the paper's is 4/3 of it.
        conv_kernel_size: Width of the causal convolution.
        heads: Number of blocks of the gates of the RG-LRU. `None` for the
            paper's 16, or the largest power of two below it that divides the
            width of the recurrence.
        dropout: Rate of dropout before the residual is added.
        epsilon: Of the RMS norm.
        seed: Integer, for the dropout.
        return_sequences: Whether to return the output of every step, or only
            that of the last unmasked one.
        return_state: Whether to return `(outputs, conv_state, lru_state)`.
        go_backwards: Whether to process the sequence from its end and return
            the output, residual included, in that order.
        stateful: Whether the states after a batch are the initial states of
            the next one. Needs a fixed batch size.
        **kwargs: Arguments of `keras.layers.Layer`: `name`, `dtype`,
            `trainable`.

    Call arguments:
        sequences: `(batch, length, width)`.
        initial_state: The states before the first step, see `Griffin`.
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
        keras_ssm.layers.GriffinBlock(),
        keras_ssm.layers.GriffinBlock(),
        keras.layers.LayerNormalization(epsilon=1e-5),
        keras.layers.Dense(256),
    ])
    ```

    Reference:
        [De et al., 2024](https://arxiv.org/abs/2402.19427), section 2.3 and
        figure 2.
    """

    def __init__(
        self,
        *,
        state_dim: int | None = None,
        conv_kernel_size: int = 4,
        heads: int | None = None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.compose(
            keras.layers.RMSNormalization,
            Griffin,
            state_dim=state_dim,
            conv_kernel_size=conv_kernel_size,
            heads=heads,
        )
