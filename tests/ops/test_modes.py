"""The ops run eagerly, compiled, and as nodes of a functional model."""

import dataclasses

import keras
import numpy as np
import oracle
import pytest
from cases import Case, make_cotangents, make_inputs, named
from compare import assert_close, assert_same
from harness import (
    OPS,
    call,
    check,
    each_implementation,
    needs_gradients,
    run,
    tensor,
)

import keras_ssm

PACKED = Case(
    "packed",
    l=9,
    d=4,
    g=2,
    D=True,
    bias=True,
    nonlinear=True,
    initial_state=True,
    mask="holes",
    segments="alternating",
)


def eagerly(function):
    return function


@needs_gradients
@each_implementation(gradients=True)
def test_eagerly(op, implementation):
    arrays, options = make_inputs(op, PACKED)
    cotangents = make_cotangents(op, PACKED)
    actual = run(op, arrays, options, implementation, cotangents, wrap=eagerly)
    check(actual, oracle.solve(op, arrays, options, cotangents))


def make_scan_model(**options):
    """A functional model around the op, with a length that is not known."""
    x = keras.Input((None, 6), name="x")
    mask = keras.Input((None,), dtype="bool", name="mask")
    A = keras.Input(batch_shape=(6, 4), name="A")
    B = keras.Input((None, 4), name="B")
    dt = keras.ops.softplus(x)
    outputs = keras_ssm.ops.selective_scan(
        x, dt, A, B, B, mask=mask, return_state=True, **options
    )
    return keras.Model([x, mask, A, B], outputs)


def make_conv_model(**options):
    x = keras.Input((None, 6), name="x")
    mask = keras.Input((None,), dtype="bool", name="mask")
    weight = keras.Input(batch_shape=(4, 6), name="weight")
    outputs = keras_ssm.ops.causal_conv1d(
        x,
        weight,
        activation="silu",
        mask=mask,
        return_state=True,
        **options,
    )
    return keras.Model([x, mask, weight], outputs)


def make_linear_model(**options):
    """With complex numbers; the parts of the outputs are side by side."""
    x = keras.Input((None, 12), name="x")
    mask = keras.Input((None,), dtype="bool", name="mask")
    a = keras.Input(batch_shape=(6,), name="a")
    numbers = tuple(keras.ops.split(x, 2, axis=-1))
    outputs = keras_ssm.ops.linear_scan(
        a, numbers, mask=mask, return_state=True, **options
    )
    outputs = [keras.ops.concatenate(v, axis=-1) for v in outputs]
    return keras.Model([x, mask, a], outputs)


def make_ssd_model(**options):
    x = keras.Input((None, 6, 2), name="x")
    mask = keras.Input((None,), dtype="bool", name="mask")
    A = keras.Input(batch_shape=(6,), name="A")
    B = keras.Input((None, 4), name="B")
    dt = keras.ops.softplus(x[..., 0])
    outputs = keras_ssm.ops.ssd(
        x, dt, A, B, B, mask=mask, return_state=True, chunk_size=4, **options
    )
    return keras.Model([x, mask, A, B], outputs)


MODELS = {
    "selective_scan": make_scan_model,
    "causal_conv1d": make_conv_model,
    "linear_scan": make_linear_model,
    "ssd": make_ssd_model,
}


def model_inputs(op, length):
    case = Case("functional", b=3, l=length, n=4, mask="right")
    case = dataclasses.replace(case, D=op == "linear_scan")
    arrays, _ = make_inputs(op, case)
    mask = arrays.pop("mask")
    arrays = {name: np.nan_to_num(v) for name, v in arrays.items()}
    names = {
        "selective_scan": ["A", "B"],
        "causal_conv1d": ["weight"],
        "linear_scan": ["constant_a"],
        "ssd": ["A", "B"],
    }[op]
    inputs = [arrays["x"], mask, *(arrays[name] for name in names)]
    return [tensor(v) for v in inputs]


