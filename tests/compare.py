"""When two results count as equal: one measure, one table of tolerances."""

import keras
import numpy as np

# Relative root mean square error, by the dtype of the result.
TOLERANCES = {
    "float64": {"forward": 1e-12, "gradient": 1e-9},
    "float32": {"forward": 2e-6, "gradient": 1e-5},
    "float16": {"forward": 2e-3, "gradient": 1e-2},
    "bfloat16": {"forward": 1e-2, "gradient": 5e-2},
}


def assert_close(
    actual, expected, dtype: str, kind: str = "forward", name: str = "result"
):
    """Asserts that a result has the expected shape, dtype and values.

    Args:
        actual: Array, or tensor of the backend.
        expected: Array.
        dtype: Dtype that `actual` must have; it chooses the tolerance.
        kind: "forward" or "gradient".
        name: What it is, for the message.
    """
    assert keras.backend.standardize_dtype(actual.dtype) == dtype, (
        f"{name}: dtype is {actual.dtype}, not {dtype}"
    )
    error = relative_error(actual, expected, name)
    tolerance = TOLERANCES[dtype][kind]
    print(f"{name}: error {error:.2e}, tolerance {tolerance:.0e} ({dtype})")
    assert error <= tolerance, (
        f"{name}: relative error {error:.3e} exceeds {tolerance:.0e} ({dtype})"
    )


def assert_same(actual, expected, name: str = "result"):
    """Asserts that two results are the same bits, and finite."""
    actual, expected = as_array(actual), as_array(expected)
    assert actual.shape == expected.shape, (
        f"{name}: shape is {actual.shape}, not {expected.shape}"
    )
    assert np.isfinite(actual).all(), f"{name}: not finite"
    assert actual.tobytes() == expected.tobytes(), f"{name}: other bits"


def relative_error(actual, expected, name: str = "result") -> float:
    """The root mean square of the difference, relative to the expected's.

    It is infinite if anything is expected to be zero everywhere and is not.
    Other shapes, and values that are not finite, are errors.
    """
    actual = as_array(actual).astype(np.float64)
    expected = as_array(expected).astype(np.float64)
    assert actual.shape == expected.shape, (
        f"{name}: shape is {actual.shape}, not {expected.shape}"
    )
    assert np.isfinite(expected).all(), f"{name}: expected is not finite"
    assert np.isfinite(actual).all(), (
        f"{name}: {np.sum(~np.isfinite(actual))} of {actual.size} values "
        "are not finite"
    )
    difference = np.sqrt(np.sum((actual - expected) ** 2))
    scale = np.sqrt(np.sum(expected**2))
    if difference == 0:
        return 0.0
    return float(difference / scale) if scale else float("inf")


def as_array(value) -> np.ndarray:
    """Array or tensor of the backend, as an array."""
    if isinstance(value, np.ndarray):
        return value
    return np.asarray(keras.ops.convert_to_numpy(value))
