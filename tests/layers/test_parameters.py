"""What a layer's parameters are called and how they start."""

import keras
import numpy as np
import pytest
from layer_harness import (
    BLOCKS,
    MIXERS,
    WIDTH,
    as_array,
    each_layer,
    each_mixer,
    make,
    sequences,
    small,
    traits,
    value,
)

import keras_ssm
from keras_ssm.layers import (
    LRU,
    RGLRU,
    S4,
    S4D,
    S5,
    Attention,
    Griffin,
    LogUniformDt,
    Mamba,
    Mamba2,
    Mamba3,
    MambaBlock,
)

LINEAR_MAPS = ["B_real", "B_imag", "C_real", "C_imag", "D"]
OUT_PROJ = ["out_proj/kernel", "out_proj/bias"]
RG_LRU = ["gate_kernel", "gate_bias", "decay"]
WEIGHTS = {
    Mamba: [
        *("conv_kernel", "conv_bias", "A_log", "D", "dt_bias"),
        *("in_proj/kernel", "x_proj/kernel", "dt_proj/kernel"),
        "out_proj/kernel",
    ],
    Mamba2: [
        *("conv_kernel", "conv_bias", "A_log", "D", "dt_bias", "norm_scale"),
        *("in_proj/kernel", "out_proj/kernel"),
    ],
    Mamba3: [
        *("B_norm_scale", "C_norm_scale", "B_bias", "C_bias", "dt_bias", "D"),
        *("mimo_x", "mimo_z", "mimo_out"),
        *("in_proj/kernel", "out_proj/kernel"),
    ],
    S4D: [
        *("log_dt", "A_log", "A_imag", "C_real", "C_imag", "D"),
        *OUT_PROJ,
    ],
    S4: [
        *("log_dt", "A_log", "A_imag", "P_real", "P_imag"),
        *LINEAR_MAPS,
        *OUT_PROJ,
    ],
    S5: ["A_log", "A_imag", "log_dt", *LINEAR_MAPS, *OUT_PROJ],
    LRU: ["nu_log", "theta_log", "gamma_log", *LINEAR_MAPS],
    RGLRU: RG_LRU,
    Griffin: [
        *("conv_kernel", "conv_bias", "in_proj/kernel", "in_proj/bias"),
        *(f"rg_lru/{name}" for name in RG_LRU),
        *OUT_PROJ,
    ],
    Attention: [f"{name}_proj/kernel" for name in ("q", "k", "v", "out")],
}
# What a block of any mixer has behind it.
FEED_FORWARD = [
    "feed_forward_norm/scale",
    *(f"feed_forward/{name}_proj/kernel" for name in ("gate", "up", "down")),
]
# What a block has beside the weights of its mixer.
NORMS = {
    keras.layers.RMSNormalization: ["norm/scale"],
    keras.layers.LayerNormalization: ["norm/gamma", "norm/beta"],
}
# The weights that start the same in every layer.
CONSTANT = {
    Mamba: {"A_log", "D"},
    Mamba2: {"D", "norm_scale"},
    Mamba3: {
        *("B_norm_scale", "C_norm_scale", "B_bias", "C_bias", "D"),
        *("mimo_x", "mimo_z", "mimo_out"),
    },
    S4D: {"A_log", "A_imag", "out_proj/bias"},
    S4: {
        *("A_log", "A_imag", "P_real", "P_imag", "B_real", "B_imag"),
        "out_proj/bias",
    },
    S5: {"A_log", "A_imag", "out_proj/bias"},
    LRU: {"out_proj/bias"},
    RGLRU: {"gate_bias"},
    Griffin: {
        *("conv_bias", "in_proj/bias", "rg_lru/gate_bias", "out_proj/bias"),
    },
    Attention: set(),
}


def named_weights(layer):
    return {v.path.split("/", 1)[1]: value(v) for v in layer.weights}


@each_mixer
def test_weight_paths_are_those_of_saved_files(mixer):
    model = keras.Sequential(
        [keras.Input((None, WIDTH)), small(mixer, name="mixer")], name="model"
    )
    paths = [f"model/mixer/{name}" for name in WEIGHTS[mixer]]
    assert [v.path for v in model.weights] == paths


@each_mixer
def test_weight_paths_of_blocks_are_those_of_saved_files(mixer):
    block = small(MIXERS[mixer].block, name="block")
    model = keras.Sequential([keras.Input((None, WIDTH)), block], name="model")
    inner = list(WEIGHTS[mixer])
    if mixer is LRU:
        inner += OUT_PROJ
    names = NORMS[type(block.norm)] + [f"mixer/{name}" for name in inner]
    if mixer is Attention:
        names += FEED_FORWARD
    paths = [f"model/block/{name}" for name in names]
    assert [v.path for v in model.weights] == paths


