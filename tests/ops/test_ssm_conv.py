"""Kernels of S4D and S4 are matrix powers."""

import keras
import numpy as np
import pytest
from compare import as_array, assert_close, assert_same
from harness import (
    BACKEND,
    compiled,
    compiled_quickly,
    needs_gradients,
    tensor,
)
from ssm_harness import (
    FLOAT64,
    KERNELS,
    OPTIONS,
    arguments,
    as_float32,
    check_gradients,
    each_kernel,
    each_system,
    every_equation,
    expect_kernel,
    given,
    make_system,
    raises,
    run_op,
    zeros,
)

import keras_ssm
from keras_ssm.ops import reference

LONG = 784


def run_kernel(kind, arrays, length, dtype="float32", **changes):
    given = {name: tensor(v, dtype) for name, v in arrays.items()}

    def function(given):
        return run_op(keras_ssm.ops, kind, given, length, **changes)

    # Long ones as users run them, the others start faster.
    wrap = compiled if length >= LONG else compiled_quickly
    return wrap(function)(given)


def check_kernel(kind, arrays, length, dtype="float32", **changes):
    kernel = run_kernel(kind, arrays, length, dtype, **changes)
    expected = expect_kernel(kind, arrays, length, **changes)
    # A Cauchy product is as exact as its resonances are wide, and matrices
    # are powers of matrices.
    diagonal = kind in ("zoh", "bilinear")
    strictness = "forward" if diagonal else "gradient"
    assert_close(kernel, expected, dtype, strictness, "kernel")


@each_kernel
@pytest.mark.parametrize("length", (1, 2, 31, LONG))
def test_kernels_are_matrix_powers(kind, length):
    check_kernel(kind, make_system(OPTIONS[kind][0]), length)


@each_kernel
def test_long_kernels_of_many_states_are_too(kind):
    arrays = make_system(OPTIONS[kind][0], d=2, n=32)
    check_kernel(kind, arrays, 16384)


@pytest.mark.parametrize("kind", ("zoh", "bilinear"))
def test_angles_stay_accurate_when_nothing_decays(kind):
    # At the last step they are up to 25,000 radians.
    arrays = make_system("s4d_conv_kernel", d=2, n=32, decay=1e-4)
    arrays["dt"] = as_float32({"dt": np.array([0.02, 0.005])})["dt"]
    check_kernel(kind, arrays, 16384)


@FLOAT64
@each_kernel
@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("length", (3, 100))
def test_double_precision_of_kernels(kind, length):
    arrays = make_system(OPTIONS[kind][0], n=16)
    check_kernel(kind, arrays, length, "float64")


@each_system
def test_another_sampling_rate(kind):
    check_kernel(kind, make_system(OPTIONS[kind][0]), 40, rate=2.5)


@each_system
def test_half_precision_parameters_give_a_float32_kernel(kind):
    op = OPTIONS[kind][0]
    given = {n: tensor(v, "float16") for n, v in make_system(op).items()}
    arrays = {name: as_array(v).astype("float64") for name, v in given.items()}
    kernel = run_kernel(kind, arrays, 20, "float16")
    assert_close(kernel, expect_kernel(kind, arrays, 20), "float32", "gradient")


@pytest.mark.parametrize("kind", ("zoh", "bilinear"))
def test_extreme_steps_of_a_diagonal_system(kind):
    arrays = make_system("s4d_conv_kernel", d=4, n=1)
    arrays["dt"] = np.array([1.0, 1e-6, 1e3, 1.0])
    # The bilinear rule takes 1 to 0 at dt A = -2; nothing moves at A = 0.
    arrays["A"] = np.array([[-2.0], [-1.0], [-1.0], [0.0]])
    arrays["A_imag"] = np.zeros((4, 1))
    arrays = as_float32(arrays)
    check_kernel(kind, arrays, 9)


@needs_gradients
@each_kernel
def test_gradients_of_kernels(kind):
    arrays = make_system(OPTIONS[kind][0], d=2, n=3)
    cotangent = np.random.default_rng(1).standard_normal((33, 2))

    def function(given, of=keras_ssm.ops):
        return run_op(of, kind, given, 33)

    check_gradients(function, arrays, cotangent)


