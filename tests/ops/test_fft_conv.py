"""Long convolutions, in one direction or both."""

import keras
import numpy as np
import pytest
from compare import as_array, assert_close
from harness import (
    BACKEND,
    compiled,
    compiled_quickly,
    gradients,
    implementations,
    needs_gradients,
    tensor,
)
from ssm_harness import FLOAT64, as_float32, check_gradients, raises, zeros

import keras_ssm
from keras_ssm.ops import reference

each_implementation = pytest.mark.parametrize(
    "implementation", implementations("fft_conv")
)
CONVOLUTIONS = {
    "one_number": dict(l=1, taps=1),
    "one_number_of_two_kernels": dict(l=1, taps=2, backward=2),
    "short_kernel": dict(l=33, taps=4, D=True),
    "long_kernel": dict(l=5, taps=9, D=True, reverse=True),
    "whole": dict(l=100, taps=100, D=True, mask=True),
    "bidirectional": dict(l=40, taps=40, backward=40, D=True),
    "bidirectional_backwards": dict(
        l=31, taps=40, backward=3, mask=True, reverse=True
    ),
    "short_forwards": dict(l=3, taps=2, backward=9),
}
each_convolution = pytest.mark.parametrize("name", CONVOLUTIONS)


def make_convolution(name, b=2, d=3):
    case = CONVOLUTIONS[name]
    rng = np.random.default_rng(3)
    arrays = {
        "x": rng.standard_normal((b, case["l"], d)),
        "kernel": rng.standard_normal((case["taps"], d)),
    }
    if case.get("D"):
        arrays["D"] = rng.standard_normal(d)
    if case.get("backward"):
        arrays["backward_kernel"] = rng.standard_normal((case["backward"], d))
    options = {"reverse": case.get("reverse", False)}
    if case.get("mask"):
        options["mask"] = rng.random((b, case["l"])) > 0.3
        arrays["x"][~options["mask"]] = np.nan
    return as_float32(arrays), options


def run_convolution(given, options, implementation):
    options = {
        name: tensor(v) if name == "mask" else v for name, v in options.items()
    }
    return keras_ssm.ops.fft_conv(
        **given, **options, implementation=implementation
    )


@each_convolution
@each_implementation
def test_convolutions(name, implementation):
    arrays, options = make_convolution(name)
    given = {key: tensor(v) for key, v in arrays.items()}
    wrap = compiled if name == "whole" else compiled_quickly
    y = wrap(lambda v: run_convolution(v, options, implementation))(given)
    assert_close(y, reference.fft_conv(**arrays, **options), "float32")


@needs_gradients
@pytest.mark.parametrize("name", ("short_kernel", "bidirectional_backwards"))
@each_implementation
def test_gradients_of_convolutions(name, implementation):
    arrays, options = make_convolution(name)
    cotangent = np.random.default_rng(4).standard_normal(arrays["x"].shape)

    def function(given, of=keras_ssm.ops):
        if of is reference:
            return reference.fft_conv(**given, **options)
        return run_convolution(given, options, implementation)

    if "mask" in options:
        arrays["x"][~options["mask"]] = 0
    check_gradients(function, arrays, cotangent)


@needs_gradients
@each_implementation
def test_masked_inputs_harm_no_gradient(implementation):
    arrays, options = make_convolution("bidirectional_backwards")
    given = {name: tensor(v) for name, v in arrays.items()}
    cotangent = tensor(np.ones(arrays["x"].shape))
    y, found = gradients(
        lambda v: (run_convolution(v, options, implementation),),
        given,
        (cotangent,),
    )
    assert (as_array(y[0])[~options["mask"]] == 0).all()
    assert (as_array(found["x"])[~options["mask"]] == 0).all()
    assert all(np.isfinite(as_array(v)).all() for v in found.values())


@FLOAT64
@pytest.mark.parametrize("name", ("whole", "bidirectional_backwards"))
@each_implementation
@pytest.mark.usefixtures("float64")
def test_double_precision_of_convolutions(name, implementation):
    arrays, options = make_convolution(name)
    given = {key: tensor(v, "float64") for key, v in arrays.items()}
    y = run_convolution(given, options, implementation)
    assert_close(y, reference.fft_conv(**arrays, **options), "float64")


@pytest.mark.parametrize("dtype", ("float16", "bfloat16"))
@each_implementation
def test_half_precision_of_convolutions(dtype, implementation):
    if BACKEND == "numpy" and dtype == "bfloat16":
        pytest.skip("NumPy has no bfloat16")
    arrays, options = make_convolution("bidirectional")
    given = {key: tensor(v) for key, v in arrays.items()}
    given["x"] = tensor(arrays["x"], dtype)
    arrays["x"] = as_array(keras.ops.cast(given["x"], "float32"))
    y = run_convolution(given, options, implementation)
    assert_close(y, reference.fft_conv(**arrays, **options), dtype)


