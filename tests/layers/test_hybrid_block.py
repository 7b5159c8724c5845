"""A block of any mixer and any MLP, and what it hands on."""

import keras
import numpy as np
import pytest
from compare import assert_same
from layer_harness import (
    BACKEND,
    WIDTH,
    as_array,
    assert_close,
    layer_gradients,
    make,
    mask_of,
    needs_gradients,
    random_states,
    randomize,
    sequences,
    twin,
)

from keras_ssm.layers import (
    GatedMLP,
    HybridBlock,
    Mamba,
    MambaBlock,
    MixtureOfExperts,
)


def block(feed_forward=None, mixer=None, **options):
    """A block, built, every weight of it random."""
    layer = HybridBlock(mixer or Mamba(state_dim=4), feed_forward, **options)
    layer.build((None, None, WIDTH))
    randomize(layer)
    return layer


def root_mean_square(x):
    return np.sqrt((x**2).mean(-1, keepdims=True) + 1e-5)


def test_a_block_without_a_feed_forward_is_the_block_of_its_mixer():
    ours, theirs = block(), make(MambaBlock)
    theirs.set_weights(ours.get_weights())
    assert_same(as_array(ours(sequences())), as_array(theirs(sequences())))


@pytest.mark.parametrize(
    "feed_forward", [GatedMLP(8), keras.layers.Dense(WIDTH, "gelu")]
)
def test_a_feed_forward_is_added_to_what_the_mixer_added(feed_forward):
    x = sequences()
    layer, first = block(feed_forward), block()
    first.set_weights(layer.get_weights()[: len(first.weights)])
    h = as_array(first(x))
    normed = h / root_mean_square(h) * as_array(layer.feed_forward_norm.scale)
    expected = h + as_array(layer.feed_forward(normed))
    assert_close(layer(x), expected, "float32")


def test_a_gated_mlp_computes_its_formula():
    layer = GatedMLP(8, activation="relu", use_bias=True)
    layer.build((None, None, WIDTH))
    randomize(layer)
    x = sequences()
    w = [v.astype("float64") for v in layer.get_weights()]
    gate, up = x @ w[0] + w[1], x @ w[2] + w[3]
    expected = (np.maximum(gate, 0) * up) @ w[4] + w[5]
    assert_close(layer(x), expected, "float32")


def test_sublayers_are_made_again_under_the_policy_of_the_block():
    mixer, feed_forward = Mamba(state_dim=4), GatedMLP(8)
    layer = HybridBlock(mixer, feed_forward, dtype="mixed_bfloat16")
    y = layer(sequences())
    assert keras.backend.standardize_dtype(y.dtype) == "float32"
    assert not mixer.built and not feed_forward.built
    for one, name in (
        (layer.mixer, "mixer"),
        (layer.feed_forward, "feed_forward"),
    ):
        assert one.compute_dtype == "bfloat16"
        assert one.name == name


def test_both_halves_drop_channels_of_their_own():
    x = sequences()
    layer = block(GatedMLP(8), dropout=0.5, seed=3)
    assert_same(as_array(layer(x)), as_array(layer(x, training=False)))
    # Of ones, what is left is which channels were dropped.
    ones = np.ones_like(x)
    first, second = (
        as_array(dropout(ones, training=True))
        for dropout in (layer.dropout_layer, layer.feed_forward_dropout)
    )
    assert (first != second).any()
    trained = as_array(layer(x, training=True))
    for mixed in (as_array(layer(x)), trained - x):
        assert np.abs(trained - mixed).max() > 1e-3


