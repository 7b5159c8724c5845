"""Texts as inputs of models whose tokens are bytes."""

import keras

from keras_ssm.layers.token_embedding import TokenEmbedding
from keras_ssm.serving.signature import flat_inputs, inputs_of, is_sequence

BYTES = 256
ENDPOINTS = ("serve_text", "steps_text")


def embeddings(layers) -> list:
    """Those layers that embed tokens."""
    return [v for v in layers if isinstance(v, keras.layers.Embedding)]


def padding_of(layers) -> int | None:
    """The token that is padding to the first embedding, `None` if none is."""
    for layer in embeddings(layers):
        if isinstance(layer, TokenEmbedding):
            return layer.padding_id
        return 0 if layer.mask_zero else None
    return None


def check_texts(model, layers) -> None:
    """Raises unless the inputs of a model can be made of texts.

    Args:
        model: The model.
        layers: All its layers.

    Raises:
        NotImplementedError: If it takes something other than tokens and their
            mask, or does not know every byte.
    """
    kinds = sorted(map(_kind, flat_inputs(model)))
    if kinds not in (["tokens"], ["mask", "tokens"]):
        received = {v.name: (v.shape, v.dtype) for v in flat_inputs(model)}
        raise NotImplementedError(
            f"The endpoints {list(ENDPOINTS)} are for models of integer tokens "
            "of unknown length, with a boolean mask at most. Use `serve` and "
            f"`steps`. Received: inputs {received}."
        )
    for layer in embeddings(layers):
        if layer.input_dim < BYTES:
            raise NotImplementedError(
                f"The {type(layer).__name__} {layer.name!r} knows "
                f"{layer.input_dim} tokens, fewer than the {BYTES} bytes of "
                f"which texts are made. Use `serve` and `steps`, not "
                f"{list(ENDPOINTS)}."
            )


def inputs_from(model, tokens, mask):
    """What a model takes, from tokens and their mask, `(b, l)` each."""
    parts = {"tokens": tokens, "mask": mask}
    return keras.tree.map_structure(
        lambda tensor: parts[_kind(tensor)], inputs_of(model)
    )


def as_texts(model, padding, inputs) -> list[bytes]:
    """The texts that stand for flat inputs, arrays of tokens and their mask."""
    parts = {
        _kind(tensor): value
        for tensor, value in zip(flat_inputs(model), inputs, strict=True)
    }
    tokens = parts["tokens"]
    real = parts.get("mask", tokens != padding)
    return [
        bytes(row[: live.sum()].tolist())
        for row, live in zip(tokens, real, strict=True)
    ]


def reads_masks(model) -> bool:
    """Whether a mask is among the inputs of a model."""
    return "mask" in map(_kind, flat_inputs(model))


def _kind(tensor):
    """What a symbolic input is."""
    if is_sequence(tensor) and len(tensor.shape) == 2:
        if "int" in tensor.dtype:
            return "tokens"
        if tensor.dtype == "bool":
            return "mask"
    return "other"
