"""Layers learn: `fit`, dropout, LoRA, quantization, Keras' own checks."""

import keras
import numpy as np
import pytest
from layer_harness import (
    BACKEND,
    BATCH,
    BLOCKS,
    LAYERS,
    LENGTH,
    SOME,
    WIDTH,
    as_array,
    each,
    each_layer,
    make,
    needs_gradients,
    sequences,
    slow_unless,
    value,
)

from keras_ssm.kernels import platforms
from keras_ssm.layers import (
    LRU,
    RGLRU,
    S4,
    S4D,
    S5,
    Attention,
    Griffin,
    GriffinBlock,
    Mamba,
    Mamba2,
    Mamba2Block,
    Mamba3,
    Mamba3Block,
    MambaBlock,
    S4DBlock,
    S5Block,
)
from keras_ssm.layers.dense import project

pytestmark = needs_gradients

JIT_COMPILE = {
    "jax": ["auto"],
    "tensorflow": [False, True],
    "torch": [False, pytest.param(True, marks=pytest.mark.slow)],
}.get(BACKEND, [])


def examples(count: int, length: int, seed: int = 0):
    """Padded rows of tokens, and which of 1 and 2 comes last in each."""
    rng = np.random.default_rng(seed)
    tokens = rng.integers(1, 8, (count, length))
    labels = rng.integers(0, 2, count)
    used = rng.integers(length // 2, length + 1, count)
    for row, label, end in zip(tokens, labels, used, strict=True):
        row[row <= 2] = 3
        row[end - 2] = 1 + label
        row[end:] = 0
    return tokens.astype("int32"), labels.astype("int32")


def classifier(jit_compile):
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((None,), dtype="int32"),
            keras.layers.Embedding(8, 16, mask_zero=True),
            MambaBlock(state_dim=4, dropout=0.1),
            keras.layers.LayerNormalization(),
            Mamba(state_dim=4, return_sequences=False),
            keras.layers.Dense(2),
        ]
    )
    model.compile(
        keras.optimizers.Adam(3e-3),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        jit_compile=jit_compile,
    )
    return model


class Batches(keras.utils.PyDataset):
    """Padded batches of varying length, as bucketing makes them."""

    def __len__(self):
        return 12

    def __getitem__(self, index):
        return examples(32, (7, 12)[index % 2], seed=index)


@pytest.mark.parametrize("jit_compile", JIT_COMPILE)
def test_fit_learns_from_padded_batches_of_varying_length(jit_compile):
    model = classifier(jit_compile)
    history = model.fit(Batches(), epochs=3, verbose=0).history
    assert history["loss"][-1] < 0.2 * history["loss"][0]


def test_dropout_happens_in_training_only():
    block = make(MambaBlock, dropout=0.5, seed=3)
    plain = make(MambaBlock)
    plain.set_weights(block.trainable_variables)
    x = sequences()
    without = as_array(plain(x))
    assert (as_array(block(x)) == without).all()
    assert (as_array(block(x, training=False)) == without).all()
    added = as_array(block(x, training=True)) - x
    dropped = added == 0
    assert 0.3 < dropped.mean() < 0.7
    kept = 2 * (without - x)
    assert np.allclose(added[~dropped], kept[~dropped], atol=1e-5)


def test_dropout_is_seeded():
    x, weights = sequences(), make(MambaBlock).get_weights()
    results = []
    for seed in (3, 3, 4):
        block = make(MambaBlock, dropout=0.5, seed=seed)
        for v, weight in zip(block.trainable_variables, weights, strict=True):
            v.assign(weight)
        results.append(as_array(block(x, training=True)))
    assert (results[0] == results[1]).all()
    assert (results[0] != results[2]).any()


def test_dropout_differs_from_call_to_call():
    block = make(MambaBlock, dropout=0.5, seed=3)
    x = sequences()
    first = as_array(block(x, training=True))
    assert (as_array(block(x, training=True)) != first).any()


PROJECTIONS = {
    Mamba: ["in_proj", "x_proj", "dt_proj", "out_proj"],
    Mamba2: ["in_proj", "out_proj"],
    Mamba3: ["in_proj", "out_proj"],
    S4D: ["out_proj"],
    S4: ["out_proj"],
    S5: ["out_proj"],
    LRU: ["out_proj"],
    Griffin: ["in_proj", "out_proj"],
    Attention: ["q_proj", "k_proj", "v_proj", "out_proj"],
}
each_layer_with_projections = each(
    "layer_class",
    [layer for layer in LAYERS if BLOCKS.get(layer, layer) in PROJECTIONS],
)


def make_with_projections(layer_class):
    options = {"activation": "glu"} if layer_class is LRU else {}
    return make(layer_class, **options)


def projections(layer):
    mixer = getattr(layer, "mixer", layer)
    return [getattr(mixer, name) for name in PROJECTIONS[type(mixer)]]


