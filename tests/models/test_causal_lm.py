"""A language model: its logits, its loss, its files."""

import json

import keras
import numpy as np
import pytest
from compare import as_array, assert_close, assert_same
from harness import needs_gradients
from model_harness import (
    VOCABULARY,
    backbone,
    causal_lm,
    each_config,
    padded_tokens,
)

from keras_ssm.models import BitsPerToken, CausalLM, mamba_config

pytestmark = needs_gradients


def log_probabilities(logits):
    logits = logits.astype("float64")
    top = logits.max(-1, keepdims=True)
    return logits - top - np.log(np.exp(logits - top).sum(-1, keepdims=True))


def cross_entropy(logits, targets, weights):
    """The mean over what has a weight, in nats."""
    picked = np.take_along_axis(
        log_probabilities(logits), targets[..., None], -1
    )[..., 0]
    return -(picked * weights).sum() / weights.sum()


def test_logits_are_products_with_the_embedding():
    model, tokens = causal_lm(), padded_tokens()
    y = model.backbone.predict(tokens, verbose=0)
    expected = y @ as_array(model.backbone.token_embedding.embeddings).T
    assert_close(model.predict(tokens, verbose=0), expected, "float32")


def test_untied_and_bounded_logits():
    model, tokens = (
        causal_lm(tie_embeddings=False, logit_soft_cap=0.5),
        padded_tokens(),
    )
    y = model.backbone.predict(tokens, verbose=0)
    expected = y @ as_array(model.get_layer("head").kernel)
    assert np.abs(expected).max() > 0.5
    expected = 0.5 * np.tanh(expected / 0.5)
    assert_close(model.predict(tokens, verbose=0), expected, "float32")


def test_logits_are_float32_in_half_precision():
    for options in ({}, {"tie_embeddings": False}):
        model = CausalLM(backbone(dtype="mixed_bfloat16"), **options)
        y = model(padded_tokens())
        assert keras.backend.standardize_dtype(y.dtype) == "float32"
        assert model.output.dtype == "float32"


def test_the_loss_is_that_of_the_next_real_token():
    model, tokens = causal_lm(), padded_tokens()
    model.compile(weighted_metrics=[BitsPerToken()])
    found = model.evaluate(tokens, return_dict=True, verbose=0)
    logits = model.predict(tokens, verbose=0)[:, :-1]
    real = tokens != 0
    weights = real[:, 1:] & real[:, :-1]
    expected = cross_entropy(logits, tokens[:, 1:], weights)
    assert found["loss"] == pytest.approx(expected, rel=1e-5)
    bits = expected / np.log(2)
    assert found["bits_per_token"] == pytest.approx(bits, rel=1e-5)


def test_targets_and_weights_of_the_user():
    model, tokens = causal_lm(), padded_tokens()
    model.compile()
    logits = model.predict(tokens, verbose=0)
    targets = padded_tokens(seed=4) % 7
    given = np.random.default_rng(0).uniform(0, 1, tokens.shape)
    expected = cross_entropy(logits, targets, given * (tokens != 0))
    found = model.evaluate(tokens, targets, sample_weight=given, verbose=0)
    assert found == pytest.approx(expected, rel=1e-5)


def test_training_learns_a_period():
    period = np.array([3, 1, 4, 1, 5, 9, 2, 6])
    tokens = np.stack(
        [np.roll(np.tile(period, 3), -shift) for shift in range(8)]
    )
    keras.utils.set_random_seed(1)
    model = CausalLM(backbone("mamba"))
    model.compile(keras.optimizers.Adam(0.02))
    losses = model.fit(tokens, batch_size=8, epochs=40, verbose=0)
    losses = losses.history["loss"]
    assert losses[0] > 1.5
    assert losses[-1] < 0.5
    # "1" is followed by "4" or by "5": only who remembers knows.
    logits = model.predict(tokens, verbose=0)[:, 8:-1]
    assert (logits.argmax(-1) == tokens[:, 9:]).mean() > 0.9


@each_config(quick="mamba")
def test_saved_model_comes_back_with_the_same_outputs(name, tmp_path):
    model = causal_lm(name, tie_embeddings=False, logit_soft_cap=2.0)
    tokens = padded_tokens()
    expected = model.predict(tokens, verbose=0)
    model.compile(keras.optimizers.SGD(0.25))
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert isinstance(loaded, CausalLM)
    assert_same(loaded.predict(tokens, verbose=0), expected)
    assert float(loaded.optimizer.learning_rate) == 0.25
    loss = model.evaluate(tokens, verbose=0)
    assert loaded.evaluate(tokens, verbose=0) == pytest.approx(loss)


def test_config_comes_back_exactly():
    model = causal_lm(tie_embeddings=False, logit_soft_cap=2.0, name="given")
    read = json.loads(json.dumps(keras.saving.serialize_keras_object(model)))
    assert read["registered_name"] == "keras_ssm>CausalLM"
    loaded = keras.saving.deserialize_keras_object(read)
    assert loaded.get_config() == model.get_config()
    assert len(loaded.weights) == len(model.weights)


def test_tied_weights_are_counted_and_trained_once():
    model = causal_lm()
    assert model.count_params() == model.backbone.count_params()
    untied = causal_lm(tie_embeddings=False)
    assert untied.count_params() == model.count_params() + 8 * VOCABULARY


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (
            lambda: CausalLM(keras.Sequential()),
            "`CausalLM`: `backbone` must be a `HybridBackbone`",
        ),
        (
            lambda: CausalLM(mamba_config("tiny")),
            "`CausalLM`: `backbone` must be a `HybridBackbone`",
        ),
        (
            lambda: CausalLM(backbone(), logit_soft_cap=0.0),
            "`logit_soft_cap` must be positive",
        ),
    ],
)
def test_what_does_not_fit_is_explained(make, sentence):
    with pytest.raises(ValueError, match=sentence):
        make()