class SeesMasks(keras.layers.Layer):
    """Adds 1 at masked steps, and 2 in training."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.supports_masking = True

    def call(self, inputs, mask=None, training=None):
        masked = keras.ops.logical_not(mask)[..., None]
        y = keras.ops.zeros_like(inputs) + keras.ops.cast(masked, inputs.dtype)
        return y + 2 if training else y

    def compute_output_shape(self, input_shape):
        return input_shape


def test_a_feed_forward_that_takes_masks_gets_them():
    layer = block(SeesMasks())
    x, mask = sequences(), mask_of("holes")
    first = block()
    first.set_weights(layer.get_weights()[: len(first.weights)])
    without = as_array(first(x, mask=mask))
    assert_close(layer(x, mask=mask), without, "float32")
    added = as_array(layer(x, mask=mask, training=True)) - without
    assert np.allclose(added, 2 * mask[..., None], atol=1e-6)
    state = layer.get_initial_state(3)
    y, _ = layer.step(x[:, 0], state, mask=mask[:, 0])
    assert_close(y, without[:, 0], "float32")


def moved_by_a_step(layer, remat, from_state):
    """How a step of training moves the weights of a layer and one before."""
    layer = twin(layer, remat=remat)
    first = keras.layers.Dense(WIDTH)
    inputs = {"x": sequences(), "mask": mask_of("holes")}
    if from_state:
        states = random_states(layer)
        inputs |= {f"state_{i}": state for i, state in enumerate(states)}
    given = {
        name: keras.Input(v.shape[1:], dtype=v.dtype.name, name=name)
        for name, v in inputs.items()
    }
    state = [v for name, v in given.items() if "state" in name] or None
    y = layer(first(given["x"]), state, mask=given["mask"])
    model = keras.Model(given, y)
    first.kernel.assign(np.eye(WIDTH))
    before = model.get_weights()
    model.compile(keras.optimizers.SGD(1.0), "mse", jit_compile=False)
    model.train_on_batch(inputs, sequences(seed=5))
    return [
        new - old
        for new, old in zip(model.get_weights(), before, strict=True)
        if new.dtype == "float32"
    ]


@needs_gradients
@pytest.mark.parametrize(
    ("feed_forward", "from_state"),
    [
        pytest.param(*v, marks=pytest.mark.slow if BACKEND == "jax" else ())
        for v in (
            (GatedMLP(8), False),
            (GatedMLP(8), True),
            (MixtureOfExperts(3, 4, balance_loss=1.0), False),
        )
    ],
)
def test_remat_changes_no_gradient(feed_forward, from_state):
    layer = block(feed_forward, dropout=0.5, seed=3)
    kept, computed_again = (
        moved_by_a_step(layer, remat, from_state) for remat in (False, True)
    )
    assert len(kept) == len(layer.trainable_weights) + 2
    for one, other in zip(computed_again, kept, strict=True):
        assert_close(one, other, "float32", "gradient")


@needs_gradients
@pytest.mark.parametrize(
    ("feed_forward", "inside"),
    [(GatedMLP(8), "call"), (MixtureOfExperts(3, 4), "_experts")],
)
def test_remat_computes_the_inside_again_in_training_alone(
    feed_forward, inside
):
    calls = []
    layer = block(feed_forward, remat=True)
    for part, name in ((layer.mixer, "mix"), (layer.feed_forward, inside)):
        inner = getattr(part, name)

        def spy(*args, inner=inner, **kwargs):
            calls.append(inner)
            return inner(*args, **kwargs)

        setattr(part, name, spy)
    x = sequences()
    layer(x, training=False)
    assert len(calls) == 2
    if BACKEND == "jax":  # It repeats what it traced once.
        import jax

        program = jax.make_jaxpr(lambda x: layer(x, training=True))(x)
        assert str(program).count("remat") == 2
        return
    layer_gradients(layer, x, sequences(seed=5), training=True)
    assert len(calls) == 2 + 4


@pytest.mark.parametrize(
    "feed_forward", [GatedMLP(8), keras.layers.Dense(WIDTH)]
)
def test_a_quantized_block_comes_back_from_a_file(feed_forward, tmp_path):
    model = keras.Sequential([keras.Input((None, WIDTH)), block(feed_forward)])
    model.quantize("int8")
    quantized = {v.path for v in model.weights if v.dtype == "int8"}
    assert any("/mixer/in_proj" in path for path in quantized)
    assert any("/feed_forward/" in path for path in quantized)
    expected = model.predict(sequences(), verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert_same(loaded.predict(sequences(), verbose=0), expected)


@pytest.mark.parametrize(
    ("mixer", "feed_forward", "sentence"),
    [
        (keras.layers.Dense(4), None, "`mixer` must be a sequence layer"),
        (Mamba(), Mamba(), "`feed_forward` must be a layer that treats every"),
        (Mamba(), "gelu", "`feed_forward` must be a layer that treats every"),
        (Mamba(), keras.layers.Dense(4), "`feed_forward` must keep the width"),
    ],
)
def test_what_does_not_fit_is_explained(mixer, feed_forward, sentence):
    with pytest.raises(ValueError, match=sentence):
        HybridBlock(mixer, feed_forward).build((None, None, WIDTH))
