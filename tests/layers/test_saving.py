"""Layers survive the way to a config or a file and back."""

import json

import keras
import numpy as np
import pytest
from compare import assert_same
from layer_harness import (
    LAYERS,
    WIDTH,
    as_array,
    each_layer,
    make,
    randomize,
    sequences,
    small,
)

import keras_ssm
from keras_ssm.layers import (
    LRU,
    RGLRU,
    S4,
    S4D,
    S5,
    Attention,
    GatedMLP,
    Griffin,
    GriffinBlock,
    HybridBlock,
    LogUniformDt,
    LRUBlock,
    Mamba,
    Mamba2,
    Mamba2Block,
    Mamba3,
    Mamba3Block,
    MambaBlock,
    RGLRUBlock,
    RGLRURing,
    S4Block,
    S4DBlock,
    S4DInv,
    S5Block,
    UniformDecay,
)

SHARED = {
    "return_sequences": False,
    "return_state": True,
    "go_backwards": True,
    "stateful": True,
    "name": "given",
    "trainable": False,
    "dtype": "mixed_bfloat16",
}
OF_BLOCKS = {**SHARED, "dropout": 0.25, "epsilon": 1e-3, "seed": 9}
OF_DENSE = {
    "kernel_initializer": keras.initializers.HeNormal(seed=3),
    "kernel_regularizer": keras.regularizers.L2(0.25),
}
OF_MAMBA = {"state_dim": 3, "conv_kernel_size": 2, "expand": 1, "dt_rank": 5}
OF_MAMBA2 = {
    "state_dim": 3,
    "head_dim": 5,
    "groups": 2,
    "conv_kernel_size": 2,
    "expand": 1,
}
OF_MAMBA3 = {
    "state_dim": 6,
    "head_dim": 5,
    "groups": 2,
    "rank": 3,
    "rotary_dim": 4,
    "expand": 1,
}
OF_S4 = {
    "state_dim": 6,
    "mode": "recurrence",
    "rate": 0.5,
    "dt_initializer": LogUniformDt(0.01, 0.2, activation="exp"),
}
OF_S4D = {
    **OF_S4,
    "discretization": "bilinear",
    "A_initializer": S4DInv(),
}
OF_S5 = {
    "state_dim": 12,
    "blocks": 3,
    "rate": 0.5,
    "activation": "glu",
    "dt_initializer": LogUniformDt(0.01, 0.2, activation="exp"),
}
OF_LRU = {
    "state_dim": 3,
    "r_min": 0.2,
    "r_max": 0.9,
    "max_phase": 0.5,
    "activation": "half_glu",
}
OF_GRIFFIN = {"state_dim": 9, "conv_kernel_size": 2, "heads": 3}
OF_HYBRID = {
    "mixer": Mamba(**OF_MAMBA, dtype="mixed_bfloat16", name="mixer"),
    "feed_forward": GatedMLP(
        5, activation="gelu", dtype="mixed_bfloat16", name="feed_forward"
    ),
}
GIVEN = {
    Mamba: {
        **SHARED,
        **OF_MAMBA,
        **OF_DENSE,
        "use_conv_bias": False,
        "use_bias": True,
        "use_inner_norm": True,
        "epsilon": 1e-3,
        "A_log_initializer": keras.initializers.Constant(0.5),
        "dt_bias_initializer": LogUniformDt(0.01, 0.2, floor=0.001, seed=4),
    },
    MambaBlock: {**OF_BLOCKS, **OF_MAMBA},
    Mamba2: {
        **SHARED,
        **OF_MAMBA2,
        **OF_DENSE,
        "use_conv_bias": False,
        "use_bias": True,
        "epsilon": 1e-3,
        "A_log_initializer": UniformDecay(0.5, 2.0, seed=4),
        "dt_bias_initializer": LogUniformDt(0.01, 0.2, floor=0.001, seed=4),
    },
    Mamba2Block: {**OF_BLOCKS, **OF_MAMBA2},
    Mamba3: {
        **SHARED,
        **OF_MAMBA3,
        **OF_DENSE,
        "decay_activation": "softplus",
        "use_output_norm": True,
        "use_bias": True,
        "epsilon": 1e-3,
        "dt_bias_initializer": LogUniformDt(0.01, 0.2, floor=0.001, seed=4),
    },
    Mamba3Block: {**OF_BLOCKS, **OF_MAMBA3},
    S4D: {**SHARED, **OF_S4D, **OF_DENSE},
    S4DBlock: {**OF_BLOCKS, **OF_S4D},
    S4: {**SHARED, **OF_S4, **OF_DENSE},
    S4Block: {**OF_BLOCKS, **OF_S4},
    S5: {**SHARED, **OF_S5, **OF_DENSE},
    S5Block: {**OF_BLOCKS, **OF_S5},
    LRU: {**SHARED, **OF_LRU, **OF_DENSE},
    LRUBlock: {**OF_BLOCKS, **OF_LRU},
    RGLRU: {**SHARED, "heads": 3, "decay_initializer": RGLRURing(c=1.0)},
    RGLRUBlock: {**OF_BLOCKS, "heads": 3},
    Griffin: {**SHARED, **OF_GRIFFIN, **OF_DENSE, "use_bias": False},
    GriffinBlock: {**OF_BLOCKS, **OF_GRIFFIN},
    Attention: {
        **SHARED,
        **OF_DENSE,
        "heads": 6,
        "kv_heads": 3,
        "head_dim": 5,
        "window": 7,
        "rotary_base": 500.0,
        "rotary_dim": 2,
        "use_bias": True,
    },
    HybridBlock: {**OF_BLOCKS, **OF_HYBRID},
}


