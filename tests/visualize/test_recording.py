"""What `record` finds is what the layers did."""

import dataclasses

import keras
import numpy as np
import pytest
from compare import as_array, assert_close, assert_same, relative_error
from harness import BACKEND

from keras_ssm.layers import Attention, Mamba, Mamba2, Mamba3, MambaBlock
from keras_ssm.models import HybridBackbone, TextClassifier
from keras_ssm.ops import reference
from keras_ssm.visualize import Scan, record

MASK = np.array([[1, 1, 1, 1, 1, 0], [0, 1, 1, 0, 1, 1]], bool)
WIDTH = 4


# JAX compiles each operation that a test calls for the first time.
if_jax_has_time = pytest.mark.slow if BACKEND == "jax" else lambda test: test


def built(layer):
    layer.build((None, None, WIDTH))
    rng = np.random.default_rng(0)
    for variable in layer.trainable_variables:
        moved = as_array(variable.value) + rng.normal(size=variable.shape) / 2
        variable.assign(moved.astype("float32"))
    return layer


def sequences():
    rng = np.random.default_rng(1)
    return rng.normal(size=(*MASK.shape, WIDTH)).astype("float32")


def test_attention_makes_the_output_of_a_mamba():
    layer = built(Mamba(state_dim=3, use_inner_norm=True, go_backwards=True))
    model = keras.Sequential([keras.layers.Masking(), layer])
    x = np.where(MASK[..., None], sequences(), 0)
    model.build(x.shape)
    (scan,) = record(model, x)
    y = np.einsum("bdts,bsd->btd", scan.attention(), scan.inputs[..., 0])
    y = y * reference.silu(scan.gate)
    y = np.where(MASK[..., None], y, 0) @ as_array(layer.out_proj.kernel)
    assert_close(model(x), y[:, ::-1], "float32", "gradient")


@if_jax_has_time
def test_attention_makes_the_output_of_a_mamba2():
    layer = built(Mamba2(state_dim=3, head_dim=2, groups=2))
    (scan,) = record(layer, sequences())
    y = np.einsum("bdts,bsdp->btdp", scan.attention(), scan.inputs)
    z, *_ = layer._inputs(keras.ops.convert_to_tensor(sequences()))
    y = layer._outputs(keras.ops.convert_to_tensor(y, "float32"), z)
    assert_close(layer(sequences()), as_array(y), "float32", "gradient")


def scan_of_random_numbers(op, **options):
    rng = np.random.default_rng(0)
    b, l, d, n = 2, 6, 4, 3
    p, rates = (1, (d, n)) if op == "selective_scan" else (2, (d,))
    step_size = rng.uniform(0.1, 1, (b, l, d))
    mask = options.get("mask", np.ones((b, l), bool))
    return Scan(
        layer="layer",
        inputs=rng.normal(size=(b, l, d, p)),
        step_size=np.where(mask[..., None], step_size, 0),
        A=-rng.uniform(0.2, 2, rates),
        B=rng.normal(size=(b, l, 2, n)),
        C=rng.normal(size=(b, l, 2, n)),
        **options,
    )


def states(op, scan, inputs, mask=None, first=None):
    """The last state of the reference, of these inputs of a scan."""
    inputs = inputs[..., 0] if op == "selective_scan" else inputs
    _, state = getattr(reference, op)(
        inputs,
        scan.step_size,
        scan.A,
        scan.B,
        scan.C,
        initial_state=first,
        mask=mask,
        segment_ids=scan.segments,
        reverse=scan.reverse,
    )
    return state.reshape(*state.shape[:2], -1)


SEGMENTS = np.array([[0, 0, 1, 1, 1, 1], [0, 0, 0, 1, 1, 2]])
each_scan = pytest.mark.parametrize(
    ("op", "options"),
    [
        ("selective_scan", {"mask": MASK}),
        ("selective_scan", {"segments": SEGMENTS}),
        ("selective_scan", {"segments": SEGMENTS[:, ::-1], "reverse": True}),
        ("ssd", {"mask": MASK, "reverse": True}),
    ],
)


@each_scan
def test_remembered_is_what_a_step_alone_leaves_in_the_last_state(op, options):
    scan = scan_of_random_numbers(op, **options)
    for t in range(scan.inputs.shape[1]):
        alone = np.zeros_like(scan.inputs)
        alone[:, t] = scan.inputs[:, t]
        left = np.linalg.norm(states(op, scan, alone), axis=(1, 2))
        np.testing.assert_allclose(scan.remembered[:, t], left, atol=1e-14)


@each_scan
def test_written_is_what_a_step_alone_puts_into_the_state(op, options):
    scan = scan_of_random_numbers(op, **options)
    for t in range(scan.inputs.shape[1]):
        only = np.zeros(scan.step_size.shape[:2], bool)
        only[:, t] = True
        put = np.linalg.norm(
            states(op, scan, scan.inputs, mask=only), axis=(1, 2)
        )
        np.testing.assert_allclose(scan.written[:, t], put, atol=1e-14)