@pytest.mark.parametrize("op", OPS)
def test_a_functional_model_runs_at_lengths_it_has_not_seen(op):
    model = MODELS[op](reverse=True)
    for length in (1, 9, 33):
        inputs = model_inputs(op, length)
        x, mask, *others = inputs
        options = {"mask": mask, "reverse": True}
        if op == "selective_scan":
            A, B = others
            given = dict(x=x, dt=keras.ops.softplus(x), A=A, B=B, C=B)
        elif op == "ssd":
            A, B = others
            dt = keras.ops.softplus(x[..., 0])
            given = dict(x=x, dt=dt, A=A, B=B, C=B)
            options["chunk_size"] = 4
        elif op == "causal_conv1d":
            given = dict(x=x, weight=others[0])
            options["activation"] = "silu"
        else:
            given = dict(x=x, a=others[0])
            options["complex"] = ("x",)
        y, state = call(op, given, options)
        actual = model(inputs)
        assert_close(actual[0], y, "float32")
        assert_close(actual[1], state, "float32")


@pytest.mark.parametrize("op", OPS)
def test_a_functional_model_infers_its_shapes_without_a_kernel(op, monkeypatch):
    monkeypatch.setattr(keras_ssm.ops.dispatch, "run", None)
    y, state = MODELS[op]().outputs
    channels = {"linear_scan": (12,), "ssd": (6, 2)}
    assert y.shape == (None, None, *channels.get(op, (6,)))
    tails = {
        "selective_scan": (6, 4),
        "causal_conv1d": (3, 6),
        "linear_scan": (12,),
        "ssd": (6, 2, 4),
    }
    assert state.shape == (None, *tails[op])
    assert y.dtype == state.dtype == "float32"


@pytest.mark.parametrize("op", OPS)
def test_the_shapes_that_a_model_infers_are_those_it_returns(op):
    inputs = model_inputs(op, 5)
    symbolic = [keras.KerasTensor(tuple(v.shape), v.dtype) for v in inputs]
    model = MODELS[op]()
    inferred = model.compute_output_spec(symbolic)
    for expected, actual in zip(inferred, model(inputs), strict=True):
        assert tuple(actual.shape) == expected.shape
        assert keras.backend.standardize_dtype(actual.dtype) == expected.dtype


@pytest.mark.parametrize("op", OPS)
def test_a_functional_model_is_saved_and_loaded(op, tmp_path):
    model = MODELS[op](reverse=True, implementation="portable")
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras", compile=False)
    inputs = model_inputs(op, 7)
    for expected, actual in zip(model(inputs), loaded(inputs), strict=True):
        assert_same(actual, expected)


def test_a_functional_model_refuses_wrong_shapes_when_it_is_made():
    x = keras.Input((None, 6))
    A, B = keras.KerasTensor((5, 4)), keras.Input((None, 4))
    with pytest.raises(ValueError, match="`A` must have shape"):
        keras_ssm.ops.selective_scan(x, x, A, B, B)
    with pytest.raises(TypeError, match="`mask` must be boolean"):
        mask = keras.Input((None,))
        keras_ssm.ops.causal_conv1d(x, np.ones((4, 6)), mask=mask)


def test_arrays_and_tensors_mix_in_a_functional_model():
    arrays, options = make_inputs("causal_conv1d", named("bare_recurrence"))
    x, weight = (arrays[name].astype("float32") for name in ("x", "weight"))
    symbolic = keras.Input((None, x.shape[-1]))
    y = keras_ssm.ops.causal_conv1d(symbolic, weight)
    expected = keras_ssm.ops.causal_conv1d(x, weight)
    assert_close(keras.Model(symbolic, y)(x), expected, "float32")


def test_steps_are_nodes_of_a_functional_model():
    x, state = keras.Input((6,)), keras.Input((6, 4))
    A, B = keras.Input(batch_shape=(6, 4)), keras.Input((4,))
    outputs = keras_ssm.ops.selective_scan_step(x, x, A, B, B, state=state)
    model = keras.Model([x, A, B, state], outputs)
    x, A, B = np.ones((2, 6)), -np.ones((6, 4)), np.ones((2, 4))
    y, state = model([tensor(v) for v in (x, A, B, np.zeros((2, 6, 4)))])
    assert_close(y, np.full((2, 6), 4.0), "float32")
    assert_close(state, np.ones((2, 6, 4)), "float32")


def test_complex_steps_are_nodes_of_a_functional_model():
    a, x, state = ((keras.Input((6,)), keras.Input((6,))) for _ in range(3))
    outputs = keras_ssm.ops.linear_scan_step(a, x, state)
    model = keras.Model([*a, *x, *state], keras.tree.flatten(outputs))
    ones = tensor(np.ones((2, 6)))
    found = model([ones] * 6)
    for v, expected in zip(found, (1.0, 3.0, 1.0, 3.0), strict=True):
        assert_close(v, np.full((2, 6), expected), "float32")
