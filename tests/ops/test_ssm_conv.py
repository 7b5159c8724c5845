"""Kernels of S4D and S4 are matrix powers, and long convolutions use them."""

import keras
import numpy as np
import pytest
from compare import as_array, assert_close, assert_same
from harness import (
    BACKEND,
    compiled,
    compiled_quickly,
    gradients,
    implementations,
    needs_gradients,
    tensor,
)

import keras_ssm
from keras_ssm.ops import reference

LONG = 784
KERNELS = ("s4d_conv_kernel", "s4_conv_kernel")
OPTIONS = {
    "zoh": ("s4d_conv_kernel", {"discretization": "zoh"}),
    "bilinear": ("s4d_conv_kernel", {"discretization": "bilinear"}),
    "dplr": ("s4_conv_kernel", {}),
}
each_kernel = pytest.mark.parametrize("kind", OPTIONS)
each_implementation = pytest.mark.parametrize(
    "implementation", implementations("fft_conv")
)
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


def run_kernel(kind, arrays, length, dtype="float32", **changes):
    op, options = OPTIONS[kind]
    given = {name: tensor(v, dtype) for name, v in arrays.items()}

    def function(given):
        function = getattr(keras_ssm.ops, op)
        return function(*arguments(given), length, **options, **changes)

    # Once for each kernel as users run it, the others start faster.
    wrap = compiled if length == LONG else compiled_quickly
    return wrap(function)(given)


def expect_kernel(kind, arrays, length, **changes):
    op, options = OPTIONS[kind]
    function = getattr(reference, op)
    return function(*arguments(arrays), length, **options, **changes)


def check_kernel(kind, arrays, length, dtype="float32", **changes):
    kernel = run_kernel(kind, arrays, length, dtype, **changes)
    expected = expect_kernel(kind, arrays, length, **changes)
    # A Cauchy product is as exact as its resonances are wide.
    strictness = "gradient" if kind == "dplr" else "forward"
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


@each_kernel
def test_another_sampling_rate(kind):
    check_kernel(kind, make_system(OPTIONS[kind][0]), 40, rate=2.5)


@each_kernel
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
    op, options = OPTIONS[kind]
    arrays = make_system(op, d=2, n=3)
    cotangent = np.random.default_rng(1).standard_normal((33, 2))

    def function(given, of=keras_ssm.ops):
        return getattr(of, op)(*arguments(given), 33, **options)

    check_gradients(function, arrays, cotangent)


@needs_gradients
@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("kind", ("zoh", "dplr"))
def test_double_precision_of_gradients(kind):
    op, options = OPTIONS[kind]
    arrays = make_system(op, d=2, n=3)
    cotangent = np.random.default_rng(1).standard_normal((9, 2))

    def function(given, of=keras_ssm.ops):
        return getattr(of, op)(*arguments(given), 9, **options)

    # As exact as finite differences are.
    check_gradients(function, arrays, cotangent, "float64", tolerance=1e-7)


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


def test_long_kernels_do_not_hold_each_state_at_each_step():
    if BACKEND != "jax":
        pytest.skip("JAX shows what a program holds")
    import jax

    d, n, length = 3, 16, 4096
    for kind, share in (("zoh", 16), ("bilinear", 16), ("dplr", 4)):
        op, options = OPTIONS[kind]
        arrays = make_system(op, d, n)
        function = getattr(keras_ssm.ops, op)
        program = jax.make_jaxpr(
            lambda v, function=function, options=options: function(
                *arguments(v), length, **options
            )
        )
        sizes = [
            np.prod(v.aval.shape)
            for equation in every_equation(program(arrays).jaxpr)
            for v in equation.outvars
        ]
        assert max(sizes) <= d * n * length / share, kind


def every_equation(jaxpr):
    """Those of a program and of its parts."""
    for equation in jaxpr.eqns:
        yield equation
        for value in equation.params.values():
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                yield from every_equation(inner)


# From a kernel to the recurrence and back.


@pytest.mark.parametrize("kind", ("zoh", "bilinear"))
def test_the_convolution_is_the_scan_of_the_discretized_system(kind):
    arrays = make_system("s4d_conv_kernel")
    dt, A, B, C = (given(v) for v in arguments(arrays))
    x = tensor(np.random.default_rng(2).standard_normal((2, 50, 3)))
    kernel = run_kernel(kind, arrays, 50)
    y = keras_ssm.ops.fft_conv(x, kernel)

    A_bar, B_bar = keras_ssm.ops.discretize(dt, A, B, discretization=kind)
    flat = [keras.ops.reshape(v, (-1,)) for v in A_bar]
    inputs = [x[..., None] * v for v in B_bar]  # (b, l, d, n)
    inputs = [keras.ops.reshape(v, (2, 50, -1)) for v in inputs]
    states = keras_ssm.ops.linear_scan(tuple(flat), tuple(inputs))
    states = [keras.ops.reshape(v, (2, 50, 3, -1)) for v in states]
    real = keras.ops.sum(C[0] * states[0] - C[1] * states[1], axis=-1)
    assert_close(2 * real, as_array(y), "float32", "gradient")


def test_the_convolution_is_the_recurrence_of_the_dplr_system():
    arrays = make_system("s4_conv_kernel")
    dt, A, P, B, C = (given(v) for v in arguments(arrays))
    A_bar, h = (as_array(v) for v in keras_ssm.ops.discretize_dplr(dt, A, P, B))
    assert A_bar.shape == (3, 8, 8) and h.shape == (3, 8)
    C = np.concatenate([2 * as_array(C[0]), -2 * as_array(C[1])], axis=-1)
    kernel = np.zeros((40, 3))
    for t in range(40):
        kernel[t] = (C * h).sum(-1)
        h = (A_bar @ h[..., None])[..., 0]
    assert_close(run_kernel("dplr", arrays, 40), kernel, "float32", "gradient")


def test_discretize_halves_a_step_in_two():
    dt, A, B, _ = (given(v) for v in arguments(make_system("s4d_conv_kernel")))
    whole, _ = keras_ssm.ops.discretize(dt, A, B)
    half, _ = keras_ssm.ops.discretize(dt, A, B, rate=0.5)
    whole, half = (as_array(v[0]) + 1j * as_array(v[1]) for v in (whole, half))
    assert np.abs(half**2 - whole).max() < 1e-6


def given(value):
    if isinstance(value, tuple):
        return tuple(tensor(part) for part in value)
    return tensor(value)


# Long convolutions.


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
    dense, h = keras_ssm.ops.discretize_dplr(dt, pair, pair, pair)
    assert [v.shape for v in (*A_bar, *B_bar)] == [(3, 4)] * 4
    assert (dense.shape, h.shape) == ((3, 8, 8), (3, 8))
    outputs = keras.Model([dt, A], [*A_bar, *B_bar, dense, h])(
        model_inputs(1)[2:]
    )
    shapes = [(3, 4)] * 4 + [(3, 8, 8), (3, 8)]
    assert [tuple(v.shape) for v in outputs] == shapes


@pytest.mark.parametrize("jit_compile", (False, True))
@each_kernel
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


# Wrong arguments.


def raises(error, op, sentence, *values, **options):
    with pytest.raises(error) as caught:
        getattr(keras_ssm.ops, op)(*values, **options)
    assert str(caught.value) == f"`{op}`: {sentence}"


def zeros(*shape, dtype="float32"):
    return tensor(np.zeros(shape, dtype))


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
    sentence = "`length` must be positive. Received: length=0."
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
