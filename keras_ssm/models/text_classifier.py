"""Classes of whole sequences of tokens."""

import keras
from keras import ops

from keras_ssm.layers.arguments import check_positive
from keras_ssm.models.hybrid_backbone import HybridBackbone
from keras_ssm.models.task import Task, check_backbone


@keras.saving.register_keras_serializable(package="keras_ssm")
class MaskedAverage(keras.layers.GlobalAveragePooling1D):
    """The average over unmasked steps; 0 where there are none."""

    def call(self, inputs, mask=None):
        y = super().call(inputs, mask=mask)
        if mask is None:
            return y
        any_step = ops.any(mask, axis=1, keepdims=True)
        return ops.where(any_step, y, ops.zeros_like(y))


@keras.saving.register_keras_serializable(package="keras_ssm")
class TextClassifier(Task):
    """The probability of each class, for a text.

        probabilities = softmax(classes(dropout(average of backbone(tokens))))

    The average is over all tokens that are no padding.

    Args:
        backbone: A `HybridBackbone`.
        classes: Number of classes.
        dropout: Rate of dropout of the average.
        activation: Of the outputs; "sigmoid" for classes that do not exclude
            each other, `None` for logits.
        seed: Integer, for the dropout.
        **kwargs: `name` and `trainable`.

    Call arguments:
        tokens: Integers, `(batch, length)`.

    Returns:
        `(batch, classes)`, float32 under every dtype policy.

    Raises:
        ValueError: If `backbone` is no `HybridBackbone`, or `classes` no
            positive integer.

    Example:

    ```python
    backbone = keras_ssm.models.HybridBackbone(256, 64, ["mamba2"] * 2)
    model = keras_ssm.models.TextClassifier(backbone, classes=2, dropout=0.3)
    model.compile()
    tokens = np.random.randint(1, 256, (8, 32))  # (rows, length)
    labels = tokens[:, 0] % 2  # (rows,)
    model.fit(tokens, labels, batch_size=4)
    ```
    """

    def __init__(
        self,
        backbone: HybridBackbone,
        classes: int,
        *,
        dropout: float = 0.0,
        activation="softmax",
        seed: int | None = None,
        **kwargs,
    ):
        check_backbone("TextClassifier", backbone)
        check_positive("TextClassifier", classes=classes)
        wide = backbone.final_norm.dtype_policy
        head = keras.layers.Dense(
            classes, activation=activation, dtype=wide, name="classes"
        )
        tokens = keras.Input((None,), dtype="int32", name="tokens")
        x = MaskedAverage(dtype=wide, name="average")(backbone(tokens))
        x = keras.layers.Dropout(
            dropout, seed=seed, dtype=wide, name="dropout"
        )(x)
        super().__init__(inputs=tokens, outputs=head(x), **kwargs)
        self.backbone = backbone
        self.classes = classes
        self.dropout = dropout
        self.activation = head.activation
        self.seed = seed

    def default_loss(self):
        """For numbers of classes, or zeros and ones with a "sigmoid"."""
        if self.activation is keras.activations.sigmoid:
            return keras.losses.BinaryCrossentropy()
        return keras.losses.SparseCategoricalCrossentropy(
            from_logits=self.activation is keras.activations.linear
        )

    def default_metrics(self):
        """The accuracy."""
        return ["accuracy"]

    def get_config(self):
        return {
            **super().get_config(),
            "classes": self.classes,
            "dropout": self.dropout,
            "activation": keras.activations.serialize(self.activation),
            "seed": self.seed,
        }
