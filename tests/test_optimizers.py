"""Learning rates by parameter."""

import keras
import numpy as np
import pytest
from compare import as_array
from harness import BACKEND, needs_gradients

import keras_ssm
from keras_ssm.optimizers import DYNAMICS, LearningRateFactors

pytestmark = needs_gradients

OPTIMIZERS = {
    # So fast that even a bias of -6 moves.
    "sgd": lambda rate: keras.optimizers.SGD(50 * rate, momentum=0.9),
    "adamw": lambda rate: keras.optimizers.AdamW(rate, weight_decay=0.1),
    "rmsprop": lambda rate: keras.optimizers.RMSprop(rate),
}
each_optimizer = pytest.mark.parametrize("name", OPTIMIZERS)


def small_model():
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [
            keras.Input((7, 4)),
            keras_ssm.layers.MambaBlock(state_dim=3, name="block"),
            keras.layers.Dense(2, name="last"),
        ],
        name="model",
    )


def trained(optimizer, steps=3, **options):
    """Weights by path, before and after a few steps."""
    model = small_model()
    random = np.random.default_rng(0)
    x = random.normal(size=(8, 7, 4)).astype("float32")
    y = random.normal(size=(8, 7, 2)).astype("float32")
    before = values(model)
    model.compile(optimizer, "mse", **options)
    model.fit(x, y, batch_size=8, epochs=steps, shuffle=False, verbose=0)
    return before, values(model)


def values(model):
    return {v.path: np.array(as_array(v.value)) for v in model.weights}


@each_optimizer
def test_a_factor_is_a_factor_of_the_learning_rate(name):
    before, wanted = trained(OPTIMIZERS[name](0.005), steps=1)
    factors = {"A_log|in_proj": 0.5, "last": 0.0}
    _, found = trained(LearningRateFactors(OPTIMIZERS[name](0.01), factors), 1)
    _, others = trained(OPTIMIZERS[name](0.01), steps=1)
    for path, start in before.items():
        if "A_log" in path or "in_proj" in path:
            assert_moved_alike(start, found[path], wanted[path])
        elif "last" in path:
            np.testing.assert_array_equal(found[path], start)
        else:
            assert_moved_alike(start, found[path], others[path])


def assert_moved_alike(start, found, wanted):
    assert np.abs(wanted - start).max() > 0
    # A weight near 1 is known to 6e-8, and so is a move of it.
    np.testing.assert_allclose(found, wanted, rtol=1e-6, atol=3e-7)


@pytest.mark.parametrize("jit_compile", [False, True])
def test_several_steps_in_every_way_that_keras_trains(jit_compile):
    if BACKEND == "torch" and jit_compile:
        pytest.skip("slow to compile, and the optimizer runs outside of it")
    make = OPTIMIZERS["adamw"]
    options = {"jit_compile": jit_compile}
    factors = {".": 0.5}
    _, wanted = trained(make(0.005), **options)
    _, found = trained(LearningRateFactors(make(0.01), factors), **options)
    for path, value in wanted.items():
        np.testing.assert_allclose(found[path], value, rtol=1e-3, atol=1e-4)


def test_the_learning_rate_is_that_of_the_inner_optimizer():
    inner = keras.optimizers.SGD(0.5)
    optimizer = LearningRateFactors(inner, {"A_log": 0.1})
    optimizer.learning_rate = 0.25
    assert float(inner.learning_rate) == 0.25 == float(optimizer.learning_rate)
    trained(optimizer, steps=2)
    assert int(optimizer.iterations) == int(inner.iterations) == 2


def test_names_of_dynamics_keep_weight_decay_away():
    optimizer = keras.optimizers.AdamW(0.0, weight_decay=0.5)
    optimizer.exclude_from_weight_decay(var_names=DYNAMICS)
    optimizer.learning_rate = 1e-9
    model = small_model()
    decays = {v.name for v in model.weights if optimizer._use_weight_decay(v)}
    assert {"A_log", "dt_bias"}.isdisjoint(decays)
    assert {"kernel", "conv_kernel"} <= decays


def test_it_is_saved_with_a_model(tmp_path):
    model = small_model()
    inner = keras.optimizers.AdamW(0.01, weight_decay=0.1)
    model.compile(LearningRateFactors(inner, {"A_log": 0.1}), "mse")
    x = np.ones((2, 7, 4), "float32")
    model.fit(x, x[..., :2], verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert loaded.optimizer.factors == {"A_log": 0.1}
    assert float(loaded.optimizer.inner_optimizer.weight_decay) == 0.1
    for again in (model, loaded):
        again.fit(x, x[..., :2], verbose=0)
    for weight, of_loaded in zip(model.weights, loaded.weights, strict=True):
        wanted, found = as_array(weight.value), as_array(of_loaded.value)
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    ("arguments", "error", "sentence"),
    [
        (("adam", {"A": 0.1}), TypeError, "needs an optimizer of Keras"),
        ((keras.optimizers.SGD(), {}), ValueError, "needs factors"),
        ((keras.optimizers.SGD(), {"A": -1}), ValueError, "negative"),
        (
            (keras.optimizers.SGD(use_ema=True), {"A": 1}),
            ValueError,
            "use_ema=True",
        ),
    ],
)
def test_mistakes_get_a_sentence(arguments, error, sentence):
    with pytest.raises(error, match=sentence):
        LearningRateFactors(*arguments)
