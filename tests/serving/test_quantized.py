"""int8 and LoRA survive the way to a file and out of Python."""

import importlib.util

import keras
import numpy as np
import pytest
from compare import as_array, assert_same
from harness import BACKEND, needs_gradients
from serving_harness import consume, padded_tokens, randomized

import keras_ssm
from keras_ssm import layers, models

pytestmark = pytest.mark.skipif(
    BACKEND == "numpy", reason="Keras saves no model of numpy"
)
TOKENS = padded_tokens(3, 12)


def make(*blocks):
    keras.utils.set_random_seed(0)
    return randomized(
        keras.Sequential(
            [
                keras.Input((None,), dtype="int32"),
                keras.layers.Embedding(20, 16, mask_zero=True),
                *blocks,
                keras.layers.LayerNormalization(epsilon=1e-5),
                keras.layers.GlobalAveragePooling1D(),
                keras.layers.Dense(2, activation="softmax"),
            ]
        )
    )


def mixed():
    return make(
        layers.MambaBlock(state_dim=4),
        layers.GriffinBlock(),
        layers.S4D(state_dim=4),
    )


def outputs(model):
    # A program of each model would take most of the time.
    return as_array(model(TOKENS))


def dtypes(layer):
    return {v.path.split("/mixer/")[-1]: v.dtype for v in layer.weights}


def test_int8_is_close_small_and_comes_back_exactly(tmp_path):
    model = mixed()
    expected = outputs(model)
    model.save(tmp_path / "float32.keras")
    model.quantize("int8")
    model.save(tmp_path / "int8.keras")
    assert 0 < np.abs(outputs(model) - expected).max() < 0.02
    loaded = keras.models.load_model(tmp_path / "int8.keras")
    assert_same(outputs(loaded), outputs(model))
    sizes = [
        (tmp_path / f"{name}.keras").stat().st_size
        for name in ("float32", "int8")
    ]
    assert sizes[1] < sizes[0]


def test_a_quantized_layer_keeps_the_recurrence_in_float32():
    model = mixed()
    model.quantize("int8")
    mamba = dtypes(model.layers[1])
    int8 = {name for name, dtype in mamba.items() if dtype == "int8"}
    assert int8 == {"in_proj/kernel", "out_proj/kernel"}
    assert set(mamba.values()) == {"int8", "float32"}
    griffin = dtypes(model.layers[2])
    int8 = {name for name, dtype in griffin.items() if dtype == "int8"}
    assert int8 == {"in_proj/kernel", "out_proj/kernel"}


INT8 = keras.quantizers.Int8QuantizationConfig
# Other kinds of layers and of quantization, on the backend that is quickest.
LANGUAGE_MODELS = {
    "int8": ({}, {"mode": "int8"}),
    "weights_alone": (
        {"feed_forward": keras.layers.Dense(16, "gelu")},
        {"config": INT8(activation_quantizer=None)},
    ),
    "int4": (
        {"moe": {"experts": 2, "units": 8}, "moe_every": 2},
        {"config": keras.quantizers.Int4QuantizationConfig(block_size=8)},
    ),
}


@pytest.mark.parametrize(
    "name", LANGUAGE_MODELS if BACKEND == "torch" else ["int8"]
)
def test_a_quantized_language_model_comes_back_exactly(name, tmp_path):
    keras.utils.set_random_seed(0)
    options, how = LANGUAGE_MODELS[name]
    options = {"feed_forward": {"units": 8}, **options}
    pattern = ["mamba", "griffin", "attention"]
    mixers = {"attention": {"heads": 2}}
    model = models.CausalLM(
        models.HybridBackbone(20, 16, pattern, mixers=mixers, **options),
        tie_embeddings=name == "int8",
    )
    expected = outputs(randomized(model))
    model.quantize(**how)
    change = np.abs(outputs(model) - expected).max()
    assert 1e-3 < change < np.abs(expected).max()
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    embedding = loaded.backbone.token_embedding
    assert "int8" in {v.dtype for v in embedding.weights}
    assert_same(outputs(loaded), outputs(model))


@pytest.mark.skipif(
    importlib.util.find_spec("tensorflow") is None,
    reason="files are written by tensorflow",
)
def test_int8_is_exported(tmp_path):
    model = make(layers.MambaBlock(state_dim=4))
    model.quantize("int8")
    keras_ssm.export(model, tmp_path / "model")
    (found,) = consume(tmp_path / "model", tmp_path, [("serve", (TOKENS,))])
    assert np.abs(found[0] - outputs(model)).max() < 1e-5


@needs_gradients
def test_lora_is_trained_merged_and_saved(tmp_path):
    model = make(layers.MambaBlock(state_dim=4))
    before = outputs(model)
    mixer = model.layers[1].mixer
    for layer in (mixer.in_proj, mixer.x_proj, mixer.out_proj):
        layer.enable_lora(2)
    model.compile("adam", "sparse_categorical_crossentropy")
    model.optimizer.learning_rate = 0.1
    model.fit(TOKENS, np.array([0, 1, 1]), epochs=2, verbose=0)
    trained = outputs(model)
    assert np.abs(trained - before).max() > 1e-3
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras", compile=False)
    assert not any("lora" in v.path for v in loaded.weights)
    assert np.abs(outputs(loaded) - trained).max() < 1e-5
    if BACKEND == "tensorflow":  # it writes for all
        keras_ssm.export(loaded, tmp_path / "served")
        (found,) = consume(
            tmp_path / "served", tmp_path, [("serve", (TOKENS,))]
        )
        assert np.abs(found[0] - trained).max() < 1e-5