@each_layer
def test_registered_name_is_that_of_saved_files(layer_class):
    name = f"keras_ssm>{layer_class.__name__}"
    assert keras.saving.get_registered_name(layer_class) == name
    assert keras.saving.get_registered_object(name) is layer_class


def test_every_exported_class_is_registered():
    for name in keras_ssm.layers.__all__:
        exported = getattr(keras_ssm.layers, name)
        registered = keras.saving.get_registered_name(exported)
        assert registered == f"keras_ssm>{name}"


@pytest.mark.parametrize(
    ("options", "count"),
    [
        ({}, 16384 + 512 + 128 + 4608 + 512 + 2048 + 128 + 128 + 8192),
        ({"use_conv_bias": False}, 32640 - 128),
        ({"use_bias": True}, 32640 + 256 + 64),
        (
            {"state_dim": 8, "expand": 1, "dt_rank": 3},
            8192 + 256 + 64 + 1216 + 192 + 512 + 64 + 64 + 4096,
        ),
    ],
)
def test_parameter_count(options, count):
    layer = Mamba(**options)
    layer.build((None, None, 64))
    assert layer.count_params() == count
    block = MambaBlock()
    block.build((None, None, 64))
    assert block.count_params() == 32640 + 64


@pytest.mark.parametrize(
    ("mixer", "count"),
    [
        (
            Mamba2,
            64 * (128 + 384 + 2) + 5 * 384 + 3 * 2 + 128 + 128 * 64,
        ),
        (
            Mamba3,
            64 * (256 + 256 + 3 * 2 + 32)
            + 2 * 128
            + 2 * 2 * 128
            + 2 * 2
            + 128 * 64,
        ),
        (S4D, 2 * 64 + 4 * 64 * 32 + 128 * 64 + 128),
        (S4, 2 * 64 + 8 * 64 * 32 + 128 * 64 + 128),
        (S5, 3 * 128 + 4 * 128 * 64 + 64 + 64 * 64 + 64),
        (LRU, 3 * 256 + 4 * 256 * 64 + 64),
        (RGLRU, 16 * 4 * 8 + 2 * 64 + 64),
        (
            Griffin,
            (64 * 128 + 128) + 4 * 64 + 64 + (512 + 192) + (64 * 64 + 64),
        ),
    ],
)
def test_parameter_count_of_other_layers(mixer, count):
    layer = mixer()
    layer.build((None, None, 64))
    assert layer.count_params() == count


@each_layer
def test_width_comes_from_build(layer_class):
    for width in (4, 20):
        layer = small(layer_class)
        layer.build((None, None, width))
        assert layer.compute_output_shape((1, 2, width)) == (1, 2, width)
        shapes = [state.shape for state in layer.get_initial_state(1)]
        assert shapes == [(1, *s) for s in layer.state_shapes(width)]


