"""What is special about attention: its formula, and a state that is a ring."""

import keras
import numpy as np
import pytest
from compare import assert_same
from layer_harness import (
    ATTENTION,
    BACKEND,
    BATCH,
    LENGTH,
    WIDTH,
    as_array,
    assert_close,
    make,
    mask_of,
    sequences,
    twin,
    value,
)

from keras_ssm.layers import Attention, HybridBlock, StepCell

OPTIONS = {
    "plain": {"heads": 2},
    "rotary": {"heads": 2, "head_dim": 4, "rotary_base": 100.0},
    "one_key_head": {
        **{"heads": 3, "kv_heads": 1, "head_dim": 4, "use_bias": True},
        **{"rotary_base": 10.0, "rotary_dim": 2},
    },
    "window": ATTENTION,
}
# JAX compiles every operation on every shape.
SLOW_TO_COMPILE = pytest.mark.slow if BACKEND == "jax" else ()
each_option = pytest.mark.parametrize(
    "options",
    [
        pytest.param(OPTIONS["plain"], marks=SLOW_TO_COMPILE),
        pytest.param(OPTIONS["rotary"], marks=SLOW_TO_COMPILE),
        OPTIONS["one_key_head"],
        OPTIONS["window"],
    ],
    ids=OPTIONS.keys(),
)


def attention(x, w, heads, kv_heads=None, head_dim=None, window=None, **rotary):
    """Attention of one row, step by step.

    Args:
        x: Steps, `(l, m)`, float64.
        w: Weights by name.
        heads: As of the layer, like all that follows.
    """
    p = head_dim or x.shape[1] // heads
    q, k, v = (
        (x @ w[f"{n}_proj/kernel"] + w.get(f"{n}_proj/bias", 0)).reshape(
            len(x), -1, p
        )
        for n in "qkv"
    )
    q, k = (turned(array, **rotary) for array in (q, k))
    y = np.zeros((len(x), heads, p))
    for t in range(len(x)):
        first = 0 if window is None else max(0, t + 1 - window)
        for h in range(heads):
            of = h * (kv_heads or heads) // heads
            scores = np.exp(k[first : t + 1, of] @ q[t, h] / np.sqrt(p))
            y[t, h] = scores / scores.sum() @ v[first : t + 1, of]
    y = y.reshape(len(x), -1)
    return y @ w["out_proj/kernel"] + w.get("out_proj/bias", 0)


