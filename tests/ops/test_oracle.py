"""The oracle of the gradients agrees with the reference of the ops."""

import numpy as np
import oracle
import pytest
from cases import Case, make_cotangents, make_inputs
from compare import assert_close
from harness import OPS, as_arguments, side_by_side

from keras_ssm.ops import reference

EVERYTHING = dict(D=True, z=True, bias=True, nonlinear=True, initial_state=True)
TINY = [
    Case("plain", l=4, d=2, n=2, k=1),
    Case("everything", l=5, d=2, n=2, k=3, **EVERYTHING),
    Case("shorter_than_the_window", l=2, d=2, n=1, k=5, initial_state=True),
    Case("masked", l=6, d=2, n=1, k=3, mask="holes", **EVERYTHING),
    Case("masked_row", l=4, d=1, n=2, k=2, mask="row", **EVERYTHING),
    Case("padded", l=5, d=2, n=1, mask="right", reverse=True, **EVERYTHING),
    Case("groups", l=3, d=4, n=2, g=2, reverse=True, **EVERYTHING),
    Case("packed", l=14, d=1, n=1, k=4, segments="runs", **EVERYTHING),
    Case(
        "packed_and_masked",
        l=14,
        d=2,
        n=1,
        g=1,
        k=4,
        mask="holes",
        segments="alternating",
        reverse=True,
        **EVERYTHING,
    ),
]
pytestmark = pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
each_tiny_case = pytest.mark.parametrize("case", TINY, ids=lambda c: c.name)


def refer(op, arrays, options):
    """What the reference gives, complex numbers with parts side by side."""
    arguments, options = as_arguments(arrays, options, np.split)
    outputs = getattr(reference, op)(**arguments, **options)
    return [side_by_side(v, np.concatenate) for v in outputs]


@each_tiny_case
@pytest.mark.parametrize("op", OPS)
def test_outputs_are_those_of_the_reference(op, case):
    arrays, options = make_inputs(op, case)
    cotangents = make_cotangents(op, case)
    result = oracle.solve(op, arrays, options, cotangents)
    y, state = refer(op, arrays, options)
    assert_close(result.y, y, "float64")
    assert_close(result.state, state, "float64")


@each_tiny_case
@pytest.mark.parametrize("op", OPS)
def test_gradients_are_those_of_central_differences(op, case):
    arrays, options = make_inputs(op, case)
    cotangents = make_cotangents(op, case)

    def loss(arrays):
        outputs = refer(op, arrays, options)
        return sum(
            np.sum(output * cotangent)
            for output, cotangent in zip(outputs, cotangents, strict=True)
        )

    result = oracle.solve(op, arrays, options, cotangents)
    for name in oracle.floating(arrays):
        np.testing.assert_allclose(
            result.gradients[name],
            central_differences(loss, arrays, name),
            rtol=1e-6,
            atol=1e-7,
            err_msg=name,
        )


def central_differences(loss, arrays, name, step=1e-5):
    gradient = np.zeros_like(arrays[name])
    for index in np.ndindex(gradient.shape):
        values = []
        for sign in (1, -1):
            moved = arrays[name].copy()
            moved[index] += sign * step
            values.append(loss({**arrays, name: moved}))
        gradient[index] = (values[0] - values[1]) / (2 * step)
    return gradient
