"""What is special about numba's linear scan; `tests/ops` has the laws."""

import dataclasses

import oracle
import pytest
from cases import Case, make_cotangents, make_inputs
from compare import assert_same
from harness import (
    BACKEND,
    as_arguments,
    call,
    check,
    gradients,
    run,
    tensor,
    tensors,
)

from keras_ssm.kernels import platforms

if BACKEND == "numpy":
    pytest.skip("a backend without kernels", allow_module_level=True)
if platforms.here(BACKEND) != "cpu":
    pytest.skip("kernels for a CPU", allow_module_level=True)
pytest.importorskip("numba")

OP = "linear_scan"
# Complex, with an `a` for each step; large enough for several threads.
LARGE = Case(
    "large",
    l=300,
    d=150,
    D=True,
    bias=True,
    z=True,
    mask="holes",
    segments="runs",
    initial_state=True,
)
CONSTANT = dataclasses.replace(LARGE, name="constant", z=False, reverse=True)
REAL = dataclasses.replace(LARGE, name="real", D=False)
each_case = pytest.mark.parametrize(
    "case", (LARGE, CONSTANT, REAL), ids=lambda case: case.name
)


def solve(case):
    arrays, options = make_inputs(OP, case)
    cotangents = make_cotangents(OP, case)
    actual = run(OP, arrays, options, "numba", cotangents)
    return actual, oracle.solve(OP, arrays, options, cotangents)


@each_case
def test_shared_by_several_threads(case):
    actual, expected = solve(case)
    check(actual, expected)
    again, _ = solve(case)
    assert_same(again.y, actual.y)
    for name, gradient in again.gradients.items():
        assert_same(gradient, actual.gradients[name], name)


@pytest.mark.parametrize("z", (False, True), ids=("constant", "varying"))
@pytest.mark.parametrize("d", (1, 15, 16, 17))
def test_any_number_of_channels(d, z):
    check(*solve(dataclasses.replace(LARGE, l=9, d=d, z=z)))


@each_case
def test_operators_are_registered_right(case):
    if BACKEND != "torch":
        pytest.skip("about PyTorch")
    import torch

    from keras_ssm.kernels.numba import linear_scan  # noqa: F401

    arrays, options = make_inputs(OP, dataclasses.replace(case, l=9, d=5))
    given, options = as_arguments(tensors(arrays), options)
    numbers = [given["x"], given["a"], given["initial_state"]]
    parts = [v if isinstance(v, tuple) else (v, None) for v in numbers]
    parts = [v.nan_to_num() if v is not None else v for v in sum(parts, ())]
    resets = torch.zeros(2, 9, dtype=torch.bool)
    resets[:, 4] = True
    torch.library.opcheck(
        torch.ops.keras_ssm.numba_linear_scan,
        (
            *(None if v is None else v.requires_grad_() for v in parts),
            *(given["mask"], resets, options["reverse"]),
        ),
    )


@each_case
def test_an_exported_program_holds_no_call_into_this_process(case):
    if BACKEND != "jax":
        pytest.skip("about JAX")
    import jax

    arrays, options = make_inputs(OP, case)
    given = tensors(arrays)
    floats = {name: given.pop(name) for name in oracle.floating(arrays)}
    cotangents = make_cotangents(OP, case)

    def both(floats):
        return gradients(
            lambda floats: call(OP, {**floats, **given}, options, "numba"),
            floats,
            [tensor(v) for v in cotangents],
        )

    exported = jax.export.export(jax.jit(both))(floats)
    assert "custom_call" not in exported.mlir_module()
    (y, state), found = exported.call(floats)
    expected = oracle.solve(OP, arrays, options, cotangents)
    check(oracle.Result(y, state, found), expected)
