"""The norm of language models, for sequences with padding."""

import keras


@keras.saving.register_keras_serializable(package="keras_ssm")
class MaskedRMSNormalization(keras.layers.RMSNormalization):
    """A `keras.layers.RMSNormalization` that hands a mask on.

    It treats every step by itself, so that what was masked before is masked
    behind it. Keras' layer loses the mask.

    Args:
        axis: The axis to normalize.
        epsilon: Added to the mean square.
        **kwargs: Arguments of `keras.layers.Layer`: `name`, `dtype`,
            `trainable`.

    Example:

    ```python
    model = keras.Sequential([
        keras.layers.Embedding(256, 128, mask_zero=True),
        keras_ssm.layers.MambaBlock(),
        keras_ssm.layers.MaskedRMSNormalization(epsilon=1e-5),
        keras.layers.GlobalAveragePooling1D(),
    ])
    ```

    Reference:
        [Zhang & Sennrich, 2019](https://arxiv.org/abs/1910.07467).
    """

    def __init__(self, axis=-1, epsilon: float = 1e-6, **kwargs):
        super().__init__(axis=axis, epsilon=epsilon, **kwargs)
        self.supports_masking = True
