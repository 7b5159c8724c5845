"""A model of what comes next."""

import functools
import math

import keras
from keras import ops

from keras_ssm.models.generation import Generator
from keras_ssm.models.hybrid_backbone import HybridBackbone
from keras_ssm.models.task import Task, check_backbone


@keras.saving.register_keras_serializable(package="keras_ssm")
class CausalLM(Task):
    """A language model: for each token, the logits of the next one.

        logits = backbone(tokens) token_embedding'

    `fit` and `evaluate` take tokens alone: what is to be predicted is the next
    token, and padding counts nothing. With targets, one for each token, they
    take these. `generate` continues prompts.

    Logits are float32 under every dtype policy.

    Args:
        backbone: A `HybridBackbone`.
        tie_embeddings: Whether logits are products with the embedded tokens.
            Otherwise they have a kernel of their own.
        logit_soft_cap: A bound for logits: `cap * tanh(logits / cap)`, as
            Griffin has it with 30. `None` for no bound.
        **kwargs: `name` and `trainable`.

    Call arguments:
        tokens: Integers, `(batch, length)`.

    Returns:
        Logits, `(batch, length, vocabulary_size)`.

    Raises:
        ValueError: If `backbone` is no `HybridBackbone`, or the bound is not
            positive.

    Example:

    ```python
    backbone = keras_ssm.models.HybridBackbone(256, 64, ["mamba"] * 4)
    model = keras_ssm.models.CausalLM(backbone)
    model.compile(weighted_metrics=[keras_ssm.models.BitsPerToken()])
    tokens = np.random.randint(1, 256, (8, 32))  # (rows, length)
    model.fit(tokens, batch_size=4)
    (result,) = model.generate([list(b"Once upon a time")], max_length=32)
    print(bytes(result.tolist()))
    ```
    """

    def __init__(
        self,
        backbone: HybridBackbone,
        *,
        tie_embeddings: bool = True,
        logit_soft_cap: float | None = None,
        **kwargs,
    ):
        check_backbone("CausalLM", backbone)
        if logit_soft_cap is not None and logit_soft_cap <= 0:
            raise ValueError(
                "`CausalLM`: `logit_soft_cap` must be positive, or None. "
                f"Received: logit_soft_cap={logit_soft_cap!r}."
            )
        head = _make_head(backbone, tie_embeddings, logit_soft_cap)
        tokens = keras.Input((None,), dtype="int32", name="tokens")
        super().__init__(
            inputs=tokens, outputs=head(backbone(tokens)), **kwargs
        )
        self.backbone = backbone
        self.tie_embeddings = tie_embeddings
        self.logit_soft_cap = logit_soft_cap
        self._head = head
        self._generator = Generator(self)

    def logits(self, y):
        """The logits of the next token, from outputs of the backbone.

        Args:
            y: `(..., width)`.

        Returns:
            `(..., vocabulary_size)`.
        """
        return self._head(y)

    def default_loss(self):
        """The mean over all tokens that have a weight."""
        return keras.losses.SparseCategoricalCrossentropy(
            from_logits=True, reduction="mean_with_sample_weight"
        )

    def default_metrics(self):
        """None: a loss is enough, and `BitsPerToken` computes it again."""
        return None

    def compute_loss(
        self, x=None, y=None, y_pred=None, sample_weight=None, training=True
    ):
        aligned = self._align(x, y, y_pred, sample_weight)
        return super().compute_loss(x, *aligned, training=training)

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        aligned = self._align(x, y, y_pred, sample_weight)
        return super().compute_metrics(x, *aligned)

    def _align(self, tokens, targets, logits, weights):
        """Targets, logits and weights of the same positions."""
        real = self.backbone.token_embedding.compute_mask(tokens)
        if targets is None:
            targets, logits = tokens[:, 1:], logits[:, :-1]
            # What follows padding has nothing to be predicted from.
            if real is not None:
                real = ops.logical_and(real[:, 1:], real[:, :-1])
        if real is not None:
            real = ops.cast(real, "float32")
            weights = real if weights is None else real * weights
        return targets, logits, weights

    def generate(
        self,
        prompts,
        max_length: int,
        sampler="greedy",
        *,
        stop_tokens=(),
        seed: int | None = None,
        callback=None,
    ):
        """Continues prompts token by token.

        All prompts are read in parallel, 2048 tokens at once; then every token
        takes the time of a step. On JAX and TensorFlow both are compiled for
        the number of prompts, and for lengths rounded up to powers of two.

        Padding is never generated.

        Args:
            prompts: One prompt, a list or array of tokens; or several, of any
                lengths, a list of such or an array `(b, l)`. Padding in them
                is left out.
            max_length: Number of tokens of a result, its prompt included.
            sampler: `"greedy"`, `"random"`, `"top_k"`, `"top_p"`, or a sampler
                such as `keras_ssm.models.TopPSampler(0.9, temperature=0.8)`.
            stop_tokens: A result ends behind the first of these that it
                generates.
            seed: Integer: the same seed chooses the same tokens. `None` takes
                one from `keras.utils.set_random_seed`, or another every time.
            callback: Function that is called with every new token, or for
                several prompts with a list of them, `None` for those that have
                ended.

        Returns:
            The prompt with what continues it, an int32 array; for several
            prompts a list of them.

        Raises:
            ValueError: If a prompt is empty, longer than `max_length`, or
                holds what is no token; or if there is no such sampler.
        """
        return self._generator(
            prompts, max_length, sampler, stop_tokens, seed, callback
        )

    def get_config(self):
        return {
            **super().get_config(),
            "tie_embeddings": self.tie_embeddings,
            "logit_soft_cap": self.logit_soft_cap,
        }


@keras.saving.register_keras_serializable(package="keras_ssm")
class BitsPerToken(keras.metrics.Mean):
    """The cross-entropy of tokens in bits; for bytes, bits per byte.

    Args:
        name: Name of the metric.
        dtype: Of the result.

    Example:

    ```python
    model.compile(weighted_metrics=[keras_ssm.models.BitsPerToken()])
    ```
    """

    def __init__(self, name="bits_per_token", dtype=None):
        super().__init__(name=name, dtype=dtype)

    def update_state(self, y_true, y_pred, sample_weight=None):
        nats = keras.losses.sparse_categorical_crossentropy(
            y_true, y_pred, from_logits=True
        )
        super().update_state(nats / math.log(2), sample_weight)


def _make_head(backbone, tie_embeddings, logit_soft_cap):
    """The function from outputs of the backbone to logits."""
    if tie_embeddings:
        project = functools.partial(backbone.token_embedding, reverse=True)
    else:
        project = keras.layers.Dense(
            backbone.vocabulary_size,
            use_bias=False,
            dtype=backbone.dtype_policy,
            name="head",
        )
    widen = keras.layers.Activation(
        "linear", dtype=backbone.final_norm.dtype_policy, name="logits"
    )

    def head(y):
        y = widen(project(y))
        if logit_soft_cap is None:
            return y
        return logit_soft_cap * ops.tanh(y / logit_soft_cap)

    return head