def as_json(config):
    return json.dumps(config, sort_keys=True)


@each_layer
@pytest.mark.parametrize("given", [False, True])
def test_config_comes_back_exactly(layer_class, given):
    options = GIVEN[layer_class] if given else {"name": "plain"}
    layer = small(layer_class, **options)
    config = layer.get_config()
    again = layer_class.from_config(config)
    assert as_json(again.get_config()) == as_json(config)
    serialized = keras.saving.serialize_keras_object(layer)
    read = json.loads(as_json(serialized))
    assert read["registered_name"] == f"keras_ssm>{layer_class.__name__}"
    loaded = keras.saving.deserialize_keras_object(read)
    assert as_json(loaded.get_config()) == as_json(config)
    assert dir(loaded) == dir(layer)


@each_layer
def test_config_holds_every_argument_as_it_was_given(layer_class):
    config = layer_class(**GIVEN[layer_class]).get_config()
    for name, argument in GIVEN[layer_class].items():
        held = config[name]
        if name == "dtype":
            held = held["config"]["name"]
        if isinstance(held, dict):
            argument = keras.saving.serialize_keras_object(argument)
        assert held == argument, name


@each_layer
@pytest.mark.parametrize("compile_it", [False, True])
def test_saved_model_comes_back_with_the_same_outputs(
    layer_class, compile_it, tmp_path
):
    model = keras.Sequential(
        [
            keras.Input((None,), dtype="int32"),
            keras.layers.Embedding(10, WIDTH, mask_zero=True),
            keras.layers.Bidirectional(small(layer_class)),
            keras.layers.Dense(2),
        ]
    )
    randomize(model)
    model.compile("adam", "mse")
    model.optimizer.build(model.trainable_variables)
    tokens = np.array([[1, 2, 3, 4], [5, 6, 0, 0]])
    expected = as_array(model(tokens))
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(
        tmp_path / "model.keras", compile=compile_it
    )
    assert_same(as_array(loaded(tokens)), expected)
    assert loaded.compiled == compile_it


@each_layer
def test_weights_file_comes_back(layer_class, tmp_path):
    layers = [make(layer_class), small(layer_class)]
    models = [
        keras.Sequential([keras.Input((None, WIDTH)), layer])
        for layer in layers
    ]
    models[0].save_weights(tmp_path / "model.weights.h5")
    models[1].load_weights(tmp_path / "model.weights.h5")
    x = sequences()
    assert_same(as_array(models[1](x)), as_array(models[0](x)))


def test_ops_in_a_functional_model_are_saved_by_name(tmp_path):
    inputs = keras.Input((None, WIDTH))
    weight = np.linspace(-1, 1, 4 * WIDTH).reshape(4, WIDTH).astype("float32")
    y = keras_ssm.ops.causal_conv1d(inputs, weight, activation="silu")
    model = keras.Model(inputs, y)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    x = sequences()
    assert_same(as_array(loaded(x)), as_array(model(x)))


def test_cloned_models_share_nothing():
    for layer_class in LAYERS:
        model = keras.Sequential(
            [keras.Input((None, WIDTH)), make(layer_class)]
        )
        clone = keras.models.clone_model(model)
        ours = {id(v) for v in model.weights}
        assert len(clone.weights) == len(ours)
        assert not ours & {id(v) for v in clone.weights}
