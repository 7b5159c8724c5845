"""The functions of an exported model, with what they take."""

import dataclasses

import keras

from keras_ssm.serving import texts
from keras_ssm.serving.formats import strings
from keras_ssm.serving.samples import all_layers
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


def make_endpoints(model, names, wrap=lambda function: function) -> list:
    """The endpoints of these names, in this order.

    Args:
        model: The model.
        names: Of the endpoints.
        wrap: Function from what an endpoint computes to the same, compiled. It
            has no strings in it.
    """
    makers = {
        "serve": _serve,
        "init": _init,
        "step": _step,
        "steps": _steps,
        "serve_text": _serve_text,
        "steps_text": _steps_text,
    }
    stream = Stream(model) if needs_stream(names) else None
    return [makers[name](model, stream, wrap) for name in names]


def needs_stream(names) -> bool:
    """Whether some of these endpoints are those of a stream."""
    return not set(names) <= {"serve", "serve_text"}


def _serve(model, stream, wrap):
    def serve(x):
        return model(x, training=False)

    return Endpoint("serve", wrap(serve), [specs(model)])


def _init(model, stream, wrap):
    batch_size = keras.InputSpec(dtype="int32", shape=(), name="batch_size")
    return Endpoint("init", stream.get_initial_state, [batch_size])


def _step(model, stream, wrap):
    def step(x, state):
        return _named(*stream.step(x, state))

    def shape_of(tensor):
        batch, *rest = tensor.shape
        return (batch, *(rest[1:] if is_sequence(tensor) else rest))

    signature = [specs(model, shape_of), _states(stream)]
    return Endpoint("step", wrap(step), signature)


def _steps(model, stream, wrap):
    def steps(x, state):
        return _named(*stream.steps(x, state))

    return Endpoint("steps", wrap(steps), [specs(model), _states(stream)])


def _serve_text(model, stream, wrap):
    serve = _serve(model, stream, wrap).function
    read = _reader(model)

    def serve_text(text):
        return serve(read(text))

    return Endpoint("serve_text", serve_text, [_text()])


def _steps_text(model, stream, wrap):
    steps = _steps(model, stream, wrap).function
    read = _reader(model)

    def steps_text(text, state):
        return steps(read(text), state)

    return Endpoint("steps_text", steps_text, [_text(), _states(stream)])


def _reader(model):
    """The function from texts to what the model takes."""
    padding = texts.padding_of(all_layers(model))
    if padding is None and texts.reads_masks(model):
        padding = 0

    def read(text):
        return texts.inputs_from(model, *strings.decode(text, padding))

    return read


def _text():
    return keras.InputSpec(dtype="string", shape=(None,), name="text")


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
