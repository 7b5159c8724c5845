"""What stays in float32 under which dtype policy, and that training works."""

import contextlib

import keras
import numpy as np
import pytest
from layer_harness import (
    BACKEND,
    BATCH,
    BLOCKS,
    LENGTH,
    WIDTH,
    as_array,
    each,
    each_layer,
    each_mixer,
    make,
    mask_of,
    needs_gradients,
    random_states,
    sequences,
    slow_unless,
    state_dtypes,
    traits,
    twin,
)

from keras_ssm.layers import GriffinBlock, MambaBlock, S5Block

each_block = each("block", BLOCKS)
POLICIES = ["mixed_bfloat16", "mixed_float16", "bfloat16", "float64"]
each_policy = pytest.mark.parametrize(
    "policy",
    [
        pytest.param(policy, marks=slow_unless(some))
        for policy, some in zip(POLICIES, [1, 0, 0, 1], strict=True)
    ],
)


@pytest.fixture(autouse=True)
def float64_where_it_is_asked_for(request):
    """JAX computes in float64 only if it is told to."""
    asked = "policy" in request.fixturenames
    with contextlib.ExitStack() as stack:
        if asked and request.getfixturevalue("policy") == "float64":
            if BACKEND == "jax":
                import jax

                stack.enter_context(jax.enable_x64(True))
        yield


def wide(policy):
    return "float64" if policy == "float64" else "float32"


def dtype_of(v):
    return keras.backend.standardize_dtype(v.dtype)


@each_layer
@each_policy
def test_parameters_of_the_recurrence_are_float32(layer_class, policy):
    layer = make(layer_class, dtype=policy)
    names = traits(layer_class).float32
    kept = [v for v in layer.weights if v.path.split("/")[-1] in names]
    assert len(kept) == len(names)
    for v in kept:
        assert dtype_of(v) == wide(policy), v.path
        # As the layer reads it, too: policies cast what layers read.
        with keras.StatelessScope():
            assert dtype_of(v.value) == wide(policy), v.path


@each_layer
@each_policy
def test_outputs_and_states_have_the_dtypes_that_were_promised(
    layer_class, policy
):
    layer = make(layer_class, dtype=policy, return_state=True)
    promised = layer(keras.KerasTensor((BATCH, LENGTH, WIDTH)))
    output = keras.DTypePolicy(policy).compute_dtype
    # A block hands on the residual stream.
    output = wide(policy) if layer_class in BLOCKS else output
    expected = [output, *state_dtypes(layer_class, policy)]
    assert [v.dtype for v in promised] == expected
    assert [dtype_of(v) for v in layer(sequences())] == expected
    assert [dtype_of(v) for v in layer.get_initial_state(1)] == expected[1:]


@each_block
@each_policy
def test_outputs_are_near_those_of_float32(block, policy):
    layer = make(block)
    x, mask = sequences(), mask_of("holes")
    states = random_states(layer)
    expected = as_array(layer(x, initial_state=states, mask=mask))
    low = twin(layer, dtype=policy)(x, initial_state=states, mask=mask)
    name = keras.DTypePolicy(policy).compute_dtype
    # Several layers round one after the other, in bfloat16 to 8 bits each.
    error = np.sqrt(np.mean((as_array(low).astype("float64") - expected) ** 2))
    error /= np.sqrt(np.mean(expected.astype("float64") ** 2))
    bound = {"bfloat16": 2e-2, "float16": 3e-3, "float64": 2e-6}[name]
    assert error <= bound


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "bfloat16"])
def test_residual_stream_of_a_stack_is_not_rounded(policy):
    x = sequences() * np.float32(1 + 2**-12)
    blocks = [MambaBlock(state_dim=4, dtype=policy) for _ in range(3)]
    model = keras.Sequential([keras.Input((None, WIDTH)), *blocks])
    for block in blocks:
        block.mixer.out_proj.kernel.assign(
            np.zeros(block.mixer.out_proj.kernel.shape)
        )
    assert (as_array(model(x)) == x).all()


# LRU is an S5 here, and Griffin has an RG-LRU within.
@needs_gradients
@each("block", (MambaBlock, S5Block, GriffinBlock))
@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_training_is_finite_and_moves_every_parameter(block, policy):
    keras.config.set_dtype_policy(policy)
    try:
        model = keras.Sequential(
            [
                keras.Input((None,), dtype="int32"),
                keras.layers.Embedding(10, WIDTH, "normal", mask_zero=True),
                make(block),
                make(BLOCKS[block]),
                keras.layers.GlobalAveragePooling1D(),
                keras.layers.Dense(1),
            ]
        )
        model.compile(keras.optimizers.Adam(0.01), "mse", jit_compile=False)
    finally:
        keras.config.set_dtype_policy("float32")
    before = model.get_weights()
    tokens = np.array([[1, 2, 3, 4], [5, 6, 0, 0], [7, 8, 9, 1]])
    # In float16 Keras scales the loss, and skips steps until the scale fits.
    for _ in range(5):
        loss = model.train_on_batch(tokens, np.ones((3, 1), "float32"))
        assert np.isfinite(loss)
    for one, other, v in zip(
        before, model.get_weights(), model.weights, strict=True
    ):
        other = other.astype("float64")
        assert np.isfinite(other).all(), v.path
        if v.path.endswith(("out_proj/kernel", *traits(block).float32)):
            assert (one.astype("float64") != other).any(), v.path


@each_mixer
@each_policy
def test_states_given_in_half_precision_are_cast(mixer, policy):
    layer = make(mixer, dtype=policy, return_state=True)
    states = [s.astype("float16") for s in random_states(layer)]
    _, *after = layer(sequences(), initial_state=states)
    _, stepped = layer.step(sequences()[:, 0], states)
    for found in (after, stepped):
        assert [dtype_of(s) for s in found] == state_dtypes(mixer, policy)
