"""Inputs that an exported model is tried on before anyone relies on it."""

import keras
import numpy as np

from keras_ssm.serving import texts
from keras_ssm.serving.signature import flat_inputs, is_sequence

LENGTHS = (1, 40)
BATCH = 3


def sample_inputs(model, length: int) -> list:
    """Arrays for the inputs of a model, flat: random, the last rows padded.

    Args:
        model: A model with symbolic inputs.
        length: Of the sequences whose length is unknown.
    """
    rng = np.random.default_rng(length)
    layers = all_layers(model)
    tokens, padding = _vocabulary(layers), texts.padding_of(layers) or 0
    return [
        _sample(spec, is_sequence(spec), length, tokens, padding, rng)
        for spec in flat_inputs(model)
    ]


def _sample(spec, sequence, length, tokens, padding, rng):
    batch, *rest = spec.shape
    if sequence and rest[0] is None:
        rest[0] = length
    shape = (BATCH if batch is None else batch, *(size or 1 for size in rest))
    if spec.dtype == "bool":
        values = np.ones(shape, bool)
    elif "int" in spec.dtype:
        others = rng.integers(0, max(1, tokens - 1), shape)
        values = (padding + 1 + others) % tokens
    else:
        values = rng.normal(size=shape)
    if sequence and spec.dtype not in ("float16", "float32", "float64"):
        behind = padding if "int" in spec.dtype else False
        for row in range(1, shape[0]):
            values[row, shape[1] - shape[1] * row // (shape[0] + 1) :] = behind
    return values.astype(spec.dtype)


def _vocabulary(layers):
    """How many different tokens every embedding knows, up to all bytes."""
    sizes = [layer.input_dim for layer in texts.embeddings(layers)]
    return min([*sizes, texts.BYTES]) if sizes else 2


def all_layers(model) -> list:
    """The layers of a model and of the models in it."""
    found = []
    for layer in model.layers:
        found.append(layer)
        if isinstance(layer, keras.Model):
            found += all_layers(layer)
        elif isinstance(layer, keras.layers.Wrapper):
            found.append(layer.layer)
    return found
