"""Models that were quantized come back from their configs as they were."""

import keras

from keras_ssm.layers.dense import ProjectionLayer, quantized_arguments

KEY = "quantized"


def quantized_config(model: keras.Model) -> dict:
    """What the config of a model says about its quantized layers.

    Keras builds functional models before their weights are loaded, so that
    what is quantized is part of the config. Models in the model have their own.

    Returns:
        Nothing, or an entry for `from_config` to hand to `quantize_again`.
    """
    quantized = quantized_arguments(_layers(model))
    return {KEY: quantized} if quantized else {}


def quantize_again(model: keras.Model, config: dict) -> keras.Model:
    """Quantizes the layers that were quantized when the config was made.

    Args:
        model: The model, new.
        config: The entry of its config, deserialized.

    Returns:
        The model.
    """
    layers = _layers(model)
    for name, arguments in config.items():
        layers[name].quantize(
            arguments["dtype"].quantization_mode,
            config=arguments["quantization_config"],
        )
    return model


def _layers(model) -> dict:
    """The layers that may be quantized, by a name or path of names."""
    found = {}
    inside = {
        id(layer)
        for inner in model.layers
        if isinstance(inner, keras.Model)
        for layer in inner.layers
    }
    for layer in model.layers:
        if isinstance(layer, ProjectionLayer):
            inner = layer.projection_layers()
            found |= {f"{layer.name}/{name}": v for name, v in inner.items()}
        elif not isinstance(layer, keras.Model) and id(layer) not in inside:
            found[layer.name] = layer
    return found
