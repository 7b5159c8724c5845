"""Masked positions may hold anything."""

import numpy as np
import pytest
from compare import assert_same
from layer_harness import (
    LAYERS,
    as_array,
    both_directions,
    each_layer,
    each_mask,
    layer_gradients,
    make,
    mask_of,
    needs_gradients,
    sequences,
)

from keras_ssm.layers import Mamba


def spoiled(x, mask, value):
    return np.where(mask[..., None], x, np.float32(value))


@each_layer
@each_mask
@pytest.mark.parametrize("value", [np.nan, np.inf, 1e30])
def test_masked_positions_change_no_output_and_no_state(
    layer_class, padding, value
):
    x, mask = sequences(), mask_of(padding)
    layer = make(layer_class, return_state=True)
    clean = layer(spoiled(x, mask, 0), mask=mask)
    for actual, expected in zip(
        layer(spoiled(x, mask, value), mask=mask), clean, strict=True
    ):
        assert_same(as_array(actual), as_array(expected))


@each_layer
@both_directions
def test_outputs_at_masked_positions_are_zero(layer_class, go_backwards):
    mask = mask_of("holes")
    bias = {"use_bias": True} if layer_class is Mamba else {}
    layer = make(layer_class, go_backwards=go_backwards, **bias)
    x = spoiled(sequences(), mask, np.nan)
    y = as_array(layer(x, mask=mask))
    mask = mask[:, ::-1] if go_backwards else mask
    assert (y[~mask] == 0).all()
    assert (y[mask] != 0).all()


@needs_gradients
@each_layer
def test_masked_positions_change_no_gradient_and_have_none(layer_class):
    x, mask = sequences(), mask_of("holes")
    layer = make(layer_class)
    cotangent = sequences(seed=5)
    results = [
        layer_gradients(layer, spoiled(x, mask, value), cotangent, mask=mask)[1]
        for value in (0, np.nan)
    ]
    for name, expected in results[0].items():
        assert np.abs(expected).max() > 0, name
        assert_same(results[1][name], expected, name)
    assert (results[1]["x"][~mask] == 0).all()


def test_without_a_mask_nan_is_seen():
    x = sequences()
    x[0, 0] = np.nan
    for layer_class in LAYERS:
        assert np.isnan(as_array(make(layer_class)(x))).any()


def test_masks_of_integers_count_as_true_where_they_are_not_zero():
    x, mask = sequences(), mask_of("right")
    layer = make(Mamba)
    assert_same(
        as_array(layer(x, mask=mask.astype("int32"))),
        as_array(layer(x, mask=mask)),
    )
