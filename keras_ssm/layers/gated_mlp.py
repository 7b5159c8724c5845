"""The MLP of Llama, Jamba and Griffin, with a gate."""

import keras
from keras import activations, initializers, regularizers

from keras_ssm.layers.arguments import check_positive
from keras_ssm.layers.dense import ProjectionLayer, build_dense, project


@keras.saving.register_keras_serializable(package="keras_ssm")
class GatedMLP(ProjectionLayer):
    """Mixes the channels of every step, through a gate.

        outputs = down_proj(activation(gate_proj(inputs)) * up_proj(inputs))

    The output is as wide as the input. A mask is handed on.

    Args:
        units: Width between the projections.
        activation: Of the gate. "silu" in Jamba and Llama, "gelu" in Griffin.
        use_bias: Whether the projections have biases.
        kernel_initializer: For the kernels of the projections.
        kernel_regularizer: For the same kernels.
        **kwargs: Arguments of `keras.layers.Layer`: `name`, `dtype`,
            `trainable`.

    Call arguments:
        inputs: `(..., width)`.

    Raises:
        ValueError: If `units` is no positive integer.

    Example:

    ```python
    x = keras.random.normal((2, 100, 64))
    y = keras_ssm.layers.GatedMLP(192)(x)  # (2, 100, 64)
    ```

    Reference:
        [Shazeer, 2020](https://arxiv.org/abs/2002.05202).
    """

    def __init__(
        self,
        units: int,
        *,
        activation="silu",
        use_bias: bool = False,
        kernel_initializer="lecun_normal",
        kernel_regularizer=None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        check_positive(type(self).__name__, units=units)
        self.units = units
        self.activation = activations.get(activation)
        self.use_bias = use_bias
        self.kernel_initializer = initializers.get(kernel_initializer)
        self.kernel_regularizer = regularizers.get(kernel_regularizer)
        self.supports_masking = True

    def build(self, input_shape):
        width = input_shape[-1]
        for name, size, units in (
            ("gate_proj", width, self.units),
            ("up_proj", width, self.units),
            ("down_proj", self.units, width),
        ):
            dense = build_dense(self, name, size, units, use_bias=self.use_bias)
            setattr(self, name, dense)

    def call(self, inputs):
        gate = self.activation(project(self.gate_proj, inputs))
        return project(self.down_proj, gate * project(self.up_proj, inputs))

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {
            **super().get_config(),
            "units": self.units,
            "activation": activations.serialize(self.activation),
            "use_bias": self.use_bias,
            "kernel_initializer": initializers.serialize(
                self.kernel_initializer
            ),
            "kernel_regularizer": regularizers.serialize(
                self.kernel_regularizer
            ),
        }
