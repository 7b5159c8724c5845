"""What goes into an exported function."""

import keras


def check_model(model) -> None:
    """Raises a `ValueError` unless inputs and layers of the model are known.

    Raises:
        ValueError: If it is no model, a subclassed or an unbuilt one.
    """
    symbolic = isinstance(model, keras.Model) and hasattr(model, "layers")
    try:
        symbolic = symbolic and bool(model.inputs)
    except (AttributeError, ValueError):
        symbolic = False
    if not symbolic:
        raise ValueError(
            "A `keras.Sequential` or functional model with known inputs is "
            "needed: begin a Sequential with `keras.Input((None, width))`, "
            "and call a model of your own class on a `keras.Input` inside "
            f"`keras.Model(inputs, outputs)`. Received: {model!r}."
        )


def inputs_of(model):
    """The symbolic inputs of a model, in the structure that it takes."""
    sequential = isinstance(model, keras.Sequential)
    return model.inputs[0] if sequential else model.input


def outputs_of(model):
    """The symbolic outputs of a model, in the structure that it gives."""
    sequential = isinstance(model, keras.Sequential)
    return model.outputs[0] if sequential else model.output


def flat_inputs(model) -> list:
    """The symbolic inputs of a model."""
    return keras.tree.flatten(inputs_of(model))


def is_sequence(tensor) -> bool:
    """Whether a symbolic input is a sequence: its length is unknown."""
    return len(tensor.shape) > 1 and tensor.shape[1] is None


def specs(model, shape_of=lambda tensor: tensor.shape):
    """`keras.InputSpec`s in the structure of the model's inputs.

    Args:
        model: The model.
        shape_of: Function from a symbolic input to the shape in its place.
    """
    return keras.tree.map_structure(
        lambda tensor: keras.InputSpec(
            dtype=tensor.dtype, shape=shape_of(tensor), name=tensor.name
        ),
        inputs_of(model),
    )
