"""Sequence layers inside Keras models."""

import keras
import numpy as np
import pytest
from compare import assert_same
from layer_harness import (
    BATCH,
    LENGTH,
    WIDTH,
    MaskProbe,
    as_array,
    assert_close,
    both_directions,
    each_layer,
    make,
    mask_of,
    random_states,
    sequences,
    small,
    twin,
)

TOKENS = np.array(
    [[3, 1, 4, 1, 5, 2, 6, 5, 3], [2, 7, 1, 8, 0, 0, 0, 0, 0], [0] * 8 + [1]]
)


def embedding():
    return keras.layers.Embedding(10, WIDTH, mask_zero=True)


def predict(model, *inputs):
    inputs = inputs[0] if len(inputs) == 1 else list(inputs)
    return model.predict(inputs, verbose=0)


@each_layer
def test_sequential_gives_what_the_layer_gives(layer_class):
    layer = make(layer_class)
    model = keras.Sequential([keras.Input((LENGTH, WIDTH)), layer])
    x = sequences()
    assert_close(predict(model, x), as_array(layer(x)), "float32")


@each_layer
def test_stacked_in_sequential_states_make_an_error_that_says_what_to_do(
    layer_class,
):
    with pytest.raises(ValueError, match="set `return_state=False`"):
        keras.Sequential(
            [
                keras.Input((None, WIDTH)),
                small(layer_class, return_state=True),
                small(layer_class),
            ]
        )


@each_layer
def test_several_tensors_as_the_input_make_the_same_error(layer_class):
    x = sequences()
    with pytest.raises(ValueError, match="the input must be one tensor"):
        small(layer_class)([x, x])


@each_layer
@both_directions
def test_functional_model_takes_and_returns_states(layer_class, go_backwards):
    layer = make(layer_class, return_state=True, go_backwards=go_backwards)
    x, states = sequences(), random_states(layer)
    inputs = keras.Input((None, WIDTH))
    given = [keras.Input(state.shape[1:]) for state in states]
    model = keras.Model([inputs, *given], layer(inputs, initial_state=given))
    expected = layer(x, initial_state=states)
    for actual, wanted in zip(
        predict(model, x, *states), expected, strict=True
    ):
        assert_close(actual, as_array(wanted), "float32")


@each_layer
def test_length_and_batch_may_be_unknown(layer_class):
    layer = make(layer_class, return_state=True)
    inputs = keras.Input((None, WIDTH))
    outputs = layer(inputs)
    assert outputs[0].shape == (None, None, WIDTH)
    assert {state.shape[0] for state in outputs[1:]} == {None}
    model = keras.Model(inputs, outputs)
    for length, batch in ((LENGTH, 1), (3, 2), (1, BATCH)):
        x = sequences(length, batch)
        for actual, wanted in zip(predict(model, x), layer(x), strict=True):
            assert_close(actual, as_array(wanted), "float32")


@each_layer
@pytest.mark.parametrize("merge_mode", ["concat", "sum"])
@pytest.mark.parametrize("padding", [None, "right", "left"])
def test_bidirectional_merges_the_two_directions(
    layer_class, merge_mode, padding
):
    x = sequences()
    mask = None if padding is None else mask_of(padding)
    both, forwards, backwards = bidirectional(layer_class, merge_mode)
    there = as_array(forwards(x, mask=mask))
    flipped = None if mask is None else mask[:, ::-1]
    back = as_array(backwards(x[:, ::-1], mask=flipped))[:, ::-1]
    expected = (
        np.concatenate([there, back], axis=-1)
        if merge_mode == "concat"
        else there + back
    )
    assert_close(both(x, mask=mask), expected, "float32")


@each_layer
def test_bidirectional_returns_the_last_step_of_each_direction(layer_class):
    x, mask = sequences(), mask_of("right")
    both, forwards, backwards = bidirectional(
        layer_class, "concat", return_sequences=False
    )
    expected = [
        forwards(x, mask=mask),
        backwards(x[:, ::-1], mask=mask[:, ::-1]),
    ]
    expected = np.concatenate([as_array(v) for v in expected], axis=-1)
    assert_close(both(x, mask=mask), expected, "float32")


@each_layer
def test_bidirectional_takes_and_returns_the_states_of_both(layer_class):
    x, mask = sequences(), mask_of("left")
    both, forwards, backwards = bidirectional(
        layer_class, "concat", return_state=True
    )
    there, back = random_states(forwards), random_states(forwards, seed=3)
    y, *states = both(x, initial_state=[*there, *back], mask=mask)
    y1, *states1 = forwards(x, initial_state=there, mask=mask)
    y2, *states2 = backwards(x[:, ::-1], initial_state=back, mask=mask[:, ::-1])
    expected = np.concatenate([as_array(y1), as_array(y2)[:, ::-1]], axis=-1)
    assert_close(y, expected, "float32")
    for actual, wanted in zip(states, states1 + states2, strict=True):
        assert_close(actual, as_array(wanted), "float32")


