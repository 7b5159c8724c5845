"""A classifier of whole texts, whatever their padding."""

import keras
import numpy as np
import pytest
from compare import as_array, assert_close, assert_same
from harness import BACKEND, needs_gradients
from model_harness import backbone, padded_tokens, randomize

from keras_ssm.models import TextClassifier

pytestmark = needs_gradients


def classifier(name="mamba", classes=3, **options):
    keras.utils.set_random_seed(0)
    return randomize(TextClassifier(backbone(name), classes, **options))


def test_probabilities_are_those_of_the_average_of_real_tokens():
    model, tokens = classifier(dropout=0.5), padded_tokens()
    y = model.backbone.predict(tokens, verbose=0)
    average = y.sum(1) / (tokens != 0).sum(1, keepdims=True)
    kernel, bias = model.get_layer("classes").get_weights()
    logits = average @ kernel + bias
    expected = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    assert_close(model.predict(tokens, verbose=0), expected, "float32")


def test_a_text_of_nothing_but_padding_has_an_average_of_0():
    model, tokens = classifier(activation=None), padded_tokens()
    tokens[1] = 0
    bias = model.get_layer("classes").get_weights()[1]
    assert_close(model.predict(tokens, verbose=0)[1], bias, "float32")
    model.compile()
    loss, _ = model.evaluate(tokens, np.array([0, 1, 2]), verbose=0)
    assert np.isfinite(loss)


def test_training_learns_which_token_there_is():
    rng = np.random.default_rng(0)
    tokens = rng.integers(4, 20, (64, 8))
    labels = np.arange(64) % 2
    tokens[np.arange(64), rng.integers(0, 6, 64)] = 1 + labels
    tokens[::3, 6:] = 0
    model = classifier(classes=2)
    model.compile(keras.optimizers.Adam(0.02))
    model.fit(tokens, labels, batch_size=32, epochs=15, verbose=0)
    _, accuracy = model.evaluate(tokens, labels, verbose=0)
    assert accuracy > 0.95


@pytest.mark.parametrize(
    "activation",
    [
        pytest.param(
            activation,
            marks=()
            if BACKEND == "torch" or activation == "softmax"
            else pytest.mark.slow,
        )
        for activation in ("softmax", "sigmoid", None)
    ],
)
def test_saved_model_comes_back_and_keeps_its_loss(activation, tmp_path):
    model, tokens = classifier(activation=activation), padded_tokens()
    labels = np.array([2, 0, 1])
    if activation == "sigmoid":
        labels = np.eye(3)[labels]
    model.compile()
    expected = model.predict(tokens, verbose=0)
    found = model.evaluate(tokens, labels, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert isinstance(loaded, TextClassifier)
    assert loaded.get_config() == model.get_config()
    assert_same(loaded.predict(tokens, verbose=0), expected)
    assert loaded.evaluate(tokens, labels, verbose=0) == pytest.approx(found)


def test_loss_is_the_cross_entropy_of_the_outputs():
    tokens, labels = padded_tokens(), np.array([2, 0, 1])
    for activation in ("softmax", None):
        model = classifier(activation=activation)
        model.compile()
        y = model.predict(tokens, verbose=0).astype("float64")
        if activation is None:
            y = np.exp(y) / np.exp(y).sum(1, keepdims=True)
        expected = -np.log(y[np.arange(3), labels]).mean()
        loss, _ = model.evaluate(tokens, labels, verbose=0)
        assert loss == pytest.approx(expected, rel=1e-5)


def test_outputs_are_float32_in_half_precision():
    model = TextClassifier(backbone(dtype="mixed_bfloat16"), 2)
    y = as_array(model(padded_tokens()))
    assert y.dtype == "float32"


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (
            lambda: TextClassifier(keras.Sequential(), 2),
            "`TextClassifier`: `backbone` must be a `HybridBackbone`",
        ),
        (lambda: TextClassifier(backbone(), 0), "`classes` must be a positive"),
    ],
)
def test_what_does_not_fit_is_explained(make, sentence):
    with pytest.raises(ValueError, match=sentence):
        make()
