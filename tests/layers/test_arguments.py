"""What is wrong is said in a sentence, with what to do."""

import re

import keras
import numpy as np
import pytest
from layer_harness import (
    BATCH,
    LENGTH,
    MIXERS,
    WIDTH,
    each_layer,
    make,
    random_states,
    sequences,
    small,
    traits,
)

from keras_ssm.layers import (
    LRU,
    RGLRU,
    S4,
    S4D,
    S5,
    Griffin,
    LogUniformDt,
    Mamba,
    Mamba2,
    Mamba3,
    UniformDecay,
)

SIZES = {
    Mamba: ("state_dim", "conv_kernel_size", "expand", "dt_rank"),
    Mamba2: (
        *("state_dim", "head_dim", "groups", "conv_kernel_size", "expand"),
    ),
    Mamba3: (
        *("state_dim", "head_dim", "groups", "rank", "rotary_dim", "expand"),
    ),
    S4D: ("state_dim",),
    S4: ("state_dim",),
    S5: ("state_dim", "blocks"),
    LRU: ("state_dim",),
    RGLRU: ("heads",),
    Griffin: ("state_dim", "conv_kernel_size", "heads"),
}


@pytest.mark.parametrize(
    ("layer_class", "name"),
    [
        (layer, name)
        for mixer, names in SIZES.items()
        for layer in (mixer, MIXERS[mixer].block)
        for name in names
    ],
)
@pytest.mark.parametrize("size", [0, -1, 2.5, True])
def test_sizes_are_positive_integers(layer_class, name, size):
    expected = rf"`{name}` must be a positive integer. Received: {name}={size}"
    with pytest.raises(ValueError, match=expected):
        layer_class(**{name: size})


@each_layer
def test_input_has_three_axes(layer_class):
    with pytest.raises(ValueError, match=r"shape \(batch, length, width\)"):
        small(layer_class)(np.zeros((2, 5), "float32"))
    with pytest.raises(ValueError, match=r"shape \(batch, length, width\)"):
        small(layer_class)(keras.Input((4, 5, 6)))


@each_layer
def test_width_of_the_input_is_known(layer_class):
    with pytest.raises(ValueError, match="with a known width"):
        small(layer_class)(keras.Input((None, None)))


@each_layer
def test_width_of_the_input_stays_the_same(layer_class):
    layer = make(layer_class)
    with pytest.raises(ValueError, match=f"{WIDTH}"):
        layer(np.zeros((BATCH, LENGTH, WIDTH + 1), "float32"))


@each_layer
def test_number_of_states_is_checked(layer_class):
    layer = make(layer_class)
    states = random_states(layer)
    expected = f"the state must be {len(states)} tensor"
    with pytest.raises(ValueError, match=expected):
        layer(sequences(), initial_state=states[:-1])
    with pytest.raises(ValueError, match=expected):
        layer.step(sequences()[:, 0], (*states, states[0]))


@each_layer
def test_shapes_of_states_are_checked(layer_class):
    layer = make(layer_class)
    shapes = [("batch", *shape) for shape in traits(layer_class).states]
    shapes = ", ".join(str(shape).replace("'", "") for shape in shapes)
    expected = f"shapes {re.escape(shapes)}.*get_initial_state"
    short = [state[..., 1:] for state in random_states(layer)]
    with pytest.raises(ValueError, match=expected):
        layer(sequences(), initial_state=short)
    with pytest.raises(ValueError, match=expected):
        layer.step(sequences()[:, 0], short)


@each_layer
def test_states_have_the_batch_size_of_the_input(layer_class):
    layer = make(layer_class)
    states = random_states(layer, batch=BATCH + 1)
    with pytest.raises(ValueError, match="must be for the . rows of the input"):
        layer(sequences(), initial_state=states)


@each_layer
def test_stateful_layer_needs_a_batch_size(layer_class):
    with pytest.raises(ValueError, match="needs a fixed batch size; pass"):
        small(layer_class, stateful=True)(keras.Input((None, WIDTH)))


@each_layer
def test_stateful_layer_keeps_its_batch_size(layer_class):
    layer = make(layer_class, batch=BATCH, stateful=True)
    with pytest.raises(ValueError, match="must be for the . rows of the input"):
        layer(sequences(batch=BATCH - 1))


@each_layer
def test_initial_state_needs_a_built_layer(layer_class):
    with pytest.raises(ValueError, match="the width is not known yet"):
        small(layer_class).get_initial_state(2)


@each_layer
def test_unknown_argument_is_named(layer_class):
    with pytest.raises((TypeError, ValueError), match="units"):
        small(layer_class, units=4)


@pytest.mark.parametrize("initializer", (LogUniformDt, UniformDecay))
def test_bounds_are_ordered(initializer):
    name = initializer.__name__
    with pytest.raises(ValueError, match=f"`{name}` needs 0 < minimum <= max"):
        initializer(0.1, 0.01)


@pytest.mark.parametrize("mixer", (Mamba2, Mamba3))
@pytest.mark.parametrize("sizes", ({"head_dim": 5}, {"groups": 5}))
def test_heads_divide_the_channels_and_groups_the_heads(mixer, sizes):
    expected = (
        "mixer: `head_dim` must divide the channels, `expand * width`, into a "
        "number of heads that is a multiple of `groups`. Received: "
        f"head_dim={sizes.get('head_dim')}, groups={sizes.get('groups', 1)}, "
        "expand=2, width=6."
    )
    with pytest.raises(ValueError, match=re.escape(expected)):
        mixer(**sizes, name="mixer").build((None, None, WIDTH))


def test_unknown_initializer_is_named():
    with pytest.raises(ValueError, match="no_such_thing"):
        Mamba(kernel_initializer="no_such_thing")


@pytest.mark.parametrize(
    ("make_it", "sentence"),
    [
        (
            lambda: S5(state_dim=12, blocks=4),
            "`S5`: `state_dim` must be a multiple of 2 * blocks, so that each "
            "block has whole conjugate pairs. Received: state_dim=12, "
            "blocks=4.",
        ),
        (
            lambda: S5(rate=0),
            "`S5`: `rate` must be positive. Received: rate=0.",
        ),
        (
            lambda: LRU(activation="relu"),
            "`LRU`: `activation` must be one of (None, 'half_glu', 'glu'). "
            "Received: activation='relu'.",
        ),
        (
            lambda: LRU(r_min=0.9, r_max=0.8),
            "`LRURing` needs 0 <= r_min < r_max <= 1. "
            "Received: r_min=0.9, r_max=0.8.",
        ),
        (
            lambda: RGLRU(heads=4, name="gated").build((None, None, 6)),
            "gated: the width of the recurrence must be a multiple of "
            "`heads`. Received: width=6, heads=4.",
        ),
    ],
)
def test_arguments_that_do_not_fit_are_explained(make_it, sentence):
    with pytest.raises(ValueError) as caught:
        make_it()
    assert str(caught.value) == sentence
