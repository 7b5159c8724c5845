"""A stack of blocks by a pattern: its passes, states, files and errors."""

import json

import keras
import numpy as np
import pytest
from compare import as_array, assert_close, assert_same
from harness import BACKEND, compiled_quickly, needs_gradients
from model_harness import (
    CONFIGS,
    LENGTH,
    VOCABULARY,
    backbone,
    each_config,
    flat,
    padded_tokens,
)

from keras_ssm.layers import Mamba
from keras_ssm.models import (
    HybridBackbone,
    griffin_config,
    jamba_config,
    mamba2_config,
    mamba3_config,
    mamba_config,
)


@each_config()
def test_chunks_and_steps_equal_the_whole(name):
    model, tokens = backbone(name), padded_tokens()
    expected = model.predict(tokens, verbose=0)
    assert (expected[tokens == 0] == 0).all()
    state = model.get_initial_state(len(tokens), LENGTH)
    steps, step = map(compiled_quickly, (model.steps, model.step))
    found = []
    for chunk in (tokens[:, :2], tokens[:, 2:7]):
        y, state = steps(chunk, state)
        found.append(as_array(y))
    for t in range(7, LENGTH):
        y, state = step(tokens[:, t], state)
        found.append(as_array(y)[:, None])
    assert_close(np.concatenate(found, axis=1), expected, "float32")


@each_config()
def test_padding_anywhere_changes_neither_outputs_nor_states(name):
    model, tokens = backbone(name), padded_tokens()
    steps = compiled_quickly(model.steps)
    y, state = steps(tokens, model.get_initial_state(3, LENGTH))
    for row in (1, 2):
        real = tokens[row] != 0
        alone, alone_state = steps(
            tokens[row : row + 1, real], model.get_initial_state(1, LENGTH)
        )
        assert_close(as_array(y)[row, real], as_array(alone)[0], "float32")
        for one, other in zip(flat(state), flat(alone_state), strict=True):
            assert np.allclose(one[row], other[0], atol=1e-5)


def test_a_mask_is_as_good_as_padding():
    model, tokens = backbone(), padded_tokens()
    expected, _ = model.steps(tokens, model.get_initial_state(3))
    without = backbone(padding_id=None)
    without.set_weights(model.get_weights())
    y, _ = without.steps(tokens, without.get_initial_state(3), tokens != 0)
    assert_same(y, expected)
    # Together, both count.
    live = np.broadcast_to(np.arange(LENGTH) != 5, tokens.shape)
    both, _ = model.steps(tokens, model.get_initial_state(3), live)
    other, _ = without.steps(
        tokens, without.get_initial_state(3), live & (tokens != 0)
    )
    assert_same(both, other)


def test_the_mask_leaves_the_model():
    tokens, stack = padded_tokens(), backbone()
    inputs = keras.Input((None,), dtype="int32")
    average = keras.layers.GlobalAveragePooling1D()(stack(inputs))
    real = (tokens != 0).sum(1, keepdims=True)
    expected = stack.predict(tokens, verbose=0).sum(1) / real
    y = keras.Model(inputs, average).predict(tokens, verbose=0)
    assert_close(y, expected, "float32")


