"""What models with a backbone have in common."""

import keras

from keras_ssm.models.hybrid_backbone import HybridBackbone
from keras_ssm.models.quantized import KEY, quantize_again, quantized_config

LEARNING_RATE = 1e-3


class Task(keras.Model):
    """Base of functional models that put a head on a `HybridBackbone`.

    A subclass sets `backbone` and implements `default_loss` and
    `default_metrics`.
    """

    def compile(
        self, optimizer="auto", loss="auto", *, metrics="auto", **kwargs
    ):
        """Configures `fit` and `evaluate`, see `keras.Model.compile`.

        Args:
            optimizer: `"auto"` for Adam with a learning rate of 0.001, whose
                gradients are scaled down to a norm of 1.
            loss: `"auto"` for the cross-entropy.
            metrics: `"auto"` for the usual ones, see the model.
            **kwargs: Arguments of `keras.Model.compile`.
        """
        if optimizer == "auto":
            optimizer = keras.optimizers.Adam(
                LEARNING_RATE, global_clipnorm=1.0
            )
        if loss == "auto":
            loss = self.default_loss()
        if metrics == "auto":
            metrics = self.default_metrics()
        super().compile(
            optimizer=optimizer, loss=loss, metrics=metrics, **kwargs
        )

    def compile_from_config(self, config):
        # Keras leaves out those that have a `compile` of their own.
        self.compile(**keras.saving.deserialize_keras_object(config))
        self.optimizer.build(self.trainable_variables)

    def get_config(self):
        return {
            "backbone": keras.saving.serialize_keras_object(self.backbone),
            "name": self.name,
            "trainable": self.trainable,
            **quantized_config(self),
        }

    @classmethod
    def from_config(cls, config, custom_objects=None):
        config = dict(config)
        for name in config.keys() & {"backbone", KEY}:
            config[name] = keras.saving.deserialize_keras_object(
                config[name], custom_objects
            )
        quantized = config.pop(KEY, {})
        return quantize_again(cls(**config), quantized)


def check_backbone(model: str, backbone) -> None:
    """Raises a `ValueError` unless it is a `HybridBackbone`."""
    if not isinstance(backbone, HybridBackbone):
        raise ValueError(
            f"`{model}`: `backbone` must be a `HybridBackbone`. "
            f"Received: backbone={backbone!r}."
        )
