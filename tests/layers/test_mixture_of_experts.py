"""Experts, who chooses them, and the loss that balances them."""

import keras
import numpy as np
import pytest
from compare import assert_same
from layer_harness import (
    LENGTH,
    WIDTH,
    as_array,
    assert_close,
    layer_gradients,
    mask_of,
    needs_gradients,
    randomize,
    sequences,
    value,
)

from keras_ssm.layers import (
    GatedMLP,
    HybridBlock,
    Mamba,
    MixtureOfExperts,
    mixture_of_experts,
)
from keras_ssm.layers.expert_blocks import block_size

EXPERTS, UNITS = 4, 5
# All experts for all steps, or blocks of steps for each: `None` is not small
# enough here to pay.
each_way = pytest.mark.parametrize("size", [None, 1, 5])


@pytest.fixture
def in_blocks(monkeypatch, size):
    """Has layers put so many steps into a block."""
    name = f"{mixture_of_experts.__name__}.block_size"
    monkeypatch.setattr(name, lambda *_: size)


def make(**options):
    layer = MixtureOfExperts(EXPERTS, UNITS, **options)
    layer.build((None, None, WIDTH))
    randomize(layer)
    # The same choices on each backend.
    router = np.random.default_rng(3).normal(size=(WIDTH, EXPERTS))
    layer.router_kernel.assign(router.astype("float32"))
    return layer


def experts_of(layer):
    """Each as a layer of its own."""
    kernels = [
        np.split(value(layer.gate_proj.kernel), layer.experts, axis=1),
        np.split(value(layer.up_proj.kernel), layer.experts, axis=1),
        np.split(value(layer.down_proj.kernel), layer.experts, axis=0),
    ]
    found = []
    for weights in zip(*kernels, strict=True):
        expert = GatedMLP(layer.units)
        expert.build((None, None, WIDTH))
        expert.set_weights(weights)
        found.append(expert)
    return found


def routed(layer, x):
    """Probabilities, and which experts are chosen, step by step."""
    logits = x @ value(layer.router_kernel).astype("float64")
    p = np.exp(logits - logits.max(-1, keepdims=True))
    p /= p.sum(-1, keepdims=True)
    chosen = np.zeros(p.shape, bool)
    for index in np.ndindex(p.shape[:-1]):
        chosen[index][np.argsort(-p[index])[: layer.top_k]] = True
    return p, chosen


@each_way
@pytest.mark.parametrize(
    "options", [{}, {"top_k": 1}, {"top_k": 3, "normalize": True}]
)
def test_a_step_passes_through_the_experts_it_chooses(options, in_blocks):
    layer, x = make(**options), sequences()
    p, chosen = routed(layer, x)
    weights = np.where(chosen, p, 0)
    if options.get("normalize"):
        weights /= weights.sum(-1, keepdims=True)
    expected = sum(
        weights[..., e : e + 1] * as_array(expert(x))
        for e, expert in enumerate(experts_of(layer))
    )
    assert 0 < chosen.mean((0, 1)).min() < chosen.mean((0, 1)).max()
    assert_close(layer(x), expected, "float32")


def test_a_step_gives_what_it_gives_in_a_sequence():
    layer, x = make(), sequences()
    expected = as_array(layer(x))
    assert_close(layer(x[:, 3]), expected[:, 3], "float32")


@each_way
def test_however_many_choose_an_expert_all_reach_it(in_blocks):
    layer, x = make(top_k=1), np.abs(sequences())
    router = np.zeros((WIDTH, EXPERTS), "float32")
    router[:, 2] = 1
    layer.router_kernel.assign(router)
    p, _ = routed(layer, x)
    expected = p[..., 2:3] * as_array(experts_of(layer)[2](x))
    assert_close(layer(x), expected, "float32")


def test_of_equal_experts_the_first_are_chosen():
    layer, x = make(), sequences()
    layer.router_kernel.assign(np.zeros((WIDTH, EXPERTS), "float32"))
    first, second, *_ = (as_array(e(x)) for e in experts_of(layer))
    assert_close(layer(x), (first + second) / EXPERTS, "float32")


@pytest.mark.parametrize("padding", [None, "holes"])
def test_the_loss_is_that_of_the_formula(padding):
    layer, x = make(balance_loss=0.25), sequences()
    mask = np.ones(x.shape[:2], bool) if padding is None else mask_of(padding)
    layer(x)
    assert not layer.losses
    layer(x, mask=None if padding is None else mask, training=True)
    p, chosen = (v[mask] for v in routed(layer, x))
    expected = 0.25 * EXPERTS * (chosen.mean(0) * p.mean(0)).sum()
    (loss,) = (as_array(v) for v in layer.losses)
    assert np.allclose(loss, expected, rtol=1e-5)