def test_a_state_is_saved_restored_and_gone_on_from_twice(tmp_path):
    model, tokens = backbone("jamba"), padded_tokens()
    steps = compiled_quickly(model.steps)
    _, state = steps(tokens[:, :6], model.get_initial_state(3, LENGTH))
    np.savez(tmp_path / "state.npz", *flat(state))
    before = [v.copy() for v in flat(state)]
    first, _ = steps(tokens[:, 6:], state)
    other, _ = steps(tokens[:, 6:] // 2, state)
    for one, kept in zip(flat(state), before, strict=True):
        assert_same(one, kept)
    with np.load(tmp_path / "state.npz") as file:
        loaded = keras.tree.pack_sequence_as(state, list(file.values()))
    again, _ = steps(tokens[:, 6:], loaded)
    assert_same(again, first)
    assert np.abs(as_array(other) - as_array(first)).max() > 1e-3


@pytest.mark.parametrize("dtype", ["float32", "mixed_bfloat16"])
@pytest.mark.parametrize("name", CONFIGS)
def test_state_size_is_that_of_the_tensors(name, dtype):
    model = HybridBackbone(**CONFIGS[name], dtype=dtype)
    for length, batch_size in ((5, 1), (7, 3)):
        sizes = [
            np.prod(v.shape) * (2 if "bfloat16" in str(v.dtype) else 4)
            for v in keras.tree.flatten(
                model.get_initial_state(batch_size, length)
            )
        ]
        assert model.state_size_bytes(length, batch_size) == sum(sizes)


def test_only_attention_without_a_window_pays_for_the_context():
    for name, grows in (("mamba", 0), ("griffin", 0), ("jamba", 1)):
        model = HybridBackbone(**CONFIGS[name])
        difference = model.state_size_bytes(96) - model.state_size_bytes(32)
        # Keys and values of 2 heads with 2 channels, in float32.
        assert difference == grows * 64 * 2 * 2 * 2 * 4


@needs_gradients
@pytest.mark.skipif(BACKEND == "jax", reason="tests of the block do it")
def test_remat_trains_as_without():
    tokens, weights = padded_tokens(), []
    for remat in (False, True):
        model = backbone("jamba", remat=remat)
        assert all(block.remat == remat for block in model.blocks)
        model.compile(keras.optimizers.SGD(0.1), "mse")
        model.train_on_batch(tokens, np.ones((3, LENGTH, 8)))
        weights.append(model.get_weights())
    for one, other in zip(*weights, strict=True):
        assert np.allclose(one, other, atol=1e-5)


@pytest.mark.parametrize("name", CONFIGS)
def test_config_comes_back_exactly(name):
    options = {"dropout": 0.25, "seed": 3, "remat": True, "moe_every": 2}
    config = {**CONFIGS[name], **options, "name": "given"}
    model = HybridBackbone(**config, trainable=False, dtype="mixed_bfloat16")
    read = json.loads(json.dumps(keras.saving.serialize_keras_object(model)))
    assert read["registered_name"] == "keras_ssm>HybridBackbone"
    loaded = keras.saving.deserialize_keras_object(read)
    assert loaded.get_config() == model.get_config()
    assert not loaded.trainable
    for one, other in zip(loaded.blocks, model.blocks, strict=True):
        assert one.get_config() == other.get_config()
        assert (one.dropout, one.remat) == (0.25, True)
        assert one.compute_dtype == "bfloat16"


@each_config(quick="mamba")
def test_saved_model_comes_back_with_the_same_outputs(name, tmp_path):
    model, tokens = backbone(name), padded_tokens()
    expected = model.predict(tokens, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert isinstance(loaded, HybridBackbone)
    assert_same(loaded.predict(tokens, verbose=0), expected)


def test_a_clone_shares_nothing():
    model = backbone()
    clone = keras.models.clone_model(model)
    assert not {id(v) for v in model.weights} & {id(v) for v in clone.weights}


def test_blocks_are_named_by_the_pattern():
    model = HybridBackbone(**CONFIGS["jamba"])
    names = ["tokens", "token_embedding", "mamba_0", "attention_1"]
    assert [layer.name for layer in model.layers] == [*names, "final_norm"]
    lines = []
    model.summary(print_fn=lines.append)
    assert "attention_1" in "\n".join(lines)
    assert set(model.get_initial_state(1, 4)) == {"mamba_0", "attention_1"}


def test_experts_are_where_the_offset_says():
    pattern = ["mamba"] * 5
    config = {**CONFIGS["jamba"], "mixers": {}, "pattern": pattern}
    model = HybridBackbone(**config)
    kinds = [type(block.feed_forward).__name__ for block in model.blocks]
    assert kinds == ["GatedMLP", "MixtureOfExperts"] * 2 + ["GatedMLP"]
    model = HybridBackbone(**{**config, "moe_every": 3, "moe_offset": 2})
    assert [type(b.feed_forward).__name__ for b in model.blocks] == (
        ["GatedMLP"] * 2 + ["MixtureOfExperts"] + ["GatedMLP"] * 2
    )


def test_residuals_and_states_are_wide_in_half_precision():
    model, tokens = backbone(dtype="mixed_bfloat16"), padded_tokens()
    y, state = model.steps(tokens, model.get_initial_state(3))
    assert keras.backend.standardize_dtype(y.dtype) == "float32"
    assert {v.dtype.name for v in flat(state)} == {"float32"}
    wide = backbone()
    wide.set_weights(model.get_weights())
    expected = wide.predict(tokens, verbose=0)
    assert np.abs(as_array(y) - expected).max() < 0.1


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"pattern": []}, "`pattern` must be a list with the name of at least"),
        ({"pattern": "mamba"}, "`pattern` must be a list"),
        ({"pattern": ["lstm"]}, "`pattern` must hold names of .*'lstm'"),
        (
            {"mixers": {"mamba2": {}}},
            "names in `mixers` must be in the pattern. Received: 'mamba2'",
        ),
        (
            {"pattern": ["local"], "mixers": {"local": {"heads": 2}}},
            r"`mixers\['local'\]` must be a sequence layer",
        ),
        (
            {"pattern": ["attention"]},
            "'attention' must have arguments of `Attention`.*heads",
        ),
        (
            {"mixers": {"mamba": {"heads": 2}}},
            "keyword arguments passed to Mamba: .*heads",
        ),
        ({"feed_forward": {"unit": 3}}, "arguments of `GatedMLP`"),
        ({"moe_every": 2, "moe_offset": 2}, "less than `moe_every`"),
        ({"vocabulary_size": 0}, "`vocabulary_size` must be a positive"),
        ({"padding_id": VOCABULARY}, "`padding_id` must be one of the 20"),
        ({"mixers": {"mamba": keras.layers.Dense(8)}}, "`mixer` must be a"),
    ],
)
def test_what_does_not_fit_is_explained(changes, sentence):
    config = {"vocabulary_size": 20, "width": 8, "pattern": ["mamba"]}
    with pytest.raises(ValueError, match=sentence):
        HybridBackbone(**{**config, **changes})


