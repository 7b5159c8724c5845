"""What is wrong is said in a sentence, with what to do."""

import keras
import numpy as np
import pytest
from layer_harness import (
    BATCH,
    LENGTH,
    WIDTH,
    each_layer,
    make,
    random_states,
    sequences,
)

from keras_ssm.layers import LogUniformDt, Mamba


@each_layer
@pytest.mark.parametrize(
    "name", ["state_dim", "conv_kernel_size", "expand", "dt_rank"]
)
@pytest.mark.parametrize("size", [0, -1, 2.5, True])
def test_sizes_are_positive_integers(layer_class, name, size):
    expected = rf"`{name}` must be a positive integer. Received: {name}={size}"
    with pytest.raises(ValueError, match=expected):
        layer_class(**{name: size})


@each_layer
def test_input_has_three_axes(layer_class):
    with pytest.raises(ValueError, match=r"shape \(batch, length, width\)"):
        layer_class()(np.zeros((2, 5), "float32"))
    with pytest.raises(ValueError, match=r"shape \(batch, length, width\)"):
        layer_class()(keras.Input((4, 5, 6)))


@each_layer
def test_width_of_the_input_is_known(layer_class):
    with pytest.raises(ValueError, match="with a known width"):
        layer_class()(keras.Input((None, None)))


@each_layer
def test_width_of_the_input_stays_the_same(layer_class):
    layer = make(layer_class)
    with pytest.raises(ValueError, match=f"{WIDTH}"):
        layer(np.zeros((BATCH, LENGTH, WIDTH + 1), "float32"))


@each_layer
def test_number_of_states_is_checked(layer_class):
    layer = make(layer_class)
    states = random_states(layer)
    with pytest.raises(ValueError, match="the state must be 2 tensors"):
        layer(sequences(), initial_state=states[:1])
    with pytest.raises(ValueError, match="the state must be 2 tensors"):
        layer.step(sequences()[:, 0], (*states, states[0]))


@each_layer
def test_shapes_of_states_are_checked(layer_class):
    layer = make(layer_class)
    expected = r"shapes \(batch, 3, 12\), \(batch, 12, 4\).*get_initial_state"
    with pytest.raises(ValueError, match=expected):
        layer(sequences(), initial_state=random_states(layer)[::-1])
    with pytest.raises(ValueError, match=expected):
        layer.step(sequences()[:, 0], random_states(layer)[::-1])


@each_layer
def test_states_have_the_batch_size_of_the_input(layer_class):
    layer = make(layer_class)
    states = random_states(layer, batch=BATCH + 1)
    with pytest.raises(ValueError, match="initial_state.*must have shape"):
        layer(sequences(), initial_state=states)


@each_layer
def test_stateful_layer_needs_a_batch_size(layer_class):
    with pytest.raises(ValueError, match="needs a fixed batch size; pass"):
        layer_class(stateful=True)(keras.Input((None, WIDTH)))


@each_layer
def test_stateful_layer_keeps_its_batch_size(layer_class):
    layer = make(layer_class, batch=BATCH, stateful=True)
    with pytest.raises(ValueError, match="initial_state.*must have shape"):
        layer(sequences(batch=BATCH - 1))


@each_layer
def test_initial_state_needs_a_built_layer(layer_class):
    with pytest.raises(ValueError, match="the width is not known yet"):
        layer_class().get_initial_state(2)


@each_layer
def test_unknown_argument_is_named(layer_class):
    with pytest.raises((TypeError, ValueError), match="units"):
        layer_class(units=4)


def test_bounds_of_step_sizes_are_ordered():
    with pytest.raises(ValueError, match="0 < minimum <= maximum"):
        LogUniformDt(0.1, 0.01)


def test_unknown_initializer_is_named():
    with pytest.raises(ValueError, match="no_such_thing"):
        Mamba(kernel_initializer="no_such_thing")
