"""Models of bytes take texts: strings in, padded where they end."""

import importlib.util

import keras
import numpy as np
import pytest
from harness import BACKEND
from serving_harness import (
    assert_equal_outputs,
    consume,
    joined,
    randomized,
    whole,
)

import keras_ssm
from keras_ssm import models
from keras_ssm.serving.endpoints import make_endpoints
from keras_ssm.serving.formats import strings

if BACKEND == "numpy":
    pytest.skip("Keras saves no model of numpy", allow_module_level=True)
if importlib.util.find_spec("tensorflow") is None:
    pytest.skip("files are written by tensorflow", allow_module_level=True)

# What is never a byte of a text.
PADDING = 255
TEXTS = ["état d'espace", "μ", "", "a\0b"]
ENCODED = [text.encode() for text in TEXTS]


def tokens_of(rows, padding):
    """Rows of bytes as the model takes them."""
    tokens = np.full((len(rows), max(map(len, rows))), padding, "int32")
    for row, text in zip(tokens, rows, strict=True):
        row[: len(text)] = list(text)
    return tokens


def language_model():
    keras.utils.set_random_seed(0)
    backbone = models.HybridBackbone(
        256,
        8,
        ["mamba", "attention"],
        mixers={
            "mamba": {"state_dim": 4},
            "attention": {"heads": 2, "window": 4},
        },
        padding_id=PADDING,
    )
    return randomized(models.CausalLM(backbone, logit_soft_cap=4.0))


@pytest.mark.skipif(BACKEND != "tensorflow", reason="it writes for all")
def test_a_language_model_serves_and_streams_texts(tmp_path):
    model, path = language_model(), tmp_path / "model"
    endpoints = ("serve_text", "init", "steps_text")
    keras_ssm.export(model, path, endpoints=endpoints)
    expected = whole(model, tokens_of(ENCODED, PADDING))
    cuts = [0, 1, 2, 9, len(ENCODED[0])]
    found, streamed = consume(
        path,
        tmp_path,
        [("serve_text", (TEXTS,)), ("stream", (ENCODED, cuts))],
    )
    assert_equal_outputs(found, expected)
    assert_equal_outputs(joined(streamed, expected, cuts), expected)


def reader(model):
    """The endpoint that serves texts, not saved."""
    (endpoint,) = make_endpoints(model, ("serve_text",))

    def read(rows):
        import tensorflow as tf

        return np.asarray(endpoint.function(tf.constant(rows)))

    return read


def steps(x):
    """Something that every step shows in."""
    x = keras.layers.Embedding(256, 3)(x)
    return keras.layers.Dense(2)(x)


@pytest.mark.skipif(BACKEND != "tensorflow", reason="strings are TensorFlow's")
def test_a_mask_that_the_model_takes_is_where_texts_are():
    tokens = keras.Input((None,), dtype="int32", name="tokens")
    mask = keras.Input((None,), dtype="bool", name="mask")
    y = keras.layers.GlobalAveragePooling1D()(steps(tokens), mask=mask)
    model = keras.Model({"bytes": tokens, "real": mask}, y)
    found = reader(model)([b"abc", b"c"])
    for row, text in zip(found, (b"abc", b"c"), strict=True):
        x = {
            "bytes": np.array([list(text)], "int32"),
            "real": np.ones((1, len(text)), bool),
        }
        assert_equal_outputs([row[None]], whole(model, x))


@pytest.mark.skipif(BACKEND != "tensorflow", reason="strings are TensorFlow's")
def test_texts_for_a_model_without_padding_are_equally_long():
    tokens = keras.Input((None,), dtype="int32")
    model = keras.Model(tokens, steps(tokens))
    read, rows = reader(model), [b"ab", b"\0c"]
    assert_equal_outputs([read(rows)], whole(model, tokens_of(rows, 0)))
    with pytest.raises(Exception, match="all be the same size"):
        read([b"abc", b"c"])


@pytest.mark.skipif(BACKEND != "tensorflow", reason="strings are TensorFlow's")
def test_nothing_but_empty_texts_is_one_masked_step():
    tokens, mask = strings.decode(["", ""], PADDING)
    assert (np.asarray(tokens) == PADDING).all() and tokens.shape == (2, 1)
    assert not np.asarray(mask).any() and mask.shape == (2, 1)


@pytest.mark.parametrize(
    ("words", "inputs", "embedded"),
    [
        (
            "The Embedding 'small' knows 20 tokens, fewer",
            [((None,), "int32")],
            20,
        ),
        ("are for models of integer tokens", [((None, 3), "float32")], 0),
        ("are for models of integer tokens", [((9,), "int32")], 300),
        ("are for models of integer tokens", 2 * [((None,), "int32")], 300),
    ],
)
def test_models_that_take_no_texts_say_so(words, inputs, embedded, tmp_path):
    inputs = [keras.Input(shape, dtype=dtype) for shape, dtype in inputs]
    y = inputs[0]
    if embedded:
        y = keras.layers.Embedding(embedded, 3, name="small")(y)
    model = keras.Model(inputs, keras.layers.Dense(2)(y))
    with pytest.raises(NotImplementedError, match=words):
        keras_ssm.export(model, tmp_path / "model", endpoints="serve_text")
    assert not list(tmp_path.iterdir())