def test_masked_steps_change_nothing_whatever_they_hold():
    layer, mask = make(), mask_of("holes")
    found = []
    for spoiled in (0, np.nan):
        x = np.where(mask[..., None], sequences(), np.float32(spoiled))
        y = as_array(layer(x, mask=mask, training=True))
        found.append((y, as_array(layer.losses[0])))
    for one, other in zip(*found, strict=True):
        assert_same(one, other)
    assert not found[0][0][~mask].any()
    assert_same(found[0][0][0], as_array(layer(sequences()))[0])


@needs_gradients
@each_way
def test_gradients_reach_the_router_and_the_experts_that_are_chosen(in_blocks):
    layer, x = make(top_k=1), sequences(length=1)
    _, chosen = routed(layer, x)
    chosen = chosen.any(axis=(0, 1))
    assert 0 < chosen.sum() < EXPERTS
    _, gradients = layer_gradients(layer, x, sequences(1, seed=5))
    by_name = {path.split("/", 1)[-1]: v for path, v in gradients.items()}
    assert np.abs(by_name["router_kernel"]).min() > 0
    for name in ("gate_proj/kernel", "up_proj/kernel", "down_proj/kernel"):
        axis = 0 if name.startswith("down") else 1
        each = np.split(by_name[name], EXPERTS, axis=axis)
        reached = [np.abs(v).max() > 0 for v in each]
        assert reached == chosen.tolist(), name


@needs_gradients
@pytest.mark.parametrize("normalize", [False, True])
def test_gradients_are_the_same_in_blocks(normalize, monkeypatch):
    layer, x = make(normalize=normalize), sequences()
    name = f"{mixture_of_experts.__name__}.block_size"
    found = []
    for size in (None, 5):
        monkeypatch.setattr(name, lambda *_, size=size: size)
        found.append(layer_gradients(layer, x, sequences(seed=5))[1])
    for path, expected in found[0].items():
        assert_close(found[1][path], expected, "float32", "gradient", path)


@pytest.mark.parametrize(
    ("steps", "pays"), [(1, False), (32, False), (1024, True), (9999, True)]
)
def test_blocks_are_for_many_steps_and_experts(steps, pays):
    assert (block_size(steps, 16, 2) is not None) == pays
    assert block_size(steps, 4, 3) is None


@needs_gradients
def test_the_loss_is_part_of_what_fit_minimizes():
    layer = make(balance_loss=10.0)
    model = keras.Sequential([keras.Input((LENGTH, WIDTH)), layer])
    model.compile(keras.optimizers.SGD(0.1), "mse")
    x = sequences()
    y = as_array(layer(x))
    before = value(layer.router_kernel)
    assert model.train_on_batch(x, y) > 10.0
    assert np.abs(value(layer.router_kernel) - before).max() > 1e-3


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "bfloat16", "float16"])
def test_the_router_is_float32(policy):
    layer = MixtureOfExperts(EXPERTS, UNITS, dtype=policy)
    y = layer(sequences(), training=True)
    dtypes = [
        keras.backend.standardize_dtype(v.dtype)
        for v in (layer.router_kernel, layer.losses[0], y)
    ]
    assert dtypes == ["float32", "float32", layer.compute_dtype]


def test_experts_start_as_wide_as_one_alone_and_not_alike():
    seeded = keras.initializers.VarianceScaling(1.0, seed=3)
    layer = MixtureOfExperts(3, 400, kernel_initializer=seeded)
    layer.build((None, None, 50))
    down = np.split(value(layer.down_proj.kernel), 3)
    for kernel in down:
        assert abs(kernel.std() * 400**0.5 - 1) < 0.05
    assert np.abs(down[0] - down[1]).max() > 1e-3


def test_a_block_of_experts_comes_back_from_a_file(tmp_path):
    layer = HybridBlock(
        Mamba(state_dim=4), MixtureOfExperts(EXPERTS, UNITS, normalize=True)
    )
    model = keras.Sequential([keras.Input((None, WIDTH)), layer])
    randomize(model)
    model.quantize("int8")
    assert layer.feed_forward.down_proj.kernel.dtype == "int8"
    x, mask = sequences(), mask_of("holes")
    expected = as_array(layer(x, mask=mask))
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras").layers[0]
    assert_same(as_array(loaded(x, mask=mask)), expected)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"experts": 0}, "`experts` must be a positive integer"),
        ({"units": 0}, "`units` must be a positive integer"),
        ({"top_k": 5}, "`top_k` must be at most `experts`"),
        ({"balance_loss": -1.0}, "`balance_loss` must not be negative"),
    ],
)
def test_sizes_that_do_not_fit_are_explained(options, sentence):
    with pytest.raises(ValueError, match=sentence):
        MixtureOfExperts(**{"experts": EXPERTS, "units": UNITS, **options})