@pytest.mark.skipif(BACKEND != "torch", reason="others call their layers")
@pytest.mark.parametrize(
    ("policy", "rank"), [("float32", 2), ("mixed_bfloat16", None)]
)
def test_a_projection_without_a_call_is_the_same(policy, rank):
    layer = make(Mamba, use_bias=True, dtype=policy)
    dense = layer.in_proj
    dense.bias.assign(keras.random.normal(dense.bias.shape, seed=1))
    if rank is not None:
        dense.enable_lora(rank, b_initializer="he_uniform")
    x = keras.ops.cast(sequences(), dense.compute_dtype)
    np.testing.assert_array_equal(
        *(
            as_array(keras.ops.cast(y, "float32"))
            for y in (project(dense, x), dense(x))
        )
    )


@pytest.mark.skipif(BACKEND != "torch", reason="others call their layers")
def test_who_watches_a_projection_sees_it():
    layer, seen = make(Mamba), []
    hook = layer.in_proj.register_forward_hook(lambda *_: seen.append("hook"))
    layer(sequences())
    hook.remove()
    call = layer.in_proj.call
    # As calibrations of Keras' quantizers do.
    layer.in_proj.call = lambda x, **kwargs: seen.append("call") or call(x)
    layer(sequences())
    assert seen == ["hook", "call"]


@each_layer_with_projections
def test_lora_trains_beside_frozen_projections(layer_class):
    layer = make_with_projections(layer_class)
    for dense in projections(layer):
        dense.enable_lora(2)
    model = keras.Sequential([keras.Input((LENGTH, WIDTH)), layer])
    model.compile(keras.optimizers.SGD(0.1), "mse")
    before = {
        d.name: (value(d._kernel), value(d.lora_kernel_b))
        for d in projections(layer)
    }
    model.fit(sequences(), sequences(seed=4), epochs=2, verbose=0)
    for dense in projections(layer):
        kernel, lora = before[dense.name]
        assert (value(dense._kernel) == kernel).all()
        assert (value(dense.lora_kernel_b) != lora).any(), dense.name


@pytest.mark.skipif(
    BACKEND == "jax" and platforms.here("jax") == "gpu",
    reason="XLA multiplies int8 there in widths that are multiples of 4",
)
@each_layer_with_projections
def test_int8_quantization_reaches_every_large_projection(layer_class):
    layer = make_with_projections(layer_class)
    model = keras.Sequential([keras.Input((LENGTH, WIDTH)), layer])
    x = sequences()
    expected = as_array(model(x))
    model.quantize("int8")
    for dense in projections(layer):
        small = dense.name in ("x_proj", "dt_proj")
        dtype = keras.backend.standardize_dtype(dense._kernel.dtype)
        assert (dtype == "int8") != small, dense.name
    actual = as_array(model(x))
    error = np.sqrt(np.mean((actual - expected) ** 2))
    assert 0 < error < 0.03 * np.sqrt(np.mean(expected**2))
    y, _ = layer.step(x[:, 0], layer.get_initial_state(BATCH))
    error = np.abs(as_array(y) - expected[:, 0]).max()
    assert error < 0.1 * np.abs(expected).max()


CHECKED = [
    (
        Mamba,
        {"state_dim": 3, "return_sequences": False, "use_bias": True},
        11,
        (2, 4),
    ),
    (MambaBlock, {"state_dim": 3, "dropout": 0.2}, 10, (2, 5, 4)),
    (Mamba2Block, {"state_dim": 3, "dropout": 0.2}, 9, (2, 5, 4)),
    (Mamba3Block, {"state_dim": 4, "dropout": 0.2}, 9, (2, 5, 4)),
    (S4DBlock, {"state_dim": 4, "dropout": 0.2}, 10, (2, 5, 4)),
    (S4, {"state_dim": 4, "return_sequences": False}, 12, (2, 4)),
    (S5Block, {"state_dim": 4, "blocks": 1}, 12, (2, 5, 4)),
    (LRU, {"state_dim": 3, "return_sequences": False}, 8, (2, 4)),
    (RGLRU, {}, 3, (2, 5, 4)),
    (GriffinBlock, {"state_dim": 3, "dropout": 0.2}, 10, (2, 5, 4)),
    (Attention, {"heads": 2, "kv_heads": 1, "window": 3}, 4, (2, 5, 4)),
]


@pytest.mark.parametrize(
    ("layer_class", "options", "weights", "shape"),
    [
        pytest.param(*case, marks=slow_unless(case[0] in SOME))
        for case in CHECKED
    ],
)
def test_layers_pass_the_checks_of_keras(layer_class, options, weights, shape):
    testing = pytest.importorskip("keras.src.testing", reason="it has moved")
    seeds = 1 if options.get("dropout") else 0
    testing.TestCase().run_layer_test(
        layer_class,
        init_kwargs=options,
        input_shape=(2, 5, 4),
        expected_output_shape=shape,
        expected_num_trainable_weights=weights,
        expected_num_non_trainable_weights=0,
        expected_num_seed_generators=seeds,
        expected_num_losses=0,
        supports_masking=True,
    )


@pytest.mark.skipif(BACKEND != "torch", reason="about PyTorch's compiler")
@each_layer
def test_compiles_without_a_graph_break(layer_class):
    import torch

    # It keeps few programs for code that all layers share.
    torch.compiler.reset()
    layer = make(layer_class)
    x = keras.ops.convert_to_tensor(sequences())
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    np.testing.assert_array_equal(as_array(compiled(x)), as_array(layer(x)))
