"""What formats have in common whose files hold one function."""

import dataclasses

import keras

from keras_ssm.layers import S4, S4D

ENDPOINTS = {"serve", "step", "steps"}
INSTEAD = 'Use the format "tf_saved_model", which holds every layer.'


def check(format, suffix, path, endpoints, layers) -> None:
    """Raises unless a file can hold this.

    Raises:
        ValueError: If the name does not end like one of such a file, or there
            is more than one endpoint.
        NotImplementedError: If there is no such operation in the format.
    """
    if path.suffix != suffix:
        raise ValueError(
            f"`export`: the path of a file in the format {format!r} ends with "
            f"{suffix!r}. Received: path={path}."
        )
    if len(endpoints) > 1 or not set(endpoints) <= ENDPOINTS:
        raise ValueError(
            f"`export`: a file in the format {format!r} holds one function, "
            '`endpoints="serve"`, `"step"` or `"steps"`; its stream begins '
            f"with zeros. Received: endpoints={endpoints}."
        )
    for layer in layers:
        fourier = isinstance(mixer_of(layer), (S4, S4D))
        if fourier and endpoints != ("step",):
            raise refusal(
                layer, format, "its sequences go through Fourier transforms"
            )


def mixer_of(layer):
    """The mixer of a block; of another layer, itself."""
    return getattr(layer, "mixer", layer)


def refusal(layer, format, reason):
    """The error for a layer that a format cannot hold."""
    return NotImplementedError(
        f"The {type(layer).__name__} {layer.name!r} cannot be written in the "
        f"format {format!r}: {reason}. {INSTEAD}"
    )


def renamed(endpoint):
    """An endpoint whose outputs are not called like its inputs.

    The state that comes out as `next_state_0` goes in as `state_0`.
    """

    def function(*arguments):
        results = endpoint.function(*arguments)
        if endpoint.name == "serve":
            return results
        return {_outside(name): value for name, value in results.items()}

    return dataclasses.replace(endpoint, function=function)


def _outside(name):
    return f"next_{name}" if name.startswith("state_") else name


def results_of(endpoint, by_name: dict):
    """What an endpoint gives, from the outputs of a file by their names."""
    if endpoint.name == "serve":
        return [by_name[name] for name in sorted(by_name)]
    return {name.removeprefix("next_"): v for name, v in by_name.items()}


def flat(endpoint):
    """An endpoint as a function of flat tensors, and their specs."""
    import tensorflow as tf

    specs = [
        tf.TensorSpec(spec.shape, spec.dtype, name=spec.name)
        for spec in keras.tree.flatten(endpoint.signature)
    ]

    def function(*tensors):
        arguments = keras.tree.pack_sequence_as(endpoint.signature, tensors)
        results = renamed(endpoint).function(*arguments)
        if endpoint.name != "serve":
            return results
        return {
            f"output_{index}": value
            for index, value in enumerate(keras.tree.flatten(results))
        }

    return tf.function(function, input_signature=specs, autograph=False), specs


def feed(endpoint, arguments) -> dict:
    """Arrays for an endpoint, by the names of its inputs."""
    names = [spec.name for spec in keras.tree.flatten(endpoint.signature)]
    values = keras.tree.flatten(list(arguments))
    return dict(zip(names, values, strict=True))
