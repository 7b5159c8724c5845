"""The parameters of the causal convolution in Mamba's layers."""

import math

from keras import initializers

from keras_ssm.layers.dense import fan_in_uniform
from keras_ssm.ops import causal_conv1d


def build_convolution(layer, channels):
    """Gives a layer its `conv_kernel`, and a `conv_bias` if it uses one.

    Args:
        layer: With `conv_kernel_size` and `use_conv_bias`.
        channels: Of the convolution.
    """
    bound = 1 / math.sqrt(layer.conv_kernel_size)
    layer.conv_kernel = layer.add_weight(
        shape=(layer.conv_kernel_size, channels),
        initializer=fan_in_uniform(),
        autocast=False,
        name="conv_kernel",
    )
    layer.conv_bias = None
    if layer.use_conv_bias:
        layer.conv_bias = layer.add_weight(
            shape=(channels,),
            initializer=initializers.RandomUniform(-bound, bound),
            autocast=False,
            name="conv_bias",
        )


def convolve(layer, x, state, mask, reverse, activation=None):
    """The convolution of a layer, and the state behind it.

    Nobody asks for that if there was none before: then it is `None`.
    """
    arguments = dict(activation=activation, mask=mask, reverse=reverse)
    arguments["initial_state"] = state
    if state is None:
        y = causal_conv1d(x, layer.conv_kernel, layer.conv_bias, **arguments)
        return y, None
    return causal_conv1d(
        x, layer.conv_kernel, layer.conv_bias, return_state=True, **arguments
    )
