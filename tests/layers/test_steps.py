"""A layer runs step by step, by itself and as a cell of `keras.layers.RNN`."""

import keras
import numpy as np
import pytest
from compare import assert_same
from layer_harness import (
    BATCH,
    WIDTH,
    as_array,
    assert_close,
    each_layer,
    layer_gradients,
    make,
    mask_of,
    needs_gradients,
    random_states,
    sequences,
    small,
    state_dtypes,
    traits,
    twin,
)

import keras_ssm
from keras_ssm.layers import StepCell


def by_steps(layer, x, state, mask=None):
    """Runs a layer over a sequence with `step`."""
    outputs = []
    for t in range(x.shape[1]):
        live = None if mask is None else mask[:, t]
        y, state = layer.step(x[:, t], state, mask=live)
        outputs.append(as_array(y))
    return np.stack(outputs, axis=1), state


@each_layer
@pytest.mark.parametrize(
    ("policy", "padding"),
    [
        ("float32", None),
        ("float32", "holes"),
        ("mixed_bfloat16", "holes"),
        ("mixed_float16", None),
        ("bfloat16", None),
    ],
)
def test_steps_equal_the_sequence(layer_class, policy, padding):
    x = sequences()
    mask = None if padding is None else mask_of(padding)
    layer = make(layer_class, dtype=policy, return_state=True)
    initial = random_states(layer)
    expected, *end = layer(x, initial_state=initial, mask=mask)
    actual, state = by_steps(layer, x, initial, mask)
    dtype = layer.output_dtype
    tolerance = layer.compute_dtype
    assert keras.backend.standardize_dtype(expected.dtype) == dtype
    assert str(actual.dtype) == dtype
    assert_close(
        actual.astype(tolerance), as_array(expected), tolerance, name="y"
    )
    dtypes = state_dtypes(layer_class, policy)
    for one, other, dtype in zip(state, end, dtypes, strict=True):
        assert keras.backend.standardize_dtype(one.dtype) == dtype
        other = as_array(other).astype("float32")
        assert_close(as_array(one).astype(tolerance), other, tolerance)


@each_layer
def test_a_step_leaves_the_state_it_is_given_alone(layer_class):
    layer = make(layer_class)
    state = tuple(keras.ops.convert_to_tensor(s) for s in random_states(layer))
    before = [np.array(as_array(s)) for s in state]
    layer.step(sequences()[:, 0], state)
    for tensor, copy in zip(state, before, strict=True):
        assert_same(as_array(tensor), copy)


@each_layer
def test_a_step_keeps_the_state_of_masked_rows_whatever_they_hold(layer_class):
    layer = make(layer_class)
    x, state = sequences()[:, 0], random_states(layer)
    x[1] = np.nan
    live = np.array([True, False, True])
    y, after = layer.step(x, state, mask=live)
    assert (as_array(y)[1] == 0).all()
    assert np.isfinite(as_array(y)).all()
    for one, other in zip(after, state, strict=True):
        assert_same(as_array(one)[1], other[1])


@needs_gradients
@each_layer
def test_a_step_keeps_masked_rows_out_of_the_gradients(layer_class):
    layer = make(layer_class)
    state = random_states(layer)
    live = np.array([True, False, True])
    results = []
    for spoiled in (0, np.nan):
        x = sequences()[:, 0]
        x[1] = spoiled
        results.append(
            layer_gradients(
                lambda x: layer.step(x, state, mask=live)[0],
                x,
                sequences(seed=5)[:, 0],
                of=layer,
            )[1]
        )
    for name, expected in results[0].items():
        assert np.abs(expected).max() > 0, name
        assert_same(results[1][name], expected, name)


@each_layer
def test_a_step_builds_a_layer_that_is_not_built(layer_class):
    layer = small(layer_class)
    empty = [
        np.zeros((BATCH, *shape), "float32")
        for shape in traits(layer_class).states
    ]
    y, _ = layer.step(sequences()[:, 0], empty)
    assert y.shape == (BATCH, WIDTH)


def recurrent(layer, dtype=None, **options):
    """The layer as a cell of `keras.layers.RNN`."""
    return keras.layers.RNN(
        StepCell(layer, WIDTH, dtype=dtype),
        return_sequences=True,
        zero_output_for_mask=True,
        dtype=dtype,
        **options,
    )


@each_layer
@pytest.mark.parametrize("padding", [None, "right", "left"])
def test_cell_in_a_recurrent_layer_equals_the_layer(layer_class, padding):
    x = sequences()
    mask = None if padding is None else mask_of(padding)
    layer = make(layer_class, return_state=True)
    expected = layer(x, mask=mask)
    actual = recurrent(layer, return_state=True)(x, mask=mask)
    for one, other in zip(actual, expected, strict=True):
        other = np.reshape(as_array(other), one.shape)
        assert_close(one, other, "float32")


@each_layer
def test_cell_runs_both_ways(layer_class):
    x = sequences()
    layer = make(layer_class)
    both = keras.layers.Bidirectional(recurrent(layer))
    both.build((None, None, WIDTH))
    forwards, backwards = both.forward_layer.cell, both.backward_layer.cell
    forwards.layer.set_weights(layer.get_weights())
    backwards.layer.set_weights([0.9 * w for w in layer.get_weights()])
    other = twin(layer)
    other.set_weights(backwards.layer.get_weights())
    back = as_array(other(x[:, ::-1]))[:, ::-1]
    expected = np.concatenate([as_array(layer(x)), back], axis=-1)
    assert_close(both(x), expected, "float32")


@each_layer
@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_cell_carries_float32_states_under_a_half_precision_policy(
    layer_class, policy, monkeypatch
):
    x, mask = sequences(), mask_of("right")
    layer = make(layer_class, dtype=policy, return_state=True)
    expected = layer(x, mask=mask)
    seen, step = set(), layer.step

    def spy(inputs, state):
        seen.update(keras.backend.standardize_dtype(s.dtype) for s in state)
        return step(inputs, state)

    monkeypatch.setattr(layer, "step", spy)
    actual = recurrent(layer, return_state=True, dtype=policy)(x, mask=mask)
    assert seen == {"float32"}
    # What leaves the loop is rounded: `RNN` casts it to its compute dtype.
    name = layer.compute_dtype
    for one, other in zip(actual, expected, strict=True):
        other = np.reshape(as_array(other), one.shape).astype("float32")
        assert_close(as_array(one).astype(name), other, name)


@each_layer
def test_cell_is_saved_with_its_layer(layer_class, tmp_path):
    model = keras.Sequential(
        [keras.Input((None, WIDTH)), recurrent(make(layer_class))]
    )
    x = sequences()
    expected = model.predict(x, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert_same(loaded.predict(x, verbose=0), expected)


def test_cells_are_stacked():
    layers = [make(keras_ssm.layers.MambaBlock) for _ in range(2)]
    stack = keras.layers.RNN(
        [StepCell(layer, WIDTH) for layer in layers], return_sequences=True
    )
    x = sequences()
    expected = as_array(layers[1](layers[0](x)))
    assert_close(stack(x), expected, "float32")


def test_cell_of_something_else_says_what_it_takes():
    with pytest.raises(ValueError, match="must be a sequence layer"):
        StepCell(keras.layers.Dense(4), WIDTH)