@each_scan
def test_retention_is_what_a_step_leaves_of_a_state(op, options):
    scan = scan_of_random_numbers(op, **options)
    length, last = scan.inputs.shape[1], -1 if scan.reverse else 1
    ones = np.ones((2, 4, *scan.inputs.shape[3:], 3))
    ones = ones[:, :, 0] if op == "selective_scan" else ones
    nothing = np.zeros_like(scan.inputs)
    for t in range(length):
        only = np.zeros(scan.step_size.shape[:2], bool)
        step_size = np.zeros_like(scan.step_size)
        step_size[:, t] = scan.step_size[:, t]
        # The step before says which segment it is, and leaves a state at one.
        before = [t - last] if t - last in range(length) else []
        only[:, [*before, t]] = True
        after = states(
            op,
            dataclasses.replace(scan, step_size=step_size),
            nothing,
            mask=only,
            first=ones,
        )
        kept = after.mean(-1)
        np.testing.assert_allclose(scan.retention[:, t], kept, atol=1e-14)


def test_half_of_a_state_is_left_after_its_half_life():
    scan = scan_of_random_numbers("ssd")
    np.testing.assert_allclose(scan.retention**scan.half_life, 0.5)
    nothing = dataclasses.replace(scan, step_size=scan.step_size * 0)
    assert np.isposinf(nothing.half_life).all()


def test_the_mean_of_attention_is_over_channels_and_without_the_skip():
    scan = scan_of_random_numbers("selective_scan")
    expected = abs(scan.attention()).mean(1)
    skipping = dataclasses.replace(scan, D=np.ones(4))
    np.testing.assert_allclose(skipping.mean_attention(), expected)


@if_jax_has_time
def test_a_row_is_that_of_a_call_with_the_row_alone():
    layer = built(Mamba(state_dim=3))
    (scan,) = record(layer, sequences())
    (alone,) = record(layer, sequences()[1:])
    for field in dataclasses.fields(Scan):
        for index in (1, -1):
            actual = getattr(scan.row(index), field.name)
            expected = getattr(alone, field.name)
            if isinstance(actual, np.ndarray):
                assert relative_error(actual, expected) < 1e-6


def test_a_model_from_a_file_padded_anywhere(tmp_path):
    backbone = HybridBackbone(
        9,
        WIDTH,
        ["mamba", "attention", "mamba2"],
        mixers={"attention": {"heads": 2}},
    )
    TextClassifier(backbone, 2).save(tmp_path / "model.keras")
    model = keras.saving.load_model(tmp_path / "model.keras")
    tokens = np.array([[1, 2, 3, 0, 0], [0, 4, 5, 6, 0]])
    scans = record(model, tokens)
    assert [scan.layer for scan in scans] == ["mamba_0", "mamba2_2"]
    for scan in scans:
        assert_same(scan.mask, tokens != 0)
        assert (scan.step_size[tokens == 0] == 0).all()
        assert (scan.retention[tokens == 0] == 1).all()
        assert (scan.written[tokens == 0] == 0).all()
        assert (scan.step_size[tokens != 0] > 0).all()


@if_jax_has_time
def test_both_directions_are_recorded():
    model = keras.Sequential(
        [
            keras.Input((5, WIDTH)),
            keras.layers.Bidirectional(
                MambaBlock(state_dim=3, name="block"), name="both"
            ),
        ]
    )
    forward, backward = record(model, sequences()[:, :5])
    assert (forward.reverse, backward.reverse) == (False, True)
    assert forward.layer == "both/forward_block"
    assert np.triu(backward.mean_attention()).any()
    assert not np.tril(backward.mean_attention(), -1).any()


@if_jax_has_time
def test_the_model_stays_as_it_is():
    layer = Mamba(state_dim=3, stateful=True)
    layer.build((2, None, WIDTH))
    layer(sequences())
    before = [as_array(state.value).copy() for state in layer.states]
    assert before[0].any()
    record(layer, sequences())
    for state, value in zip(layer.states, before, strict=True):
        assert_same(state.value, value)
    assert "mix" not in vars(layer)


def test_nothing_is_dropped():
    model = keras.Sequential([keras.layers.Dropout(0.5), built(Mamba())])
    model.build(sequences().shape)
    first, second = (record(model, sequences())[0] for _ in range(2))
    assert_same(first.inputs, second.inputs)


def test_a_model_without_weights_is_an_error():
    model = keras.Sequential([MambaBlock()], name="new")
    with pytest.raises(ValueError, match="must be built.*'new'"):
        record(model, sequences())


@pytest.mark.parametrize(
    ("layers", "named"),
    [
        ([Mamba3(state_dim=4), Attention(2)], "Attention, Mamba3"),
        ([keras.layers.Dense(2)], "no sequence layer of keras_ssm"),
    ],
)
def test_a_model_without_a_mamba_is_an_error(layers, named):
    model = keras.Sequential([keras.Input((5, WIDTH)), *layers])
    with pytest.raises(ValueError, match=f"`Mamba` or a `Mamba2`.*{named}"):
        record(model, sequences()[:, :5])
