"""Sequence layers speak the language of `keras.layers.LSTM`."""

import keras
import numpy as np
import pytest
from compare import assert_same
from layer_harness import (
    BATCH,
    LAYERS,
    LENGTH,
    WIDTH,
    as_array,
    assert_close,
    both_directions,
    each_layer,
    each_mask,
    make,
    mask_of,
    random_states,
    sequences,
    small,
    state_dtypes,
    traits,
    twin,
)


@each_layer
def test_constructor_takes_keywords_only(layer_class):
    with pytest.raises(TypeError, match="must be keywords"):
        layer_class(16, 16, 16)


@each_layer
def test_output_is_as_wide_as_the_input_and_every_step_is_returned(layer_class):
    layer = small(layer_class)
    assert layer(sequences()).shape == (BATCH, LENGTH, WIDTH)


@each_layer
@both_directions
@pytest.mark.parametrize("padding", [None, "right", "left", "holes"])
def test_without_return_sequences_the_last_unmasked_step_is_returned(
    layer_class, go_backwards, padding
):
    x = sequences()
    mask = None if padding is None else mask_of(padding)
    whole = make(layer_class, go_backwards=go_backwards)
    every = as_array(whole(x, mask=mask))
    live = mask_of("right") | True if mask is None else mask
    live = live[:, ::-1] if go_backwards else live
    last = [np.flatnonzero(row)[-1] for row in live]
    actual = twin(whole, return_sequences=False)(x, mask=mask)
    assert_close(actual, every[np.arange(BATCH), last], "float32")
    assert np.abs(every[np.arange(BATCH), last]).min() > 0


@each_layer
@both_directions
def test_a_row_without_unmasked_steps_gives_zero_and_keeps_its_state(
    layer_class, go_backwards
):
    mask = mask_of("right")
    mask[1] = False
    layer = make(
        layer_class,
        go_backwards=go_backwards,
        return_sequences=False,
        return_state=True,
    )
    given = random_states(layer)
    y, *states = layer(sequences(), initial_state=given, mask=mask)
    assert not as_array(y)[1].any()
    assert as_array(y)[[0, 2]].all()
    for before, after in zip(given, states, strict=True):
        assert_same(as_array(after)[1], before[1])


@each_layer
def test_return_state_gives_a_flat_tuple_in_their_dtypes(layer_class):
    layer = make(layer_class, return_state=True)
    result = layer(sequences())
    assert isinstance(result, tuple)
    shapes = [tuple(v.shape) for v in result]
    assert shapes == [
        (BATCH, LENGTH, WIDTH),
        *((BATCH, *shape) for shape in traits(layer_class).states),
    ]
    dtypes = [keras.backend.standardize_dtype(v.dtype) for v in result[1:]]
    assert dtypes == state_dtypes(layer_class)


@each_layer
@both_directions
@pytest.mark.parametrize("cut", [1, 4])
def test_a_sequence_in_two_parts_with_the_state_handed_over_is_the_whole(
    layer_class, go_backwards, cut
):
    x, mask = sequences(), mask_of("holes")
    layer = make(layer_class, return_state=True, go_backwards=go_backwards)
    whole, *end = layer(x, mask=mask)
    parts = [slice(None, cut), slice(cut, None)]
    parts = parts[::-1] if go_backwards else parts
    first, *state = layer(x[:, parts[0]], mask=mask[:, parts[0]])
    second, *state = layer(
        x[:, parts[1]], initial_state=state, mask=mask[:, parts[1]]
    )
    both = np.concatenate([as_array(first), as_array(second)], axis=1)
    assert_close(both, as_array(whole), "float32")
    for actual, expected in zip(state, end, strict=True):
        assert_close(actual, as_array(expected), "float32")


@each_layer
def test_initial_state_changes_the_output(layer_class):
    layer = make(layer_class)
    x = sequences()
    with_state = as_array(layer(x, initial_state=random_states(layer)))
    assert np.abs(with_state - as_array(layer(x))).max() > 1e-3


