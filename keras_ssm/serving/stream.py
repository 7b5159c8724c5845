"""Runs a whole model as a stream: some steps now, more of them later."""

import dataclasses

import keras
from keras import ops

from keras_ssm.layers.sequence_layer import SequenceLayer
from keras_ssm.serving import stepwise
from keras_ssm.serving.signature import (
    check_model,
    flat_inputs,
    is_sequence,
    outputs_of,
)


class Stream:
    """Runs a model on a sequence that arrives bit by bit.

    What a stream gives for a sequence in pieces is what the model gives for
    the whole, in constant memory. Between the pieces, a flat dictionary of
    tensors holds all that has been seen: the states of sequence layers, the
    sum and count of `keras.layers.GlobalAveragePooling1D`, the last output of
    a layer with `return_sequences=False`. All of them begin as zeros.

    Once the model has an output for the whole sequence, such as a class, a
    stream gives that of the sequence so far.

    Args:
        model: A `keras.Sequential` or functional model whose sequences have
            an unknown length: `keras.Input((None, width))`. It consists of
            sequence layers of this library and of layers that work step by
            step, such as `Embedding`, `Dense`, `LayerNormalization`, `Add`.

    Raises:
        ValueError: If the model has no symbolic inputs of unknown length.
        NotImplementedError: If a layer cannot run as a stream; the message
            names it and what to use instead.

    Example:

    ```python
    model = keras.Sequential(
        [
            keras.Input((None,), dtype="int32", name="tokens"),
            keras.layers.Embedding(256, 16, mask_zero=True),
            keras_ssm.layers.MambaBlock(),
            keras.layers.Dense(2, activation="softmax"),
        ]
    )
    stream = keras_ssm.Stream(model)
    state = stream.get_initial_state(batch_size=1)
    for token in [104, 101, 121]:
        y, state = stream.step(np.array([token]), state)  # (1, 2)
    y, state = stream.steps(np.array([[32, 121, 111]]), state)  # (1, 3, 2)
    ```
    """

    def __init__(self, model: keras.Model):
        check_model(model)
        self.model = model
        self._inputs = flat_inputs(model)
        if not any(is_sequence(tensor) for tensor in self._inputs):
            raise ValueError(
                f"`Stream`: the sequences of {model.name!r} must have an "
                "unknown length, as with `keras.Input((None, width))`. "
                "Received: input shapes "
                f"{[tuple(tensor.shape) for tensor in self._inputs]}."
            )
        self._program = _Program(
            model, [is_sequence(tensor) for tensor in self._inputs]
        )

    @property
    def state_shapes(self) -> dict:
        """Shape, without the batch, and dtype of each state, by its name."""
        return {
            f"state_{index}": state
            for index, state in enumerate(self._program.states)
        }

    @property
    def gives_sequences(self) -> list:
        """Whether each output of the model is a sequence, in flat order."""
        return self._program.sequences

    def get_initial_state(self, batch_size):
        """The states before the first step, zeros, as a dictionary.

        Args:
            batch_size: Number of rows.
        """
        return {
            name: ops.zeros((batch_size, *shape), dtype)
            for name, (shape, dtype) in self.state_shapes.items()
        }

    def steps(self, x, state: dict):
        """Processes the next steps of every sequence.

        Args:
            x: What the model takes, of any length.
            state: As from `get_initial_state` or earlier steps. It is not
                changed.

        Returns:
            `(y, state)`: what the model gives, and the new state.
        """
        self._check_state(state)
        x = [ops.convert_to_tensor(v) for v in keras.tree.flatten(x)]
        states = [state[name] for name in self.state_shapes]
        y, states = self._program(x, states)
        y = keras.tree.pack_sequence_as(outputs_of(self.model), y)
        return y, dict(zip(self.state_shapes, states, strict=True))

    def step(self, x, state: dict):
        """Processes one step of every sequence, in constant time.

        Args:
            x: What the model takes, without the axis of time: `(b,)` tokens
                or `(b, d)` values.
            state: See `steps`.

        Returns:
            `(y, state)`: what the model gives for the step, without the axis
            of time, and the new state.
        """
        x = [
            ops.expand_dims(v, 1) if is_sequence(tensor) else v
            for v, tensor in zip(
                keras.tree.flatten(x), self._inputs, strict=True
            )
        ]
        y, state = self.steps(x, state)
        y = [
            v[:, 0] if sequence else v
            for v, sequence in zip(
                keras.tree.flatten(y), self.gives_sequences, strict=True
            )
        ]
        return keras.tree.pack_sequence_as(outputs_of(self.model), y), state

    def _check_state(self, state):
        if set(state) != set(self.state_shapes):
            raise ValueError(
                "`Stream`: the state must be a dictionary with the keys "
                f"{list(self.state_shapes)}, as `get_initial_state` gives it. "
                f"Received: keys {list(state)}."
            )