def turned(x, rotary_base=None, rotary_dim=None, **_):
    """Pairs of channels as complex numbers, turned by their position."""
    if rotary_base is None:
        return x
    size = rotary_dim or x.shape[-1]
    pairs = x[..., : size // 2] + 1j * x[..., size // 2 : size]
    angle = rotary_base ** (-2 * np.arange(size // 2) / size)
    pairs = pairs * np.exp(1j * np.arange(len(x))[:, None, None] * angle)
    return np.concatenate([pairs.real, pairs.imag, x[..., size:]], axis=-1)


def formula(layer, x, mask, options):
    """What a layer should give, rows without what is masked."""
    w = {
        v.path.split("/", 1)[1]: value(v).astype("float64")
        for v in layer.weights
    }
    y = np.zeros(x.shape)
    for row in np.flatnonzero(mask.any(axis=1)):
        live = mask[row]
        y[row, live] = attention(x[row, live].astype("float64"), w, **options)
    return y


@each_option
@pytest.mark.parametrize(
    ("length", "padding"),
    [
        (LENGTH, "holes"),
        pytest.param(LENGTH, None, marks=SLOW_TO_COMPILE),
        pytest.param(3, "holes", marks=SLOW_TO_COMPILE),
    ],
)
def test_attention_computes_its_formula(options, length, padding):
    x = sequences(length)
    mask = np.ones((BATCH, length), bool)
    mask = mask if padding is None else mask_of(padding)[:, :length]
    layer = make(Attention, **{"window": None, **NO_ROTARY, **options})
    expected = formula(layer, x, mask, options)
    y = layer(x) if padding is None else layer(x, mask=mask)
    assert_close(y, expected, "float32")


# What `make` would set.
NO_ROTARY = {"kv_heads": None, "head_dim": None, "rotary_base": None}


def without_window(**options):
    return make(Attention, window=None, **options)


def in_chunks(layer, x, state, cuts, mask=None):
    """Runs a layer over a sequence in pieces: `step`s or `steps`."""
    outputs = []
    for first, last in zip(cuts, cuts[1:], strict=False):
        live = None if mask is None else mask[:, first:last]
        if last - first == 1:
            live = None if live is None else live[:, 0]
            y, state = layer.step(x[:, first], state, mask=live)
            y = as_array(y)[:, None]
        else:
            y, state = layer.steps(x[:, first:last], state, mask=live)
        outputs.append(as_array(y))
    return np.concatenate(outputs, axis=1), state


@pytest.mark.parametrize(
    ("cuts", "size", "padding"),
    [
        ((0, 9), 12, None),
        ((0, 1, 2, 7, 9), 4, "holes"),
        pytest.param((0, 9), 4, None, marks=SLOW_TO_COMPILE),
        pytest.param((0, 9), LENGTH, "left", marks=SLOW_TO_COMPILE),
        pytest.param((0, 1, 2, 7, 9), 12, "left", marks=SLOW_TO_COMPILE),
        pytest.param((0, 1, 2, 7, 9), 4, None, marks=SLOW_TO_COMPILE),
    ],
)
def test_a_state_of_c_steps_makes_a_window_of_c(cuts, size, padding):
    x, mask = sequences(), None if padding is None else mask_of(padding)
    layer = without_window()
    state = layer.get_initial_state(BATCH, length=size)
    expected = as_array(twin(layer, window=size)(x, mask=mask))
    y, state = in_chunks(layer, x, state, cuts, mask)
    assert_close(y, expected, "float32")
    count = [[LENGTH]] * BATCH if mask is None else mask.sum(1, keepdims=True)
    assert_same(as_array(state[2]), np.array(count, "int32"))


def test_a_ring_holds_the_last_steps_where_their_positions_say():
    x, mask = sequences(), mask_of("right")
    layer = without_window()
    large, small = (
        layer.steps(x, layer.get_initial_state(BATCH, size), mask=mask)[1]
        for size in (LENGTH, 4)
    )
    for everything, ring in zip(large[:2], small[:2], strict=True):
        everything, ring = as_array(everything), as_array(ring)
        for row, count in enumerate(mask.sum(1)):
            for position in range(max(0, count - 4), count):
                kept = ring[row, position % 4]
                assert_same(kept, everything[row, position])
            assert not ring[row, count:].any()


@pytest.mark.parametrize("length", [pytest.param(40, marks=SLOW_TO_COMPILE)])
def test_chunks_may_be_much_longer_than_the_window(length):
    x = sequences(length, batch=1)
    layer = make(Attention, window=8)
    state = layer.get_initial_state(1)
    cuts = (0, 11, 12, length)
    y, state = in_chunks(layer, x, state, cuts)
    whole = layer(x)
    assert_close(y, as_array(whole), "float32")
    assert as_array(state[2]).item() == length


def test_grouped_heads_are_heads_with_copies_of_keys_and_values():
    grouped = without_window()
    every = without_window(kv_heads=4)
    weights = {v.path.split("/", 1)[1]: value(v) for v in grouped.weights}
    for name in ("k_proj/kernel", "v_proj/kernel"):
        kernel = weights[name].reshape(WIDTH, 2, 4)
        weights[name] = np.repeat(kernel, 2, axis=1).reshape(WIDTH, 16)
    for v in every.weights:
        v.assign(weights[v.path.split("/", 1)[1]])
    x = sequences()
    assert_close(grouped(x), as_array(every(x)), "float32")


def test_positions_matter_only_where_they_are_asked_for():
    x = sequences()
    swapped = x[:, [1, 0, *range(2, LENGTH)]]
    for base, same in ((None, True), (100.0, False)):
        layer = without_window(rotary_base=base)
        y, other = (as_array(layer(v))[:, -1] for v in (x, swapped))
        assert (np.abs(y - other).max() < 1e-5) == same


def test_states_that_grow_are_asked_for_with_their_size():
    layer = without_window(return_state=True)
    with pytest.raises(ValueError, match="the number of steps that they can"):
        layer.get_initial_state(BATCH)
    expected = r"Pass `initial_state=layer.get_initial_state\(batch_size, len"
    with pytest.raises(ValueError, match=expected):
        layer(sequences())
    with pytest.raises(ValueError, match=expected):
        layer(keras.Input((None, WIDTH)))
    state = layer.get_initial_state(BATCH, 20)
    y, *after = layer(sequences(), initial_state=state)
    assert [v.shape for v in after] == [v.shape for v in state]
    short = [*(v[:, :, 1:] for v in state[:2]), state[2]]
    with pytest.raises(ValueError, match=r"\(batch, length, 2, 4\), \(batch, "):
        layer(sequences(), initial_state=short)


def test_states_that_grow_are_shapes_without_a_size_in_a_model():
    layer = without_window(return_state=True)
    inputs = keras.Input((None, WIDTH))
    states = [
        keras.Input((None, 2, 4)),
        keras.Input((None, 2, 4)),
        keras.Input((1,), dtype="int32"),
    ]
    outputs = layer(inputs, initial_state=states)
    model = keras.Model([inputs, *states], outputs)
    assert [tuple(v.shape) for v in outputs[1:]] == [
        *(2 * [(None, None, 2, 4)]),
        (None, 1),
    ]
    assert outputs[3].dtype == "int32"
    given = [as_array(v) for v in layer.get_initial_state(BATCH, 20)]
    y, *_ = model([sequences(), *given])
    assert_close(
        y, as_array(twin(layer, return_state=False)(sequences())), "float32"
    )


def test_a_fixed_size_is_needed_where_nobody_chooses_it():
    for layer in (
        Attention(2, stateful=True),
        HybridBlock(Attention(2), stateful=True),
    ):
        with pytest.raises(ValueError, match="needs states of a fixed size"):
            layer.build((BATCH, None, WIDTH))
    with pytest.raises(ValueError, match="Give it a `window`"):
        StepCell(Attention(2), WIDTH)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"heads": 0}, "`heads` must be a positive integer"),
        ({"heads": 4, "kv_heads": 3}, "`kv_heads` must divide `heads`"),
        ({"heads": 4, "window": 0}, "`window` must be a positive integer"),
        ({"heads": 4}, "the width must be a multiple of `heads`"),
        ({"heads": 2, "rotary_base": 1.0}, "`rotary_base` must be greater"),
        ({"heads": 2, "rotary_base": 1e4}, "turn pairs of channels"),
        (
            {"heads": 1, "rotary_base": 1e4, "rotary_dim": 8},
            "`rotary_dim` at most `head_dim`",
        ),
    ],
)
def test_sizes_that_do_not_fit_are_explained(options, sentence):
    with pytest.raises(ValueError, match=sentence):
        Attention(**options).build((None, None, WIDTH))