def test_a_state_of_another_model_is_explained():
    with pytest.raises(ValueError, match="keys .'mamba_0', 'mamba_1'"):
        backbone().step(np.array([1]), {"mamba_0": ()})


def test_a_built_layer_among_the_mixers_is_copied():
    layer = Mamba(state_dim=3)
    layer.build((None, None, 8))
    model = backbone(mixers={"mamba": layer})
    assert not {id(v) for v in layer.weights} & {id(v) for v in model.weights}
    assert model.blocks[0].mixer.state_dim == 3
    again = HybridBackbone.from_config(model.get_config())
    assert len(again.weights) == len(model.weights)


@pytest.mark.skipif(
    BACKEND != "torch",
    reason="only PyTorch builds large models without their weights",
)
def test_mamba3_has_the_parameters_of_the_released_model():
    with keras.device("meta"):
        model = HybridBackbone(**mamba3_config("187m"))
    assert model.count_params() == 186_849_600


@pytest.mark.parametrize(
    "function",
    [mamba_config, mamba2_config, mamba3_config, jamba_config, griffin_config],
)
def test_presets_take_changes_and_explain_their_sizes(function):
    config = function("tiny", vocabulary_size=7, dropout=0.5)
    assert (config["vocabulary_size"], config["dropout"]) == (7, 0.5)
    with pytest.raises(ValueError, match=f"`{function.__name__}`: `size` must"):
        function("huge")