@pytest.mark.parametrize("layer_class", [Mamba, MambaBlock])
def test_projections_follow_the_width(layer_class):
    for width in (3, 20):
        layer = layer_class(state_dim=4)
        layer.build((None, None, width))
        weights = named_weights(getattr(layer, "mixer", layer))
        inner = [w for p, w in weights.items() if p.endswith("in_proj/kernel")]
        assert inner[0].shape == (width, 4 * width)
        x_proj = [w for p, w in weights.items() if p.endswith("x_proj/kernel")]
        rank = -(-width // 16)
        assert x_proj[0].shape == (2 * width, rank + 8)


@pytest.fixture(scope="module")
def started():
    """The weights of a layer as it starts, by name."""
    keras.utils.set_random_seed(1)
    layer = Mamba(name="mixer")
    layer.build((None, None, 256))
    return {v.path.removeprefix("mixer/"): value(v) for v in layer.weights}


def test_A_starts_as_1_to_n_in_each_channel(started):
    expected = np.log(np.arange(1, 17, dtype="float32"))
    assert np.abs(started["A_log"] - expected).max() <= 2.5e-7
    assert started["A_log"].shape == (512, 16)


def test_D_starts_as_ones(started):
    assert (started["D"] == 1).all()


def test_step_sizes_start_log_uniform_between_a_thousandth_and_a_tenth(started):
    dt = np.logaddexp(started["dt_bias"].astype("float64"), 0)
    assert dt.min() >= 1e-3 * (1 - 1e-5)
    assert dt.max() <= 0.1 * (1 + 1e-5)
    check_uniform((np.log(dt) - np.log(1e-3)) / np.log(100))


@pytest.mark.parametrize(
    ("name", "fan_in"),
    [
        ("in_proj/kernel", 256),
        ("conv_kernel", 4),
        ("conv_bias", 4),
        ("x_proj/kernel", 512),
        ("dt_proj/kernel", 16),
        ("out_proj/kernel", 512),
    ],
)
def test_kernels_start_uniform_by_their_fan_in(started, name, fan_in):
    weight = started[name].astype("float64").ravel()
    bound = fan_in**-0.5
    assert np.abs(weight).max() <= bound * (1 + 1e-6)
    check_uniform((weight / bound + 1) / 2)


def check_uniform(u):
    """Asserts that numbers look drawn from U(0, 1), by Kolmogorov's test."""
    u = np.sort(u)
    rank = np.arange(len(u))
    distance = max((u - rank / len(u)).max(), ((rank + 1) / len(u) - u).max())
    # Passed by all but one of ten million samples.
    assert distance < 2.9 / np.sqrt(len(u))


@each_layer
def test_two_layers_start_differently(layer_class):
    layers = [small(layer_class) for _ in range(2)]
    for layer in layers:
        layer.build((None, None, WIDTH))
    first, second = (
        named_weights(getattr(layer, "mixer", layer)) for layer in layers
    )
    for name, one in first.items():
        other = second[name]
        name = name.removeprefix("mixer/")
        constant = name in CONSTANT[BLOCKS.get(layer_class, layer_class)]
        same = np.abs(one - other).max() < 1e-3
        assert same == constant, name


def test_projections_of_a_layer_start_differently():
    layer = Mamba(expand=1, dt_rank=16, state_dim=8)
    layer.build((None, None, 32))
    x_proj, out_proj = value(layer.x_proj.kernel), value(layer.out_proj.kernel)
    assert x_proj.shape == out_proj.shape
    assert np.abs(x_proj - out_proj).max() > 1e-3


@each_layer
def test_set_random_seed_reproduces_the_start(layer_class):
    starts = []
    for _ in range(2):
        keras.utils.set_random_seed(7)
        layer = small(layer_class)
        layer.build((None, None, WIDTH))
        starts.append(layer.get_weights())
    for one, other in zip(*starts, strict=True):
        assert (one == other).all()


def test_initializers_that_are_given_are_used():
    layer = Mamba(
        kernel_initializer="ones",
        A_log_initializer="zeros",
        dt_bias_initializer=LogUniformDt(0.5, 0.6),
    )
    layer.build((None, None, WIDTH))
    for dense in (layer.in_proj, layer.x_proj, layer.out_proj):
        assert (value(dense.kernel) == 1).all()
    assert not (value(layer.dt_proj.kernel) == 1).any()
    assert (value(layer.A_log) == 0).all()
    dt = np.logaddexp(value(layer.dt_bias), 0)
    assert dt.min() > 0.499
    assert dt.max() < 0.601


def test_step_sizes_are_raised_to_the_floor():
    bias = as_array(LogUniformDt(1e-6, 1e-5, floor=1e-4)((50,)))
    assert np.allclose(np.logaddexp(bias, 0), 1e-4, rtol=1e-3)


def test_regularizer_reaches_every_projection():
    layer = make(Mamba, kernel_regularizer=keras.regularizers.L2(0.5))
    layer(sequences())
    dense = (layer.in_proj, layer.x_proj, layer.dt_proj, layer.out_proj)
    expected = sorted(0.5 * float((value(d.kernel) ** 2).sum()) for d in dense)
    actual = sorted(float(as_array(loss)) for loss in layer.losses)
    assert np.allclose(actual, expected, rtol=1e-5)


@each_layer
def test_parameters_that_must_not_decay_are_excluded_by_name(layer_class):
    layer = make(layer_class)
    names = traits(layer_class).float32
    optimizer = keras.optimizers.AdamW(1e-3, weight_decay=0.1)
    optimizer.exclude_from_weight_decay(var_names=names)
    optimizer.build(layer.trainable_variables)
    kept = [
        v.path.split("/")[-1]
        for v in layer.trainable_variables
        if not optimizer._use_weight_decay(v)
    ]
    assert sorted(kept) == sorted(names)


@pytest.mark.parametrize(
    ("mixer", "count"), [(S4D, 3), (S4, 7), (S5, 5), (LRU, 5)]
)
def test_dynamics_are_those_that_optimizers_know(mixer, count):
    names = {name.split("/")[-1] for name in WEIGHTS[mixer]}
    dynamics = names & set(keras_ssm.optimizers.DYNAMICS)
    assert dynamics == set(WEIGHTS[mixer][:count])
