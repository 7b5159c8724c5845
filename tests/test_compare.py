"""The comparison itself can fail."""

import numpy as np
import pytest
from compare import TOLERANCES, assert_close, assert_same, relative_error
from keras import ops


def make_array(dtype="float32"):
    return np.random.default_rng(0).normal(size=(3, 50)).astype(dtype)


def test_equal_arrays_are_close():
    assert_close(make_array(), make_array(), "float32")


def test_a_tensor_of_the_backend_is_compared_like_an_array():
    assert_close(ops.convert_to_tensor(make_array()), make_array(), "float32")


def test_the_error_is_relative():
    array = make_array("float64")
    assert relative_error(array * 1.001, array) == pytest.approx(1e-3)
    assert relative_error(array * 1.001e-9, array * 1e-9) == pytest.approx(1e-3)


@pytest.mark.parametrize("kind", ("forward", "gradient"))
@pytest.mark.parametrize("dtype", ("float32", "float64"))
def test_a_perturbed_array_is_not_close(dtype, kind):
    array = make_array(dtype)
    perturbed = array * np.asarray(1 + 2 * TOLERANCES[dtype][kind], dtype)
    with pytest.raises(AssertionError, match="exceeds"):
        assert_close(perturbed, array, dtype, kind)


def test_a_single_perturbed_value_is_not_close():
    perturbed = make_array()
    perturbed[1, 7] += 1e-3
    with pytest.raises(AssertionError, match="exceeds"):
        assert_close(perturbed, make_array(), "float32")


@pytest.mark.parametrize("value", (np.nan, np.inf, -np.inf))
def test_a_value_that_is_not_finite_is_not_close(value):
    broken = make_array()
    broken[0, 0] = value
    with pytest.raises(AssertionError, match="not finite"):
        assert_close(broken, make_array(), "float32")
    with pytest.raises(AssertionError, match="not finite"):
        assert_close(broken, broken, "float32")
    with pytest.raises(AssertionError, match="not finite"):
        assert_same(broken, broken)


def test_another_shape_is_not_close():
    with pytest.raises(AssertionError, match="shape"):
        assert_close(make_array()[:1], make_array(), "float32")
    with pytest.raises(AssertionError, match="shape"):
        assert_same(make_array()[:1], make_array())


def test_another_dtype_is_not_close():
    with pytest.raises(AssertionError, match="dtype"):
        assert_close(make_array("float16"), make_array(), "float32")


def test_only_zero_is_close_to_zero():
    zero = np.zeros((2, 2), "float32")
    assert_close(zero, zero, "float32")
    with pytest.raises(AssertionError, match="exceeds"):
        assert_close(zero + np.float32(1e-30), zero, "float32")


def test_the_same_bits_are_the_same_and_others_are_not():
    array = make_array()
    assert_same(array, array.copy())
    with pytest.raises(AssertionError, match="bits"):
        assert_same(np.nextafter(array, np.float32(9)), array)