@each_layer
@pytest.mark.parametrize("padding", [None, "right", "left", "holes"])
def test_go_backwards_returns_the_layer_on_the_flipped_input(
    layer_class, padding
):
    x = sequences()
    mask = None if padding is None else mask_of(padding)
    flipped = None if mask is None else mask[:, ::-1]
    forwards = make(layer_class, return_state=True)
    expected = forwards(x[:, ::-1], mask=flipped)
    backwards = twin(forwards, go_backwards=True)
    for actual, wanted in zip(backwards(x, mask=mask), expected, strict=True):
        assert_close(actual, as_array(wanted), "float32")


@each_layer
@both_directions
def test_stateful_layer_sees_batches_as_one_long_sequence(
    layer_class, go_backwards
):
    x = sequences(length=8)
    whole = make(layer_class, go_backwards=go_backwards)
    expected = as_array(whole(x))
    layer = twin(whole, batch=BATCH, stateful=True)
    parts = [x[:, :3], x[:, 3:]]
    parts = parts[::-1] if go_backwards else parts
    actual = [as_array(layer(part)) for part in parts]
    assert_close(np.concatenate(actual, axis=1), expected, "float32")


@each_layer
def test_stateful_layer_keeps_its_state_between_calls_of_predict(layer_class):
    x = sequences(length=8)
    whole = make(layer_class)
    layer = twin(whole, batch=BATCH, stateful=True)
    model = keras.Sequential(
        [keras.Input(batch_shape=(BATCH, 4, WIDTH)), layer]
    )
    parts = [
        model.predict(part, batch_size=BATCH, verbose=0)
        for part in (x[:, :4], x[:, 4:])
    ]
    actual = np.concatenate(parts, axis=1)
    assert_close(actual, as_array(whole(x)), "float32")


@each_layer
def test_reset_state_starts_a_stateful_layer_anew(layer_class):
    x = sequences()
    layer = make(layer_class, batch=BATCH, stateful=True)
    first = as_array(layer(x))
    assert np.abs(as_array(layer(x)) - first).max() > 1e-3
    layer.reset_state()
    assert_same(as_array(layer(x)), first)


@each_layer
def test_states_of_a_stateful_layer_are_not_trained(layer_class):
    layer = make(layer_class, batch=BATCH, stateful=True)
    assert len(layer.states) == len(traits(layer_class).states)
    trained = {v.path for v in layer.trainable_variables}
    assert not trained & {v.path for v in layer.states}
    assert {v.path for v in layer.states} <= {
        v.path for v in layer.non_trainable_variables
    }


@each_layer
def test_get_initial_state_is_the_state_before_the_first_step(layer_class):
    layer = make(layer_class)
    state = layer.get_initial_state(batch_size=BATCH)
    assert isinstance(state, tuple)
    x = sequences()
    # S4D and S4 convolve where there is no state.
    expected = as_array(layer(x))
    assert_close(layer(x, initial_state=state), expected, "float32")


def test_arguments_are_called_as_in_lstm():
    lstm = keras.layers.LSTM(4).get_config()
    for layer in LAYERS:
        shared = set(small(layer).get_config()) & set(lstm)
        assert {
            "return_sequences",
            "return_state",
            "go_backwards",
            "stateful",
            "dtype",
            "name",
            "trainable",
        } <= shared


@each_layer
@each_mask
def test_masks_are_skipped_as_if_the_steps_were_not_there(layer_class, padding):
    x, mask = sequences(), mask_of(padding)
    layer = make(layer_class, return_state=True)
    y, *states = (as_array(v) for v in layer(x, mask=mask))
    for row in range(BATCH):
        live = mask[row]
        expected = layer(x[row : row + 1, live])
        actual = [y[row : row + 1, live], *(s[row : row + 1] for s in states)]
        for one, other in zip(actual, expected, strict=True):
            assert_close(one, as_array(other), "float32")


@each_layer
def test_the_same_call_gives_the_same_bits(layer_class):
    layer = make(layer_class)
    x, mask = sequences(), mask_of("holes")
    assert_same(as_array(layer(x, mask=mask)), as_array(layer(x, mask=mask)))
