"""The conventions that every sequence layer of this library follows."""

import keras
from keras import ops

from keras_ssm.layers import inputs
from keras_ssm.layers.dense import ProjectionLayer
from keras_ssm.ops.steps import take_steps


class SequenceLayer(ProjectionLayer):
    """Base of layers that speak the language of `keras.layers.LSTM`.

    It turns a mixer, which maps a sequence and states to a sequence and
    states, into a layer with `return_sequences`, `return_state`,
    `go_backwards`, `stateful`, `initial_state`, masks and `step`. The output
    is as wide as the input.

    A subclass implements

    - `build_mixer(width)`: creates weights and sublayers;
    - `state_shapes(width)`: the shape of each state, without the batch. The
      first size may be `None`: the number of steps that the state can hold,
      which whoever makes the state chooses;
    - `mix(x, states, mask, reverse, training)` -> `(y, states)`: the whole
      sequence, `(b, l, d)`, with `y` in the order of `x`. Where the states are
      `None`, they begin at 0, and nobody asks for those at the end;
    - `mix_step(x, states, mask)` -> `(y, states)`: one step, `(b, d)`;
    - `output_dtype`, if that is not the compute dtype, and `state_dtypes`, if
      some state is not float32.

    `x` comes in the output dtype, with masked steps set to 0.

    Args:
        return_sequences: Whether to return the output of every step, or only
            that of the last unmasked one.
        return_state: Whether to return `(y, *states)`.
        go_backwards: Whether to process the sequence from its end and return
            the output in that order.
        stateful: Whether the states after a batch are the initial states of
            the next one. Needs a fixed batch size.
        **kwargs: Arguments of `keras.layers.Layer`: `name`, `dtype`,
            `trainable`.
    """

    def __new__(cls, *args, **kwargs):
        inputs.check_arguments(cls, args, kwargs)
        return super().__new__(cls, *args, **kwargs)

    def __init__(
        self,
        *,
        return_sequences: bool = True,
        return_state: bool = False,
        go_backwards: bool = False,
        stateful: bool = False,
        **kwargs,
    ):
        # Keras would cast float32 states to the compute dtype.
        super().__init__(autocast=False, **kwargs)
        self.return_sequences = return_sequences
        self.return_state = return_state
        self.go_backwards = go_backwards
        self.stateful = stateful
        self.supports_masking = True
        self.states = None
        self._built_width = None

    @property
    def state_dtype(self) -> str:
        """float32; float64 where the layer computes in float64."""
        return "float64" if self.compute_dtype == "float64" else "float32"

    @property
    def state_dtypes(self) -> tuple:
        """The dtype of each state: `state_dtype`, unless a subclass says so."""
        return (self.state_dtype,) * len(self.state_shapes(self.width))

    @property
    def output_dtype(self) -> str:
        """The dtype of the output, unless a subclass says otherwise."""
        return self.compute_dtype

    def build(self, sequences_shape, initial_state_shape=None):
        inputs.check_single(self.name, sequences_shape)
        inputs.check_sequences(self.name, sequences_shape)
        width = sequences_shape[-1]
        self.build_mixer(width)
        self._built_width = width
        if self.stateful:
            self.states = self._state_variables(sequences_shape[0], width)

    @property
    def width(self) -> int:
        """That of the input and of the output, known once it is built."""
        if self._built_width is None:
            raise ValueError(
                f"{self.name}: the width is not known yet. Call the layer on "
                "a sequence, or `layer.build((None, None, width))`, before "
                "`get_initial_state`."
            )
        return self._built_width

    def _state_variables(self, batch_size, width):
        if grows(self.state_shapes(width)):
            raise ValueError(
                f"{self.name}: `stateful=True` needs states of a fixed size, "
                "and these grow with the context. Hand them on yourself: "
                "`return_state=True` with `initial_state=...`. "
                "Received: stateful=True."
            )
        if batch_size is None:
            raise ValueError(
                f"{self.name}: `stateful=True` needs a fixed batch size; pass "
                "`batch_shape=(batch, length, width)` to `keras.Input`. "
                "Received: batch size None."
            )
        return [
            self.add_weight(
                shape=(batch_size, *shape),
                dtype=dtype,
                initializer="zeros",
                trainable=False,
                autocast=False,
                name=f"state_{index}",
            )
            for index, (shape, dtype) in enumerate(
                zip(self.state_shapes(width), self.state_dtypes, strict=True)
            )
        ]

    def parameter(self, name, shape, initializer):
        """Creates a parameter that is float32 under every dtype policy.

        float64 where the layer computes in float64.
        """
        return self.add_weight(
            shape=shape,
            initializer=initializer,
            dtype=self.state_dtype,
            autocast=False,
            name=name,
        )

    def call(
        self,
        sequences,
        initial_state=None,
        mask=None,
        sequences_mask=None,
        training=None,
    ):
        # Keras fills `mask` if the sequences come alone, `sequences_mask` if
        # they come with an initial state.
        x, mask = self._select_input(
            sequences, sequences_mask if mask is None else mask
        )
        states = self._initial_states(x, initial_state)
        y, states = self.mix(x, states, mask, self.go_backwards, training)
        if self.stateful:
            for variable, state in zip(self.states, states, strict=True):
                variable.assign(state)
        y = self._select_output(_select(mask, y), mask)
        return (y, *states) if self.return_state else y

    def _select_input(self, sequences, mask):
        """The sequences with masked steps set to 0, and a boolean mask."""
        inputs.check_sequences(self.name, sequences.shape, self.width)
        if mask is not None:
            mask = ops.cast(mask, "bool")
            inputs.check_mask(self.name, mask, sequences)
        return _select(mask, ops.cast(sequences, self.output_dtype)), mask

    def _initial_states(self, x, initial_state):
        if initial_state is not None:
            return self._check_states(initial_state, x)
        if self.stateful:
            return self._check_states(self.states, x)
        if not self.return_state:
            return None
        self._check_sizes_are_known(x.shape[-1])
        return self.get_initial_state(ops.shape(x)[0])

    def _check_sizes_are_known(self, width):
        if grows(self.state_shapes(width)):
            raise ValueError(
                f"{self.name}: `return_state=True` needs an initial state, "
                "whose size says how much of the context states may hold. Pass "
                "`initial_state=layer.get_initial_state(batch_size, length)`. "
                "Received: initial_state=None."
            )

    def _check_states(self, states, x):
        shapes = self.state_shapes(self.width)
        states = (
            tuple(states) if isinstance(states, (tuple, list)) else (states,)
        )
        if len(states) != len(shapes) or not all(
            map(_fits, (state.shape[1:] for state in states), shapes)
        ):
            expected = ", ".join(
                f"({', '.join(map(str, ('batch', *_filled(shape, 'length'))))})"
                for shape in shapes
            )
            raise ValueError(
                f"{self.name}: the state must be {_count(shapes)} of "
                f"shapes {expected}, as `get_initial_state` and "
                "`return_state=True` give them. Received: shapes "
                f"{[tuple(state.shape) for state in states]}."
            )
        inputs.check_batch(self.name, states, x)
        return tuple(
            ops.cast(state, dtype)
            for state, dtype in zip(states, self.state_dtypes, strict=True)
        )

    def _select_output(self, y, mask):
        if self.return_sequences:
            return ops.flip(y, axis=1) if self.go_backwards else y
        if mask is None:
            return y[:, 0] if self.go_backwards else y[:, -1]
        mask = ops.cast(mask, "int32")
        if self.go_backwards:
            last = ops.argmax(mask, axis=1)
        else:
            length = ops.shape(mask)[1]
            last = length - 1 - ops.argmax(ops.flip(mask, axis=1), axis=1)
        return take_steps(y, ops.expand_dims(last, 1))[:, 0]

    def step(self, x, state, mask=None):
        """Processes one time step in constant time and memory.

        Args:
            x: Input of one step, `(b, d)`.
            state: States, as from `get_initial_state` or an earlier step.
                They are not changed.
            mask: Boolean, `(b,)`: rows where it is False keep their state
                and give 0.

        Returns:
            `(y, state)`: the output `(b, d)`, and a tuple of states.

        Example:

        ```python
        state = layer.get_initial_state(batch_size=1)
        for x in stream:
            y, state = layer.step(x, state)
        ```
        """
        if not self.built:
            self.build((None, None, x.shape[-1]))
        inputs.check_step(self.name, x.shape, self.width)
        x = ops.cast(x, self.output_dtype)
        states = self._check_states(state, x)
        x = _select(mask, x)
        y, states = self.mix_step(x, states, mask)
        return _select(mask, y), tuple(states)

    def steps(self, x, state, mask=None):
        """Processes the next time steps, as `step` would one after another.

        Args:
            x: Inputs of the steps, `(b, l, d)`.
            state: States, as from `get_initial_state` or earlier steps. They
                are not changed.
            mask: Boolean, `(b, l)`. Masked steps are skipped and give 0.

        Returns:
            `(y, state)`: the outputs `(b, l, d)`, and a tuple of states.
        """
        states = self._check_states(state, x)
        x, mask = self._select_input(x, mask)
        y, states = self.mix(x, states, mask, False, False)
        return _select(mask, y), tuple(states)

    def get_initial_state(self, batch_size, length=None):
        """The states before the first step, zeros, as a tuple.

        Args:
            batch_size: Number of rows.
            length: Number of steps that states which grow with the context
                can hold. States of a fixed size ignore it.
        """
        inputs.check_integers(self.name, batch_size=batch_size, length=length)
        shapes = self.state_shapes(self.width)
        if length is None and grows(shapes):
            raise ValueError(
                f"{self.name}: the states grow with the context, so that "
                "`get_initial_state(batch_size, length)` needs the number of "
                "steps that they can hold. Received: length=None."
            )
        return tuple(
            ops.zeros((batch_size, *_filled(shape, length)), dtype)
            for shape, dtype in zip(shapes, self.state_dtypes, strict=True)
        )

    def reset_state(self):
        """Sets the states of a `stateful` layer to zero."""
        for variable in self.states or ():
            variable.assign(ops.zeros_like(variable.value))

    def compute_mask(self, inputs, previous_mask):
        mask = previous_mask
        if isinstance(mask, (tuple, list)):
            mask = mask[0]
        if not self.return_sequences:
            mask = None
        elif mask is not None and self.go_backwards:
            mask = ops.flip(mask, axis=1)
        if not self.return_state:
            return mask
        return [mask] + [None for _ in self.state_shapes(inputs.shape[-1])]

    def compute_output_shape(self, sequences_shape, initial_state_shape=None):
        batch, length, width = sequences_shape
        y = (batch, width)
        if self.return_sequences:
            y = (batch, length, width)
        if not self.return_state:
            return y
        return (y, *((batch, *s) for s in self.state_shapes(width)))

    def compute_output_spec(self, sequences, initial_state=None, **kwargs):
        inputs.check_single(self.name, sequences)
        inputs.check_sequences(self.name, sequences.shape, self._built_width)
        shapes = self.compute_output_shape(sequences.shape)
        if not self.return_state:
            return keras.KerasTensor(shapes, self.output_dtype)
        y, *states = shapes
        if initial_state is None:
            self._check_sizes_are_known(sequences.shape[-1])
        return (
            keras.KerasTensor(y, self.output_dtype),
            *map(keras.KerasTensor, states, self.state_dtypes),
        )

    def get_config(self):
        return {
            **super().get_config(),
            "return_sequences": self.return_sequences,
            "return_state": self.return_state,
            "go_backwards": self.go_backwards,
            "stateful": self.stateful,
        }


def grows(shapes) -> bool:
    """Whether the size of a state is chosen by whoever makes it."""
    return any(None in shape for shape in shapes)


def _filled(shape, length):
    return tuple(length if size is None else size for size in shape)


def _fits(sizes, shape):
    """Whether the sizes of a state are those that it must have."""
    return len(sizes) == len(shape) and all(
        wanted in (None, size)
        for size, wanted in zip(sizes, shape, strict=True)
    )


def _select(mask, v):
    """`v` where the mask is True, else 0, whatever `v` holds there."""
    if mask is None:
        return v
    return ops.where(ops.expand_dims(mask, -1), v, ops.zeros_like(v))


def _count(shapes):
    return "1 tensor" if len(shapes) == 1 else f"{len(shapes)} tensors"
