"""Linear systems as arguments of ops, and gradients by finite differences."""

import numpy as np
import pytest
from compare import as_array, assert_close
from harness import BACKEND, compiled_quickly, gradients, tensor

import keras_ssm
from keras_ssm.ops import reference

KERNELS = ("s4d_conv_kernel", "s4_conv_kernel")
OPTIONS = {
    "zoh": ("s4d_conv_kernel", {"discretization": "zoh"}),
    "bilinear": ("s4d_conv_kernel", {"discretization": "bilinear"}),
    "dplr": ("s4_conv_kernel", {}),
    "cauchy": ("s4_conv_kernel", {"implementation": "portable"}),
}
each_kernel = pytest.mark.parametrize("kind", OPTIONS)
each_system = pytest.mark.parametrize("kind", ("zoh", "bilinear", "dplr"))
FLOAT64 = pytest.mark.skipif(
    BACKEND == "numpy", reason="Keras' numpy backend computes in float32"
)


def make_system(op, d=3, n=4, decay=0.5, seed=0):
    """Parameters near those that layers start from, pairs as `A`, `A_imag`."""
    rng = np.random.default_rng(seed)
    low, high = np.log(1e-3), np.log(0.1)
    arrays = {
        "dt": np.exp(rng.uniform(low, high, d)),
        "A": np.full((d, n), -decay),
        "A_imag": np.pi * np.arange(n) + rng.uniform(0, 0.1, (d, n)),
    }
    for name in ("P", "B", "C") if op == "s4_conv_kernel" else ("B", "C"):
        size = np.sqrt(np.arange(n) + 0.5) / 2 if name == "P" else 1
        arrays[name] = size * rng.standard_normal((d, n))
        arrays[f"{name}_imag"] = size * rng.standard_normal((d, n))
    return as_float32(arrays)


def as_float32(arrays):
    """What float32 keeps of them, for the tests to expect no more."""
    return {
        name: v.astype("float32").astype("float64")
        for name, v in arrays.items()
    }


def arguments(values):
    """The positional arguments of an op: a pair for each complex number."""
    return [
        values["dt"],
        *(
            (values[name], values[f"{name}_imag"])
            for name in ("A", "P", "B", "C")
            if name in values
        ),
    ]


def given(value):
    if isinstance(value, tuple):
        return tuple(tensor(part) for part in value)
    return tensor(value)


def run_op(of, kind, values, length, **changes):
    """A kernel of `keras_ssm.ops` or of the reference."""
    op, options = OPTIONS[kind]
    options = {**options, **changes}
    if of is reference:
        options.pop("implementation", None)
    return getattr(of, op)(*arguments(values), length, **options)


def expect_kernel(kind, arrays, length, **changes):
    return run_op(reference, kind, arrays, length, **changes)


def check_gradients(function, arrays, cotangent, dtype="float32", **options):
    """Compares with finite differences of the reference."""
    given = {name: tensor(v, dtype) for name, v in arrays.items()}

    def both(given):
        return gradients(
            lambda given: (function(given),), given, (tensor(cotangent, dtype),)
        )[1]

    found = compiled_quickly(both)(given)
    assert set(found) == set(arrays)
    for name in arrays:
        expected = slope(function, arrays, name, cotangent)
        title = f"gradient of {name}"
        if options:
            error = np.abs(as_array(found[name]) - expected).max()
            assert error <= options["tolerance"] * np.abs(expected).max(), title
        else:
            assert_close(found[name], expected, dtype, "gradient", title)


def slope(function, arrays, name, cotangent):
    """The gradient of `sum(function * cotangent)`, by central differences."""
    found = np.zeros_like(arrays[name])
    for index in np.ndindex(found.shape):
        step = 1e-5 * max(abs(arrays[name][index]), 1e-2)
        ends = []
        for sign in (1, -1):
            moved = arrays[name].copy()
            moved[index] += sign * step
            value = function({**arrays, name: moved}, reference)
            ends.append((value * cotangent).sum())
        found[index] = (ends[0] - ends[1]) / (2 * step)
    return found


def every_equation(jaxpr):
    """Those of a program and of its parts."""
    for equation in jaxpr.eqns:
        yield equation
        for value in equation.params.values():
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                yield from every_equation(inner)


def raises(error, op, sentence, *values, **options):
    with pytest.raises(error) as caught:
        getattr(keras_ssm.ops, op)(*values, **options)
    assert str(caught.value) == f"`{op}`: {sentence}"


def zeros(*shape, dtype="float32"):
    return tensor(np.zeros(shape, dtype))
