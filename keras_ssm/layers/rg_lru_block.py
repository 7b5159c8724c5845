"""A layer of RG-LRUs: norm, mixer, residual."""

import keras

from keras_ssm.layers.residual_block import ResidualBlock
from keras_ssm.layers.rg_lru import RGLRU


@keras.saving.register_keras_serializable(package="keras_ssm")
class RGLRUBlock(ResidualBlock):
    """One layer of RG-LRUs, to be stacked.

        outputs = inputs + dropout(rg_lru(norm(inputs)))

    It is the recurrence without what Griffin has around it, a
    convolution, a gate and projections, for which see `GriffinBlock`.
    The residual stream stays float32 under every dtype policy.

    Args:
        heads: Number of blocks of the gates. `None` for the paper's 16, or
            the largest power of two below it that divides the width.
        dropout: Rate of dropout before the residual is added.
        epsilon: Of the RMS norm.
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
        initial_state: The states before the first step, see `RGLRU`.
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
        keras_ssm.layers.RGLRUBlock(),
        keras_ssm.layers.RGLRUBlock(),
        keras.layers.LayerNormalization(epsilon=1e-5),
        keras.layers.Dense(256),
    ])
    ```

    Reference:
        [De et al., 2024](https://arxiv.org/abs/2402.19427), section 2.4.
    """

    def __init__(
        self,
        *,
        heads: int | None = None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.compose(
            keras.layers.RMSNormalization,
            RGLRU,
            heads=heads,
        )
