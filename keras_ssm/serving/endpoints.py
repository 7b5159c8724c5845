"""The functions of an exported model, with what they take."""

import dataclasses

import keras

from keras_ssm.serving.signature import is_sequence, specs
from keras_ssm.serving.stream import Stream


@dataclasses.dataclass(frozen=True)
class Endpoint:
    """A function that is exported.

    Attributes:
        name: Its name.
        function: What it computes.
        signature: A list of its arguments as `keras.InputSpec`s.
    """

    name: str
    function: object
    signature: list


def make_endpoints(model, names) -> list[Endpoint]:
    """The endpoints of these names, in this order."""
    makers = {"serve": _serve, "init": _init, "step": _step, "steps": _steps}
    stream = None if tuple(names) == ("serve",) else Stream(model)
    return [makers[name](model, stream) for name in names]


def _serve(model, stream):
    def serve(x):
        return model(x, training=False)

    return Endpoint("serve", serve, [specs(model)])


def _init(model, stream):
    batch_size = keras.InputSpec(dtype="int32", shape=(), name="batch_size")
    return Endpoint("init", stream.get_initial_state, [batch_size])


def _step(model, stream):
    def step(x, state):
        return _named(*stream.step(x, state))

    def shape_of(tensor):
        batch, *rest = tensor.shape
        return (batch, *(rest[1:] if is_sequence(tensor) else rest))

    return Endpoint("step", step, [specs(model, shape_of), _states(stream)])


def _steps(model, stream):
    def steps(x, state):
        return _named(*stream.steps(x, state))

    return Endpoint("steps", steps, [specs(model), _states(stream)])


def _states(stream):
    return {
        name: keras.InputSpec(dtype=dtype, shape=(None, *shape), name=name)
        for name, (shape, dtype) in stream.state_shapes.items()
    }


def _named(y, state):
    y = keras.tree.flatten(y)
    names = [f"outputs_{index}" for index in range(len(y))]
    names = ["outputs"] if len(y) == 1 else names
    return {**dict(zip(names, y, strict=True)), **state}