@dataclasses.dataclass
class _Call:
    """One operation of a model, on the symbolic tensors it was recorded on."""

    function: object  # of the arguments, and the states if it has any
    states: list
    args: tuple
    kwargs: dict
    outputs: list


class _Program:
    """The operations of a model in their order, each ready for a stream.

    Args:
        model: A `keras.Sequential` or functional model.
        sequences: Whether each of its inputs is a sequence.
    """

    def __init__(self, model, sequences):
        self.inputs, self.outputs, recorded = _record(model)
        over_time = {
            id(tensor)
            for tensor, sequence in zip(self.inputs, sequences, strict=True)
            if sequence
        }
        self.calls = [_plan(over_time, *call) for call in recorded]
        self.states = [state for call in self.calls for state in call.states]
        self.sequences = [id(tensor) in over_time for tensor in self.outputs]

    def __call__(self, inputs, states):
        """Returns the outputs and the new states, as flat lists."""
        values = dict(zip(map(id, self.inputs), inputs, strict=True))
        states, after = iter(states), []

        def fill_in(argument):
            return values.get(id(argument), argument)

        for call in self.calls:
            args, kwargs = keras.tree.map_structure(
                fill_in, (call.args, call.kwargs)
            )
            if call.states:
                before = [next(states) for _ in call.states]
                results = call.function(*args, before, **kwargs)
                after += results[-len(before) :]
                results = results[: -len(before)]
            else:
                results = call.function(*args, **kwargs)
            results = keras.tree.flatten(results)
            values.update(zip(map(id, call.outputs), results, strict=True))
        return [values[id(tensor)] for tensor in self.outputs], after


def _plan(over_time, operation, args, kwargs, outputs):
    """Makes a recorded operation ready; notes whether it gives sequences."""
    sequences = [
        id(argument) in over_time
        for argument in keras.tree.flatten((args, kwargs))
    ]
    if not any(sequences):
        return _Call(operation, [], args, kwargs, outputs)
    states, gives = [], [True] * len(outputs)
    if isinstance(operation, SequenceLayer):
        stepwise.check_arguments(operation, args, kwargs)
        function = stepwise.CarriedLayer(operation)
        states, gives = function.state_shapes, [operation.return_sequences]
    elif isinstance(operation, keras.layers.GlobalAveragePooling1D):
        function = stepwise.RunningAverage(operation, args[0].shape[-1])
        states, gives = function.state_shapes, [False]
    elif isinstance(operation, keras.Model):
        function = _Nested(
            operation,
            [id(v) in over_time for v in keras.tree.flatten(args)],
        )
        states, gives = function.states, function.sequences
    else:
        stepwise.check(operation)
        function = operation
    over_time.update(
        id(tensor)
        for tensor, sequence in zip(outputs, gives, strict=True)
        if sequence
    )
    return _Call(function, states, args, kwargs, outputs)


class _Nested(_Program):
    """A model inside a model."""

    def __init__(self, model, sequences):
        check_model(model)
        super().__init__(model, sequences)

    def __call__(self, x, states, mask=None):
        inputs = keras.tree.flatten(x)
        if mask is not None:
            mark = stepwise.Marked()
            masks = keras.tree.flatten(mask)
            inputs = [
                v if live is None else mark(v, mask=live)
                for v, live in zip(inputs, masks, strict=True)
            ]
        outputs, states = super().__call__(inputs, states)
        return *outputs, *states


class _Recorded(keras.Operation):
    """Stands for an operation of a model in the record of its calls."""

    def __init__(self, operation):
        super().__init__()
        self.operation = operation

    def call(self, *args, **kwargs):
        return self.operation(*args, **kwargs)

    def compute_output_spec(self, *args, **kwargs):
        return self.operation.compute_output_spec(*args, **kwargs)


def _record(model):
    """Returns symbolic inputs and outputs of a model, and its calls between.

    The layers themselves are not called: it would change what Keras knows
    about them, such as `layer.output`.
    """
    calls = []

    def record(operation, *args, **kwargs):
        outputs = _Recorded(operation).symbolic_call(*args, **kwargs)
        calls.append((operation, args, kwargs, keras.tree.flatten(outputs)))
        return outputs

    if isinstance(model, keras.Sequential):
        (tensor,) = inputs = [
            keras.KerasTensor(v.shape, v.dtype) for v in flat_inputs(model)
        ]
        for layer in model.layers:
            tensor = record(layer, tensor)
        return inputs, [tensor], calls
    twin = keras.models.clone_model(
        model, clone_function=lambda layer: layer, call_function=record
    )
    return flat_inputs(twin), keras.tree.flatten(outputs_of(twin)), calls