def bidirectional(layer_class, merge_mode, **options):
    """A `Bidirectional`, and layers that run its directions forwards."""
    layers = [make(layer_class, **options) for _ in range(2)]
    both = keras.layers.Bidirectional(layers[0], merge_mode=merge_mode)
    both.build((None, None, WIDTH))
    forwards = twin(layers[0], name="forwards")
    backwards = twin(layers[1], name="backwards")
    for scale, ours, of_both in (
        (1.0, forwards, both.forward_layer),
        (0.9, backwards, both.backward_layer),
    ):
        weights = [scale * w for w in layers[0].get_weights()]
        ours.set_weights(weights)
        of_both.set_weights(weights)
    return both, forwards, backwards


@each_layer
def test_mask_of_an_embedding_reaches_the_layer(layer_class):
    layer, tokens = make(layer_class), embedding()
    model = keras.Sequential(
        [keras.Input((None,), dtype="int32"), tokens, layer]
    )
    expected = layer(tokens(TOKENS), mask=TOKENS != 0)
    assert_close(predict(model, TOKENS), as_array(expected), "float32")
    without = as_array(layer(as_array(tokens(TOKENS))))
    difference = np.abs(without - as_array(expected)).max()
    assert difference > 0.01 * np.abs(without).max()


@each_layer
@both_directions
@pytest.mark.parametrize("return_state", [False, True])
def test_mask_of_an_embedding_reaches_the_next_layer_in_its_order(
    layer_class, go_backwards, return_state
):
    layer = make(
        layer_class, go_backwards=go_backwards, return_state=return_state
    )
    inputs = keras.Input((None,), dtype="int32")
    y = layer(embedding()(inputs))
    y = y[0] if return_state else y
    model = keras.Model(inputs, MaskProbe()(y))
    expected = (TOKENS != 0).astype("float32")
    expected = expected[:, ::-1] if go_backwards else expected
    assert_same(predict(model, TOKENS), np.ascontiguousarray(expected))


@each_layer
def test_mask_stops_where_the_sequence_does(layer_class):
    layer = make(layer_class, return_sequences=False, return_state=True)
    inputs = keras.Input((None,), dtype="int32")
    outputs = [MaskProbe()(v) for v in layer(embedding()(inputs))]
    model = keras.Model(inputs, outputs)
    for reached in predict(model, TOKENS):
        assert (reached == -1).all()


@each_layer
def test_mask_of_an_embedding_reaches_the_layer_beside_an_initial_state(
    layer_class,
):
    layer, tokens = make(layer_class), embedding()
    states = random_states(layer)
    inputs = keras.Input((None,), dtype="int32")
    given = [keras.Input(state.shape[1:]) for state in states]
    y = layer(tokens(inputs), initial_state=given)
    model = keras.Model([inputs, *given], [y, MaskProbe()(y)])
    actual, reached = predict(model, TOKENS, *states)
    expected = layer(
        as_array(tokens(TOKENS)), initial_state=states, mask=TOKENS != 0
    )
    assert_close(actual, as_array(expected), "float32")
    assert_same(reached, (TOKENS != 0).astype("float32"))
    eager = layer(tokens(TOKENS), initial_state=states)
    assert_close(eager, as_array(expected), "float32")


@each_layer
def test_symbolic_shapes_and_dtypes_are_those_of_the_results(layer_class):
    for options in (
        {},
        {"return_state": True},
        {"return_sequences": False, "return_state": True},
    ):
        layer = make(layer_class, **options)
        spec = layer(keras.KerasTensor((BATCH, LENGTH, WIDTH)))
        result = layer(sequences())
        for wanted, actual in zip(
            spec if isinstance(spec, tuple) else [spec],
            result if isinstance(result, tuple) else [result],
            strict=True,
        ):
            assert wanted.shape == tuple(actual.shape)
            dtype = keras.backend.standardize_dtype(actual.dtype)
            assert wanted.dtype == dtype


@each_layer
def test_building_a_model_runs_no_kernel(layer_class, monkeypatch):
    def run(*args, **kwargs):
        raise AssertionError("a kernel ran")

    monkeypatch.setattr("keras_ssm.ops.dispatch.run", run)
    monkeypatch.setattr("keras.ops.dot_product_attention", run)
    inputs = keras.Input((None,), dtype="int32")
    x = small(layer_class)(embedding()(inputs))
    x = keras.layers.Bidirectional(small(layer_class, return_state=True))(x)[0]
    x, *states = small(layer_class, return_state=True)(x)
    last = small(layer_class, go_backwards=True, return_sequences=False)
    x = last(x, initial_state=states)
    assert keras.Model(inputs, x).output_shape == (None, 2 * WIDTH)
    with pytest.raises(Exception, match="a kernel ran"):
        small(layer_class)(sequences())
