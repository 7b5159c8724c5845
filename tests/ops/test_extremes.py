"""Long sequences, and step sizes and decay rates at the ends of their range."""

import functools

import keras
import numpy as np
import oracle
import pytest
from cases import Case, make_cotangents, make_inputs
from compare import as_array, relative_error
from harness import implementations, needs_gradients, run

STEP_SIZES = (1e-4, 1e-2, 0.1, 1.0, 10.0)
RATES = (-1e-3, -1e-2, -0.1, -1.0, -10.0, -100.0)
# So many channels for each pair: the errors of one are a matter of luck.
CHANNELS = 8
# The axis of channels, where each has a result of its own.
CHANNEL_AXES = {"y": 2, "x": 2, "dt": 2, "state": 1, "A": 0}
# An error that a result may have beyond those of a plain loop.
ROUNDING = 3e-7


def make_extremes(op, length):
    """Channels for each pair of a step size and a decay rate."""
    pairs = [(dt, a) for dt in STEP_SIZES for a in RATES]
    pairs = np.repeat(np.array(pairs), CHANNELS, axis=0)
    case = Case("extremes", b=1, l=length, d=len(pairs), n=1, p=1, D=True)
    arrays, options = make_inputs(op, case)
    jitter = np.random.default_rng(2).uniform(0.5, 1.0, arrays["dt"].shape)
    arrays["dt"] = (jitter * pairs[:, 0]).astype("float32").astype("float64")
    rates = pairs[:, 1].astype("float32").astype("float64")
    arrays["A"] = rates.reshape(arrays["A"].shape)
    return arrays, options, make_cotangents(op, case)


@functools.cache
def extremes(op, length):
    """Arguments, the exact result, and that of a plain float32 loop.

    The loop has the exponential function of the backend: its errors are less
    than a bit, but the same in every one of thousands of steps.
    """

    def exp(v):
        return as_array(keras.ops.exp(keras.ops.convert_to_tensor(v)))

    arguments = make_extremes(op, length)
    exact = oracle.solve(op, *arguments)
    loop = oracle.solve(op, *arguments, dtype="float32", exp=exp)
    return arguments, exact, loop


@needs_gradients
@pytest.mark.parametrize(
    ("op", "length", "implementation"),
    [
        (op, length, implementation)
        for op, length in (
            *(("selective_scan", 1000), ("selective_scan", 8192)),
            ("ssd", 1000),
        )
        for implementation in implementations(op, True)
    ],
)
def test_extremes_are_as_accurate_as_a_plain_loop(op, length, implementation):
    (arrays, options, cotangents), exact, loop = extremes(op, length)
    actual = run(op, arrays, options, implementation, cotangents)
    found = [by_name(result) for result in (actual, exact, loop)]
    worse = []
    for name in found[0]:
        for pair, values in split(name, *(result[name] for result in found)):
            error = relative_error(values[0], values[1], name)
            of_loop = relative_error(values[2], values[1], name)
            if error > 2 * of_loop + ROUNDING:
                worse.append(f"{name} {pair}: {error:.1e}, loop {of_loop:.1e}")
    assert not worse, "\n".join(worse)


def by_name(result):
    """Outputs and gradients as arrays, by name."""
    values = {"y": result.y, "state": result.state, **result.gradients}
    return {name: as_array(v).astype("float64") for name, v in values.items()}


def split(name, *values):
    """Splits results where each pair has its own channels."""
    if name not in CHANNEL_AXES:
        return [("", values)]
    pairs = [(dt, a) for dt in STEP_SIZES for a in RATES]
    parts = [np.split(v, len(pairs), CHANNEL_AXES[name]) for v in values]
    return zip(pairs, zip(*parts, strict=True), strict=True)
