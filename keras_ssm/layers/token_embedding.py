"""Token ids to vectors, and vectors to the logits of tokens."""

import keras
from keras import ops


@keras.saving.register_keras_serializable(package="keras_ssm")
class TokenEmbedding(keras.layers.ReversibleEmbedding):
    """A `keras.layers.ReversibleEmbedding` that masks any one token.

    `mask_zero=True` masks token 0; here the padding is the token that it is in
    a vocabulary, or there is none.

    Args:
        input_dim: Number of tokens.
        output_dim: Width of the vectors.
        padding_id: The token that is padding. `None` if there is none.
        **kwargs: Arguments of `keras.layers.ReversibleEmbedding`, but for
            `mask_zero`.

    Raises:
        ValueError: If `padding_id` is no token.

    Example:

    ```python
    embedding = keras_ssm.layers.TokenEmbedding(256, 64, padding_id=255)
    tokens = np.array([[104, 105, 255]])
    x = embedding(tokens)  # (b, l, 64), masked where the token is 255
    logits = embedding(x, reverse=True)  # (b, l, 256)
    ```
    """

    def __init__(
        self,
        input_dim: int,
        output_dim: int,
        *,
        padding_id: int | None = 0,
        **kwargs,
    ):
        super().__init__(input_dim, output_dim, mask_zero=False, **kwargs)
        if padding_id is not None and padding_id not in range(input_dim):
            raise ValueError(
                "`TokenEmbedding`: `padding_id` must be one of the "
                f"{input_dim} tokens, counted from 0, or None. "
                f"Received: padding_id={padding_id!r}."
            )
        self.padding_id = padding_id
        self.supports_masking = True

    def compute_mask(self, inputs, mask=None):
        tokens = "int" in keras.backend.standardize_dtype(inputs.dtype)
        if not tokens or self.padding_id is None:
            return mask
        real = ops.not_equal(inputs, self.padding_id)
        return real if mask is None else ops.logical_and(mask, real)

    def quantize(self, mode=None, type_check=True, config=None):
        # Keras leaves what is made of its own class as it is.
        return super().quantize(mode, type_check=False, config=config)

    def get_config(self):
        config = super().get_config()
        config.pop("mask_zero")
        return {**config, "padding_id": self.padding_id}
