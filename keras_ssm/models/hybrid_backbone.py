"""From tokens to vectors, by a stack of any mixers."""

import math

import keras
from keras import ops

from keras_ssm.layers.arguments import check_positive
from keras_ssm.layers.rms_normalization import MaskedRMSNormalization
from keras_ssm.layers.token_embedding import TokenEmbedding
from keras_ssm.models.blocks import make_blocks
from keras_ssm.models.quantized import KEY, quantize_again, quantized_config

EMBEDDING_DEVIATION = 0.02


@keras.saving.register_keras_serializable(package="keras_ssm")
class HybridBackbone(keras.Model):
    """A stack of blocks, from tokens to a vector for each of them.

        x = token_embedding(tokens)
        x = block(x)    for each entry of `pattern`, a `HybridBlock`
        outputs = final_norm(x)

    Mamba, Mamba-2, Mamba-3, Jamba, Griffin and Transformers are patterns of
    it; the functions `mamba_config`, `mamba2_config`, `mamba3_config`,
    `jamba_config` and `griffin_config` return the arguments of the published
    ones.

    It is a functional model, with all that Keras knows to do with one. Padding
    is masked in every block and in the output, wherever it is.

    A state is a dictionary with a tuple of tensors for each block, by its
    name. It is never changed: what was kept of it can be gone on from, as
    often as one likes.

    Args:
        vocabulary_size: Number of tokens.
        width: Of the vectors between blocks.
        pattern: A list with the mixer of each block, by name: `"mamba"`,
            `"mamba2"`, `"mamba3"`, `"griffin"`, `"attention"`, or another one
            of `mixers`.
        mixers: Arguments of the mixers, a dictionary by their names in the
            pattern, such as `{"attention": {"heads": 8}}`. In the place of
            arguments it takes a sequence layer, under any name, that each
            block copies: `{"local": Attention(heads=8, window=256)}`.
        feed_forward: What follows each mixer: arguments of a `GatedMLP`, such
            as `{"units": 256}`, or a layer to copy. `None` for nothing, as in
            Mamba.
        moe: What takes its place in some blocks: arguments of a
            `MixtureOfExperts`, such as `{"experts": 8, "units": 256}`, or a
            layer to copy. `None` for nothing.
        moe_every: The blocks with `moe` are those whose index, counted from 0,
            is `moe_offset` modulo `moe_every`.
        moe_offset: See `moe_every`.
        padding_id: The token that is padding. `None` if there is none; then
            `steps` and `step` need a mask where rows are padded.
        embedding_scale: Factor of the embedded tokens.
        dropout: Rate of dropout before each residual is added.
        epsilon: Of the RMS norms.
        remat: Whether to compute the inside of each block again in the
            backward pass of training, and keep what lies between blocks alone:
            much less memory for a third more time.
        seed: Integer, for the dropout.
        dtype: Dtype policy of all layers.
        **kwargs: `name` and `trainable`.

    Call arguments:
        tokens: Integers, `(batch, length)`.

    Returns:
        `(batch, length, width)`, 0 at masked steps.

    Raises:
        ValueError: If the pattern is empty or names an unknown mixer, or an
            argument is out of its range.

    Example:

    ```python
    backbone = keras_ssm.models.HybridBackbone(
        256,
        64,
        ["mamba"] * 4 + ["attention"] + ["mamba"] * 3,
        mixers={"attention": {"heads": 4}},
        feed_forward={"units": 128},
    )
    tokens = np.random.randint(1, 256, (1, 32))
    y = backbone(tokens)  # (1, 32, 64)
    state = backbone.get_initial_state(batch_size=1, length=1000)
    y, state = backbone.steps(tokens, state)  # (1, 32, 64)
    y, state = backbone.step(tokens[:, 0], state)  # (1, 64)
    ```

    Reference:
        [Lieber et al., 2024](https://arxiv.org/abs/2403.19887), section 2.
    """

    def __init__(
        self,
        vocabulary_size: int,
        width: int,
        pattern: list[str],
        *,
        mixers: dict | None = None,
        feed_forward=None,
        moe=None,
        moe_every: int = 1,
        moe_offset: int = 0,
        padding_id: int | None = 0,
        embedding_scale: float = 1.0,
        dropout: float = 0.0,
        epsilon: float = 1e-5,
        remat: bool = False,
        seed: int | None = None,
        dtype=None,
        **kwargs,
    ):
        check_positive(
            "HybridBackbone",
            vocabulary_size=vocabulary_size,
            width=width,
            moe_every=moe_every,
        )
        policy = keras.dtype_policies.get(dtype)
        of_blocks = {
            "mixers": mixers or {},
            "feed_forward": feed_forward,
            "moe": moe,
            "moe_every": moe_every,
            "moe_offset": moe_offset,
            "dropout": dropout,
            "epsilon": epsilon,
            "remat": remat,
            "seed": seed,
        }
        embedding = _make_embedding(
            vocabulary_size, width, padding_id, embedding_scale, policy
        )
        blocks = make_blocks(pattern, dtype=policy, **of_blocks)
        final_norm = MaskedRMSNormalization(
            epsilon=epsilon, dtype=blocks[-1].output_dtype, name="final_norm"
        )
        tokens = x = keras.Input((None,), dtype="int32", name="tokens")
        for layer in (*embedding, *blocks, final_norm):
            x = layer(x)
        super().__init__(inputs=tokens, outputs=x, **kwargs)
        self.dtype_policy = policy
        self.embedding = embedding
        self.blocks = blocks
        self.final_norm = final_norm
        self.vocabulary_size = vocabulary_size
        self.width = width
        self.pattern = list(pattern)
        self.padding_id = padding_id
        self.embedding_scale = embedding_scale
        # As a file has them: Keras would take the layers that blocks copy for
        # layers of the model.
        self._of_blocks = keras.saving.serialize_keras_object(of_blocks)

    @property
    def token_embedding(self) -> TokenEmbedding:
        """The layer that embeds tokens and, in reverse, gives logits."""
        return self.embedding[0]

    def steps(self, tokens, state: dict, mask=None):
        """Processes the next tokens of every row, all at once.

        Args:
            tokens: Integers, `(b, l)`.
            state: As from `get_initial_state` or earlier steps. It is not
                changed.
            mask: Boolean, `(b, l)`. Masked steps are skipped, like padding,
                and give 0.

        Returns:
            `(y, state)`: the outputs, `(b, l, width)`, and the new state.
        """
        return self._go_on("steps", tokens, state, mask)

    def step(self, token, state: dict, mask=None):
        """Processes one token of every row.

        Args:
            token: Integers, `(b,)`.
            state: See `steps`.
            mask: Boolean, `(b,)`: rows where it is False keep their state and
                give 0.

        Returns:
            `(y, state)`: the outputs, `(b, width)`, and the new state.
        """
        return self._go_on("step", token, state, mask)

    def _go_on(self, how, tokens, state, mask):
        names = [block.name for block in self.blocks]
        if set(state) != set(names):
            raise ValueError(
                f"{self.name}: the state must be a dictionary with the keys "
                f"{names}, as `get_initial_state` gives it. "
                f"Received: keys {list(state)}."
            )
        tokens = ops.convert_to_tensor(tokens, "int32")
        mask = self.token_embedding.compute_mask(tokens, mask)
        x, after = tokens, {}
        for layer in self.embedding:
            x = layer(x)
        for block in self.blocks:
            x, after[block.name] = getattr(block, how)(
                x, state[block.name], mask
            )
        return self.final_norm(x), after

    def get_initial_state(self, batch_size, length: int | None = None) -> dict:
        """The state before the first token.

        Args:
            batch_size: Number of rows.
            length: Number of tokens that the state can hold, where it holds
                them one by one, as attention without a window does.
        """
        return {
            block.name: block.get_initial_state(batch_size, length)
            for block in self.blocks
        }

    def state_size_bytes(self, length: int, batch_size: int = 1) -> int:
        """What a context of `length` tokens costs, in bytes.

        Args:
            length: Number of tokens that the state can hold.
            batch_size: Number of rows.
        """
        sizes = (
            math.prod(length if size is None else size for size in shape)
            * _item_size(dtype)
            for block in self.blocks
            for shape, dtype in zip(
                block.state_shapes(self.width), block.state_dtypes, strict=True
            )
        )
        return batch_size * sum(sizes)

    def get_config(self):
        return {
            "vocabulary_size": self.vocabulary_size,
            "width": self.width,
            "pattern": list(self.pattern),
            **self._of_blocks,
            "padding_id": self.padding_id,
            "embedding_scale": self.embedding_scale,
            "name": self.name,
            "trainable": self.trainable,
            "dtype": keras.dtype_policies.serialize(self.dtype_policy),
            **quantized_config(self),
        }

    @classmethod
    def from_config(cls, config, custom_objects=None):
        deserialize = keras.saving.deserialize_keras_object
        config = {
            name: deserialize(value, custom_objects)
            for name, value in config.items()
        }
        quantized = config.pop(KEY, {})
        return quantize_again(cls(**config), quantized)


def _make_embedding(vocabulary_size, width, padding_id, scale, policy):
    """The layers that embed tokens."""
    embedding = TokenEmbedding(
        vocabulary_size,
        width,
        padding_id=padding_id,
        embeddings_initializer=keras.initializers.RandomNormal(
            stddev=EMBEDDING_DEVIATION
        ),
        reverse_dtype=policy.compute_dtype,
        dtype=policy,
        name="token_embedding",
    )
    if scale == 1:
        return [embedding]
    scaling = keras.layers.Rescaling(
        scale, dtype=policy, name="embedding_scaling"
    )
    return [embedding, scaling]


def _item_size(dtype):
    bits = dtype.lstrip("abcdefghijklmnopqrstuvwxyz")
    return int(bits) // 8 if bits else 1
