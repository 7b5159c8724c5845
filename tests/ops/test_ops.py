"""Every implementation of every op computes what the reference computes."""

import keras
import oracle
import pytest
from cases import Case, make_cotangents, make_inputs, named, select
from compare import assert_same
from harness import (
    BACKEND,
    FLOAT32_ONLY,
    OPS,
    as_arguments,
    call,
    check,
    compilation,
    each_implementation,
    gradients,
    needs_gradients,
    rounded,
    run,
    side_by_side,
    tensor,
    tensors,
)

import keras_ssm

PRECISIONS = [
    Case("packed", l=40, n=16, D=True, z=True, segments="runs", bias=True),
    Case(
        "padded",
        l=33,
        g=2,
        mask="holes",
        initial_state=True,
        nonlinear=True,
        bias=True,
        reverse=True,
    ),
]
each_precision_case = pytest.mark.parametrize(
    "case", PRECISIONS, ids=lambda case: case.name
)
each_case = pytest.mark.parametrize(
    "case",
    [
        pytest.param(
            case,
            id=case.name,
            marks=pytest.mark.slow if case.use == "slow" else (),
        )
        for case in select("test") + select("slow")
    ],
)


@needs_gradients
@each_case
@each_implementation(gradients=True)
def test_outputs_and_gradients(op, implementation, case):
    check_against_oracle(op, implementation, case)


@each_case
@pytest.mark.parametrize("op", OPS)
def test_outputs_of_portable(op, case):
    check_portable(op, case)


@needs_gradients
@each_precision_case
@pytest.mark.parametrize("dtype", ("bfloat16", "float16"))
@each_implementation(gradients=True)
def test_half_precision(op, implementation, dtype, case):
    check_against_oracle(op, implementation, case, dtype)


@pytest.mark.parametrize("dtype", ("bfloat16", "float16"))
@pytest.mark.parametrize("op", OPS)
def test_half_precision_of_portable(op, dtype):
    check_portable(op, PRECISIONS[1], dtype)


@needs_gradients
@pytest.mark.usefixtures("float64")
@each_precision_case
@each_implementation(gradients=True)
def test_double_precision(op, implementation, case):
    if implementation in FLOAT32_ONLY:
        pytest.skip("computes in float32")
    check_against_oracle(op, implementation, case, "float64")


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("op", OPS)
def test_double_precision_of_portable(op):
    if BACKEND == "numpy":
        pytest.skip("Keras' numpy backend turns float64 into float32")
    check_portable(op, PRECISIONS[1], "float64")


@needs_gradients
@each_implementation(gradients=True)
def test_gradients_have_the_dtypes_of_their_inputs(op, implementation):
    arrays, options = make_inputs(op, PRECISIONS[0])
    cotangents = make_cotangents(op, PRECISIONS[0])

    def function(tensors):
        narrow = {
            name: keras.ops.cast(v, "bfloat16") if name in floats else v
            for name, v in tensors.items()
        }
        return gradients(
            lambda given: call(op, given, options, implementation),
            {name: narrow[name] for name in floats},
            (tensor(cotangents[0], "bfloat16"), tensor(cotangents[1])),
        )[1]

    floats = oracle.floating(arrays)
    given = {name: tensors(arrays)[name] for name in floats}
    found = compilation(op, implementation)(function)(given)
    dtypes = {keras.backend.standardize_dtype(v.dtype) for v in found.values()}
    assert dtypes == {"bfloat16"}


@pytest.mark.parametrize("op", OPS)
def test_the_state_is_returned_only_if_asked_for(op):
    arrays, options = make_inputs(op, named("mamba"))
    given = tensors(arrays)
    arguments, plain = as_arguments(given, options)
    y = side_by_side(getattr(keras_ssm.ops, op)(**arguments, **plain))
    assert_same(y, call(op, given, options)[0])


def check_against_oracle(op, implementation, case, dtype="float32"):
    arrays, options = make_inputs(op, case)
    arrays = rounded(arrays, dtype)
    dy, dstate = make_cotangents(op, case)
    cotangents = (rounded({"y": dy}, dtype)["y"], dstate)
    expected = oracle.solve(op, arrays, options, cotangents)
    actual = run(op, arrays, options, implementation, cotangents, dtype=dtype)
    assert set(actual.gradients) == set(oracle.floating(arrays))
    check(actual, expected, dtype)


def check_portable(op, case, dtype="float32"):
    if BACKEND == "numpy" and dtype == "bfloat16":
        pytest.skip("NumPy has no bfloat16")
    arrays, options = make_inputs(op, case)
    arrays = rounded(arrays, dtype)
    expected = oracle.solve(op, arrays, options, make_cotangents(op, case))
    check(run(op, arrays, options, "portable", dtype=dtype), expected, dtype)