@needs_gradients
@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("kind", ("zoh", "dplr", "cauchy"))
def test_double_precision_of_gradients(kind):
    arrays = make_system(OPTIONS[kind][0], d=2, n=3)
    cotangent = np.random.default_rng(1).standard_normal((9, 2))

    def function(given, of=keras_ssm.ops):
        return run_op(of, kind, given, 9)

    # As exact as finite differences are.
    check_gradients(function, arrays, cotangent, "float64", tolerance=1e-7)


def test_long_kernels_do_not_hold_each_state_at_each_step():
    if BACKEND != "jax":
        pytest.skip("JAX shows what a program holds")
    import jax

    d, n, length = 3, 16, 4096
    shares = {"zoh": 16, "bilinear": 16, "dplr": 16, "cauchy": 4}
    for kind, share in shares.items():
        arrays = make_system(OPTIONS[kind][0], d, n)
        program = jax.make_jaxpr(
            lambda v, kind=kind: run_op(keras_ssm.ops, kind, v, length)
        )
        sizes = [
            np.prod(v.aval.shape)
            for equation in every_equation(program(arrays).jaxpr)
            for v in equation.outvars
        ]
        assert max(sizes) <= d * n * length / share, kind


@each_system
def test_the_convolution_is_the_recurrence(kind):
    op, options = OPTIONS[kind]
    arrays = make_system(op)
    dt, *system, C = (given(v) for v in arguments(arrays))
    discretize = getattr(
        keras_ssm.ops, "discretize_dplr" if kind == "dplr" else "discretize"
    )
    x = tensor(np.random.default_rng(2).standard_normal((2, 50, 3)))
    y = keras_ssm.ops.ssm_scan(x, *discretize(dt, *system, **options), C)
    expected = keras_ssm.ops.fft_conv(x, run_kernel(kind, arrays, 50))
    assert_close(y, as_array(expected), "float32", "gradient")


def test_discretize_halves_a_step_in_two():
    dt, A, B, _ = (given(v) for v in arguments(make_system("s4d_conv_kernel")))
    whole, _ = keras_ssm.ops.discretize(dt, A, B)
    half, _ = keras_ssm.ops.discretize(dt, A, B, rate=0.5)
    whole, half = (as_array(v[0]) + 1j * as_array(v[1]) for v in (whole, half))
    assert np.abs(half**2 - whole).max() < 1e-6


# Functional models, and lengths that are not known.


def make_model():
    x = keras.Input((None, 3), name="x")
    mask = keras.Input((None,), dtype="bool", name="mask")
    dt = keras.Input(batch_shape=(3,), name="dt")
    A = keras.Input(batch_shape=(3, 4), name="A")
    system = (dt, (-A, A), (A, A), (A, A))
    kernel = keras_ssm.ops.s4d_conv_kernel(
        *system, 20, discretization="bilinear"
    )
    backward = keras_ssm.ops.s4_conv_kernel(
        dt, (-A, A), (A, A), (A, A), (A, A), 30
    )
    y = keras_ssm.ops.fft_conv(x, kernel, backward_kernel=backward, mask=mask)
    return keras.Model([x, mask, dt, A], [y, kernel, backward])


def model_inputs(length):
    rng = np.random.default_rng(5)
    x = rng.standard_normal((2, length, 3))
    dt, A = np.full(3, 0.1), rng.uniform(0.5, 1, (3, 4))
    return [tensor(v) for v in (x, rng.random((2, length)) > 0.2, dt, A)]


def test_a_functional_model_infers_its_shapes_without_a_kernel(monkeypatch):
    monkeypatch.setattr(keras_ssm.ops.dispatch, "run", None)
    y, kernel, backward = make_model().outputs
    assert y.shape == (None, None, 3)
    assert (kernel.shape, backward.shape) == ((20, 3), (30, 3))
    assert {v.dtype for v in (y, kernel, backward)} == {"float32"}


def test_a_functional_model_is_saved_and_runs_at_any_length(tmp_path):
    model = make_model()
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras", compile=False)
    for length in (1, 25, 40):
        x, mask, *system = model_inputs(length)
        y, kernel, backward = model([x, mask, *system])
        expected = reference.fft_conv(
            as_array(x),
            as_array(kernel),
            backward_kernel=as_array(backward),
            mask=as_array(mask),
        )
        assert_close(y, expected, "float32")
        assert_same(loaded([x, mask, *system])[0], y)


