"""Lets a sequence layer run inside `keras.layers.RNN`."""

import math

import keras
from keras import ops

from keras_ssm.layers.sequence_layer import SequenceLayer, grows


@keras.saving.register_keras_serializable(package="keras_ssm")
class StepCell(keras.layers.Layer):
    """A cell for `keras.layers.RNN` that runs a layer step by step.

    It gives what the layer itself gives, slower, and serves where a cell is
    asked for: in `keras.layers.StackedRNNCells`, or beside other cells.

    Args:
        layer: A sequence layer of this library, built or not, for example
            `Mamba()`.
        width: The width of its input and output.
        **kwargs: Arguments of `keras.layers.Layer`.

    Raises:
        ValueError: If `layer` is no sequence layer of this library, or its
            states grow with the context.

    Example:

    ```python
    cell = keras_ssm.layers.StepCell(keras_ssm.layers.Mamba(), width=64)
    layer = keras.layers.RNN(cell, return_sequences=True)
    ```
    """

    def __init__(self, layer: SequenceLayer, width: int, **kwargs):
        super().__init__(autocast=False, **kwargs)
        if not isinstance(layer, SequenceLayer):
            raise ValueError(
                "`StepCell`: `layer` must be a sequence layer of keras_ssm, "
                f"such as `Mamba()`. Received: layer={layer!r}."
            )
        shapes = layer.state_shapes(width)
        if grows(shapes):
            raise ValueError(
                "`StepCell`: the states of `layer` must have a fixed size, and "
                "those of attention without a window grow with the context. "
                f"Give it a `window`. Received: layer={layer!r}."
            )
        self.layer = layer
        self.width = width
        # Flat states: RNN broadcasts masks against (batch, size).
        self.state_size = [math.prod(shape) for shape in shapes]
        self.output_size = width

    @property
    def compute_dtype(self):
        """float32 or float64: `keras.layers.RNN` casts all states to it."""
        return self.layer.state_dtype

    def build(self, input_shape):
        if not self.layer.built:
            self.layer.build((input_shape[0], None, input_shape[-1]))

    def call(self, inputs, states, training=None):
        batch = ops.shape(inputs)[0]
        shapes = self.layer.state_shapes(self.width)
        states = tuple(
            ops.reshape(state, (batch, *shape))
            for state, shape in zip(states, shapes, strict=True)
        )
        y, states = self.layer.step(inputs, states)
        return y, [
            ops.cast(ops.reshape(state, (batch, size)), self.compute_dtype)
            for state, size in zip(states, self.state_size, strict=True)
        ]

    def get_initial_state(self, batch_size=None):
        return [
            ops.zeros((batch_size, size), self.compute_dtype)
            for size in self.state_size
        ]

    def get_config(self):
        return {
            **super().get_config(),
            "layer": keras.saving.serialize_keras_object(self.layer),
            "width": self.width,
        }

    @classmethod
    def from_config(cls, config):
        config = dict(config)
        config["layer"] = keras.saving.deserialize_keras_object(config["layer"])
        return cls(**config)