@each_implementation
def test_the_future_reaches_the_past_by_rounding_alone(implementation):
    arrays, _ = make_convolution("whole")
    x, kernel = tensor(np.nan_to_num(arrays["x"])), tensor(arrays["kernel"])
    y = as_array(run_convolution(dict(x=x, kernel=kernel), {}, implementation))
    changed = keras.ops.concatenate([x[:, :50], x[:, 50:] + 1], axis=1)
    changed = dict(x=changed, kernel=kernel)
    other = as_array(run_convolution(changed, {}, implementation))
    assert_close(other[:, :50], y[:, :50], "float32")
    assert np.abs(other[:, 50] - y[:, 50]).max() > 0.1


@pytest.mark.parametrize("side", ("left", "right"))
@each_implementation
def test_padding_changes_no_output(side, implementation):
    arrays, options = make_convolution("bidirectional")
    given = {name: tensor(v) for name, v in arrays.items()}
    y = as_array(run_convolution(given, options, implementation))
    width = (7, 0) if side == "left" else (0, 7)
    pads = ((0, 0), width, (0, 0))
    padded = np.pad(arrays["x"], pads, constant_values=np.inf)
    mask = np.pad(np.ones((2, 40), bool), pads[:2])
    given["x"] = tensor(padded)
    out = run_convolution(given, {**options, "mask": mask}, implementation)
    out = as_array(out)
    assert_close(out[:, width[0] : width[0] + 40], y, "float32")
    assert (out[~mask] == 0).all()


def test_an_empty_batch_or_sequence_gives_an_empty_output():
    for shape in ((0, 5, 3), (2, 0, 3)):
        x = tensor(np.zeros(shape), "float16")
        y = keras_ssm.ops.fft_conv(x, tensor(np.ones((4, 3))))
        assert tuple(y.shape) == shape
        assert keras.backend.standardize_dtype(y.dtype) == "float16"


def test_pytorch_exports_a_convolution_of_any_length():
    if BACKEND != "torch":
        pytest.skip("about PyTorch")
    import torch

    class Convolution(torch.nn.Module):
        def forward(self, x, kernel):
            return keras_ssm.ops.fft_conv(x, kernel, backward_kernel=kernel)

    def make(length):
        return torch.randn(2, length, 3), torch.randn(10, 3)

    program = torch.export.export(
        Convolution(),
        make(20),
        dynamic_shapes=({1: torch.export.Dim("length", min=12)}, None),
    )
    for length in (15, 100):
        x, kernel = make(length)
        y = program.module()(x, kernel)
        expected = reference.fft_conv(x, kernel, backward_kernel=kernel)
        assert_close(y, expected, "float32")


def test_jax_says_that_it_has_to_know_the_length():
    if BACKEND != "jax":
        pytest.skip("about JAX")
    import jax

    (length,) = jax.export.symbolic_shape("length")
    x = jax.ShapeDtypeStruct((2, length, 3), "float32")
    kernel = tensor(np.ones((4, 3)))
    function = jax.jit(lambda x: keras_ssm.ops.fft_conv(x, kernel))
    with pytest.raises(NotImplementedError, match="of unknown length"):
        jax.export.export(function)(x)


def test_wrong_convolutions():
    x, kernel = zeros(2, 5, 3), zeros(4, 3)
    shape = "must have shape"
    for name, value, wanted in (
        ("kernel", zeros(4, 2), "(l_k, d) with d=3"),
        ("D", zeros(2), "(d) with d=3"),
        ("backward_kernel", zeros(3, 4), "(l_b, d) with d=3"),
        ("mask", zeros(2, 4, dtype="bool"), "(b, l) with b=2, l=5"),
    ):
        raises(
            ValueError,
            "fft_conv",
            f"`{name}` {shape} {wanted}. "
            f"Received: {name}.shape={tuple(value.shape)}.",
            **{"x": x, "kernel": kernel, name: value},
        )
    raises(
        ValueError,
        "fft_conv",
        "`kernel` must have at least one tap. Received: kernel.shape=(0, 3).",
        x,
        zeros(0, 3),
    )
    raises(
        TypeError,
        "fft_conv",
        "`kernel` must be a floating-point tensor; cast it, for example with "
        "`keras.ops.cast(kernel, 'float32')`. Received: kernel.dtype=int32.",
        x,
        zeros(4, 3, dtype="int32"),
    )