def test_discretized_systems_are_nodes_of_a_functional_model():
    dt = keras.Input(batch_shape=(3,))
    A = keras.Input(batch_shape=(3, 4))
    pair = -A, A
    A_bar, B_bar = keras_ssm.ops.discretize(dt, pair, pair)
    dense, gain = keras_ssm.ops.discretize_dplr(dt, pair, pair, pair)
    outputs = [*A_bar, *B_bar, *gain, dense]
    shapes = [(3, 4)] * 6 + [(3, 8, 8)]
    assert [v.shape for v in outputs] == shapes
    outputs = keras.Model([dt, A], outputs)(model_inputs(1)[2:])
    assert [tuple(v.shape) for v in outputs] == shapes


@pytest.mark.parametrize("jit_compile", (False, True))
@each_system
def test_tensorflow_needs_to_know_no_length(kind, jit_compile):
    if BACKEND != "tensorflow":
        pytest.skip("about TensorFlow")
    import tensorflow as tf

    op, options = OPTIONS[kind]
    system = make_system(op)

    @tf.function(
        input_signature=[tf.TensorSpec((None, None, 3))],
        jit_compile=jit_compile,
    )
    def function(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            given = {name: tensor(v) for name, v in system.items()}
            kernel = getattr(keras_ssm.ops, op)(
                *arguments(given), tf.shape(x)[1], **options
            )
            y = keras_ssm.ops.fft_conv(x, kernel, backward_kernel=kernel)
        return y, tape.gradient(y, x)

    for length in (1, 50, 70):
        x = np.random.default_rng(6).standard_normal((2, length, 3))
        y, gradient = function(tensor(x))
        kernel = expect_kernel(kind, system, length)
        expected = reference.fft_conv(x, kernel, backward_kernel=kernel)
        assert_close(y, expected, "float32", "gradient")
        expected = reference.fft_conv(
            np.ones_like(x), kernel, backward_kernel=kernel, reverse=True
        )
        assert_close(gradient, expected, "float32", "gradient")


# Wrong arguments.


@pytest.mark.parametrize("op", (*KERNELS, "discretize", "discretize_dplr"))
def test_wrong_systems(op):
    pair = zeros(3, 4), zeros(3, 4)
    count = {"s4_conv_kernel": 4, "discretize": 2}.get(op, 3)
    others = [pair] * (count - 1)
    rest = [7] if op in KERNELS else []
    raises(
        ValueError,
        op,
        "`A` must be a pair `(real, imag)` of tensors; for a real one, "
        "`(A, keras.ops.zeros_like(A))`. Received: a tensor of shape (3, 4).",
        *(zeros(3), pair[0], *others, *rest),
    )
    raises(
        ValueError,
        op,
        "`A[1]` must have shape (d, n) with d=3, n=4. "
        "Received: A[1].shape=(3, 5).",
        *(zeros(3), (pair[0], zeros(3, 5)), *others, *rest),
    )
    raises(
        ValueError,
        op,
        "`rate` must be positive. Received: rate=0.",
        *(zeros(3), pair, *others, *rest),
        rate=0,
    )


@pytest.mark.parametrize("op", KERNELS)
def test_a_kernel_without_steps(op):
    pair = zeros(3, 4), zeros(3, 4)
    others = [pair] * (4 if op == "s4_conv_kernel" else 3)
    sentence = "`length` must be a positive integer. Received: length=0."
    raises(ValueError, op, sentence, zeros(3), *others, 0)


@pytest.mark.parametrize("op", ("s4d_conv_kernel", "discretize"))
def test_a_discretization_that_does_not_exist(op):
    pair = zeros(3, 4), zeros(3, 4)
    others = [pair, 7] if op == "s4d_conv_kernel" else []
    raises(
        ValueError,
        op,
        "`discretization` must be one of ('zoh', 'bilinear'). "
        "Received: discretization='euler'.",
        *(zeros(3), pair, pair, *others),
        discretization="euler",
    )
