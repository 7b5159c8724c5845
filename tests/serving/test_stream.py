"""A stream gives in pieces what the model gives for the whole."""

import keras
import numpy as np
import pytest
from compare import as_array
from harness import BACKEND, compiled_quickly
from serving_harness import (
    assert_equal_outputs,
    causal_lm,
    classifier,
    convolutions,
    forecaster,
    joined,
    padded_tokens,
    tagger,
    text_classifier,
    whole,
)

import keras_ssm
from keras_ssm import Stream
from keras_ssm.layers import (
    LRU,
    RGLRU,
    S4D,
    Attention,
    GatedMLP,
    GriffinBlock,
    HybridBlock,
    Mamba,
    MambaBlock,
    MixtureOfExperts,
)

# The export of the same model is tested on JAX, too.
SLOW_TO_COMPILE = pytest.mark.slow if BACKEND == "jax" else ()
# TensorFlow's file of a language model is tried, too.
COMPILED_ELSEWHERE = () if BACKEND == "torch" else pytest.mark.slow
CUTS = [0, 4, 5, 6, 10]


def in_pieces(model, x, cuts=CUTS):
    """Runs a stream over `x`: `steps` between cuts, or `step`."""
    stream = Stream(model)
    step, steps = compiled(stream.step), compiled(stream.steps)
    state = stream.get_initial_state(len(keras.tree.flatten(x)[0]))
    found = []
    for first, last in zip(cuts, cuts[1:], strict=False):
        if last - first == 1:
            y, state = step(taken(x, first), state)
        else:
            y, state = steps(taken(x, slice(first, last)), state)
        found += [as_array(v) for v in keras.tree.flatten(y)]
    return joined(found, whole(model, x), cuts)


def compiled(function):
    """As a loop over a stream would call it."""
    return function if BACKEND == "tensorflow" else compiled_quickly(function)


def taken(x, steps):
    return keras.tree.map_structure(lambda v: v[:, steps], x)


def values(width):
    rng = np.random.default_rng(width)
    return rng.normal(size=(3, CUTS[-1], width)).astype("float32")


@pytest.mark.parametrize(
    "make",
    [
        classifier,
        pytest.param(causal_lm, marks=COMPILED_ELSEWHERE),
        pytest.param(text_classifier, marks=COMPILED_ELSEWHERE),
        pytest.param(tagger, marks=SLOW_TO_COMPILE),
        pytest.param(convolutions, marks=pytest.mark.slow),
    ],
)
def test_stream_equals_whole(make):
    model, x = make(), padded_tokens(3, CUTS[-1])
    assert_equal_outputs(in_pieces(model, x), whole(model, x))


def test_stream_with_a_mask_of_its_own_equals_whole():
    model = forecaster()
    x = {"x": values(3), "mask": padded_tokens(3, CUTS[-1]) > 5}
    x["mask"][:, 0] = True
    assert_equal_outputs(in_pieces(model, x), whole(model, x))


def test_models_in_models_and_shared_layers_run_as_streams():
    shared = LRU(state_dim=4)
    inner = keras.Sequential([keras.Input((None, 6)), MambaBlock(state_dim=4)])
    x = keras.Input((None, 6))
    h = keras.layers.Masking()(x)
    h = keras.Model(x, [inner(shared(x)), x])(h)[0]
    model = keras.Model(x, shared(inner(h)))
    assert len(Stream(model).state_shapes) == 2 * 2 + 2 * 2
    x = values(6)
    x[1, 3:] = 0
    assert_equal_outputs(in_pieces(model, x), whole(model, x))


def test_hybrid_models_run_as_streams():
    model = sequential(
        HybridBlock(Attention(2, window=4), MixtureOfExperts(3, 4)),
        GatedMLP(4),
        HybridBlock(Attention(2, window=3, dtype="mixed_bfloat16")),
    )
    x = values(6)
    assert_equal_outputs(in_pieces(model, x), whole(model, x))


def test_an_average_of_nothing_is_0():
    stream = Stream(classifier())
    state = stream.get_initial_state(2)
    padding = np.zeros((2, 3), "int32")
    y, after = compiled(stream.steps)(padding, state)
    assert np.isfinite(as_array(y)).all()
    for name, value in after.items():
        assert (as_array(value) == 0).all(), name


def test_a_stream_leaves_the_model_as_it_was():
    model = tagger()
    Stream(model)
    assert model.layers[2].output.shape == (None, None, 8)


def test_a_state_of_something_else_says_what_it_should_be():
    stream = Stream(classifier())
    with pytest.raises(ValueError, match="as `get_initial_state` gives it"):
        stream.step(np.array([1]), {"state": np.zeros((1, 2))})


def sequential(*layers):
    return keras.Sequential([keras.Input((None, 6)), *layers])


def functional(function):
    x = keras.Input((None, 6))
    return keras.Model(x, function(x))


REFUSED = {
    "Bidirectional": lambda: sequential(
        keras.layers.Bidirectional(Mamba(state_dim=4))
    ),
    "GRU": lambda: sequential(keras.layers.GRU(4)),
    "Conv1D": lambda: sequential(keras.layers.Conv1D(4, 3, padding="causal")),
    "MultiHeadAttention": lambda: functional(
        lambda x: keras.layers.MultiHeadAttention(2, 3)(x, x)
    ),
    "GlobalMaxPooling1D": lambda: sequential(keras.layers.GlobalMaxPooling1D()),
    "GlobalAveragePooling1D": lambda: sequential(
        keras.layers.GlobalAveragePooling1D(keepdims=True)
    ),
    "GroupNormalization": lambda: sequential(
        keras.layers.GroupNormalization(2)
    ),
    "Softmax": lambda: sequential(keras.layers.Softmax(axis=1)),
    "GetItem": lambda: functional(lambda x: x[:, -1]),
    "S4D": lambda: sequential(S4D(state_dim=4, bidirectional=True)),
    "LRU": lambda: sequential(LRU(state_dim=4, go_backwards=True)),
    "Attention": lambda: sequential(Attention(2)),
    "Conv1D_in_HybridBlock": lambda: sequential(
        HybridBlock(LRU(), keras.layers.Conv1D(6, 3, padding="causal"))
    ),
    "GriffinBlock": lambda: functional(
        lambda x: GriffinBlock(return_state=True)(x)
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_run_as_a_stream_is_named(name):
    with pytest.raises(NotImplementedError) as raised:
        Stream(REFUSED[name]())
    assert f"The {name.split('_')[0]} '" in str(raised.value)
    assert "cannot run as a stream: " in str(raised.value)


def test_a_layer_with_a_state_of_the_model_is_refused():
    x, state = keras.Input((None, 6)), keras.Input((4,))
    y = RGLRU()(x, initial_state=keras.layers.Dense(6)(state))
    with pytest.raises(NotImplementedError, match="state of the model's own"):
        Stream(keras.Model([x, state], y))


def test_models_without_known_inputs_or_with_a_known_length_are_refused():
    with pytest.raises(ValueError, match="unknown length"):
        Stream(keras.Sequential([keras.Input((9, 6)), MambaBlock()]))
    with pytest.raises(ValueError, match="known inputs"):
        Stream(keras.Sequential([MambaBlock()]))
    with pytest.raises(ValueError, match="known inputs"):
        Stream(MambaBlock())


def test_stream_is_public():
    assert keras_ssm.Stream is Stream
