"""The recurrence of a time-invariant system obeys the laws of a scan."""

import keras
import numpy as np
import oracle
import pytest
from compare import as_array, assert_close, assert_same
from harness import (
    BACKEND,
    at_steps,
    check,
    compiled_quickly,
    implementations,
    rounded,
    run_function,
    tensor,
    tensors,
)

import keras_ssm
from keras_ssm.ops import reference

KINDS = ("diagonal", "dense")
# More than two chunks of 64 steps, the last not full.
LONG = 131
CASES = {
    "one_step": dict(l=1),
    "two_steps_from_the_end": dict(l=2, reverse=True, initial_state=True),
    "holes": dict(l=LONG, D=True, mask="holes", initial_state=True),
    "padded_backwards": dict(
        l=330, D=True, mask="left", initial_state=True, reverse=True
    ),
}
SYSTEM = ("A", "A_imag", "B", "B_imag", "C", "C_imag")
each_kind = pytest.mark.parametrize("kind", KINDS)
each_case = pytest.mark.parametrize("case", CASES)
each_implementation = pytest.mark.parametrize(
    "implementation", implementations("ssm_scan")
)


def make(kind, l, b=3, d=2, n=3, seed=0, **case):
    """Arrays, options and cotangents; masked steps hold NaN."""
    rng = np.random.default_rng(seed)
    size = np.exp(-rng.uniform(1e-3, 0.3, (d, n)))
    A = size * np.exp(1j * rng.uniform(0, 3, (d, n)))
    arrays = {"x": rng.standard_normal((b, l, d))}
    arrays["A"] = A.real
    if kind == "diagonal":
        arrays["A_imag"] = A.imag
    else:
        # The same poles in another basis.
        basis, _ = np.linalg.qr(rng.standard_normal((d, 2 * n, 2 * n)))
        matrices = basis @ reference.as_matrices(A)
        arrays["A"] = matrices @ basis.transpose(0, 2, 1)
    for name in ("B", "B_imag", "C", "C_imag"):
        arrays[name] = rng.standard_normal((d, n))
    if case.get("D"):
        arrays["D"] = rng.standard_normal(d)
    if case.get("initial_state"):
        arrays["initial_state"] = rng.standard_normal((b, d, 2 * n))
    arrays = {name: v.astype("float32") for name, v in arrays.items()}
    arrays = {name: v.astype("float64") for name, v in arrays.items()}
    if "mask" in case:
        arrays["mask"] = make_mask(case["mask"], b, l)
        arrays["x"][~arrays["mask"]] = np.nan
    cotangents = (b, l, d), (b, d, 2 * n)
    cotangents = tuple(rng.standard_normal(shape) for shape in cotangents)
    return arrays, {"reverse": case.get("reverse", False)}, cotangents


def make_mask(kind, b, l):
    """Rows with every step, with some, and with none."""
    step, length = np.arange(l), np.linspace(l, 0, b).astype(int)[:, None]
    if kind == "holes":
        return (step * 7) % l < length
    return step < length if kind == "right" else step >= l - length


def arguments(values):
    """The arguments of the op: a pair for each complex number."""
    others = {name: v for name, v in values.items() if name not in SYSTEM}
    for name in "ABC":
        imag = values.get(f"{name}_imag")
        real = values[name]
        others[name] = real if imag is None else (real, imag)
    return others


def call(values, **options):
    return keras_ssm.ops.ssm_scan(
        **arguments(values), **options, return_state=True
    )


def run(arrays, options, cotangents=None, dtype="float32"):
    """Compiled, with gradients where the backend has any."""
    return run_function(
        lambda values: call(values, **options),
        arrays,
        None if BACKEND == "numpy" else cotangents,
        dtype=dtype,
        wrap=compiled_quickly,
    )


@each_kind
@each_case
@each_implementation
def test_outputs_and_gradients(kind, case, implementation):
    arrays, options, cotangents = make(kind, **CASES[case])
    options["implementation"] = implementation
    expected = oracle.solve("ssm_scan", arrays, options, cotangents)
    check(run(arrays, options, cotangents), expected)


@each_kind
@each_implementation
@pytest.mark.usefixtures("float64")
@pytest.mark.skipif(
    BACKEND == "numpy", reason="Keras' numpy backend computes in float32"
)
def test_double_precision(kind, implementation):
    arrays, options, cotangents = make(kind, **CASES["holes"])
    options["implementation"] = implementation
    expected = oracle.solve("ssm_scan", arrays, options, cotangents)
    actual = run(arrays, options, cotangents, "float64")
    check(actual, expected, "float64")


@pytest.mark.parametrize("dtype", ("bfloat16", "float16"))
def test_half_precision(dtype):
    if BACKEND == "numpy" and dtype == "bfloat16":
        pytest.skip("NumPy has no bfloat16")
    arrays, options, cotangents = make("dense", **CASES["holes"])
    arrays = rounded(arrays, dtype)
    dy = rounded({"y": cotangents[0]}, dtype)["y"]
    cotangents = dy, cotangents[1]
    expected = oracle.solve("ssm_scan", arrays, options, cotangents)
    check(run(arrays, options, cotangents, dtype), expected, dtype)


@each_kind
def test_steps_equal_the_scan(kind):
    case = dict(l=9, D=True, mask="holes", initial_state=True)
    arrays, options, _ = make(kind, **case)
    y, end = reference.ssm_scan(**arguments(arrays))

    def step(values, state):
        of_step = arguments(values)
        of_step["state"] = state
        return keras_ssm.ops.ssm_scan_step(**of_step)

    step, given, found = compiled_quickly(step), tensors(arrays), []
    state = given.pop("initial_state")
    for t in range(9):
        of_step = {name: given[name][:, t] for name in ("x", "mask")}
        of_output, state = step({**given, **of_step}, state)
        found.append(as_array(of_output))
    assert_close(np.stack(found, axis=1), y, "float32")
    assert_close(state, end, "float32")


@pytest.mark.parametrize(
    ("kind", "reverse"), (("diagonal", False), ("dense", True))
)
def test_two_parts_equal_the_whole(kind, reverse):
    case = dict(l=LONG, D=True, mask="holes", initial_state=True)
    arrays, options, _ = make(kind, reverse=reverse, **case)
    y, end = reference.ssm_scan(**arguments(arrays), reverse=reverse)
    parts, found = [slice(None, 65), slice(65, None)], {}
    given = tensors(arrays)
    for part in reversed(parts) if reverse else parts:
        of_part = at_steps({"x": given["x"], "mask": given["mask"]}, part)
        scan = compiled_quickly(lambda values: call(values, **options))
        found[part.start], state = scan({**given, **of_part})
        given["initial_state"] = state
    both = [as_array(found[part.start]) for part in parts]
    assert_close(np.concatenate(both, axis=1), y, "float32")
    assert_close(state, end, "float32")


@each_kind
def test_the_future_never_changes_the_past(kind):
    arrays, _, _ = make(kind, l=LONG)
    given = tensors(arrays)
    for step in (40, 64, 100):
        changed = arrays["x"].copy()
        changed[:, step:] += 1
        other = as_array(call({**given, "x": tensor(changed)})[0])
        y = as_array(call(given)[0])
        assert_same(other[:, :step], y[:, :step])
        assert (other[:, step] != y[:, step]).all()


@each_kind
def test_rows_are_independent(kind):
    arrays, options, _ = make(kind, **CASES["padded_backwards"])
    expected = call(tensors(arrays), **options)
    arrays["x"][1] = np.nan
    found = call(tensors(arrays), **options)
    for actual, wanted in zip(found, expected, strict=True):
        assert_same(as_array(actual)[[0, 2]], as_array(wanted)[[0, 2]])


@each_kind
@pytest.mark.parametrize(("b", "l"), ((0, 3), (2, 0)))
def test_nothing_in_gives_nothing_out(kind, b, l):
    given = tensors(make(kind, l, b, initial_state=True)[0])
    y, state = call(given)
    assert tuple(y.shape) == (b, l, 2)
    assert_same(state, given["initial_state"])
    del given["initial_state"]
    assert_same(call(given)[1], np.zeros((b, 2, 6), "float32"))


def test_the_state_is_returned_only_if_asked_for():
    given = tensors(make("dense", l=5)[0])
    y = keras_ssm.ops.ssm_scan(**arguments(given))
    assert_same(y, call(given)[0])


# Functional models, and lengths that are not known.


def make_model(**options):
    x = keras.Input((None, 2), name="x")
    mask = keras.Input((None,), dtype="bool", name="mask")
    A = keras.Input(batch_shape=(2, 3), name="A")
    dense = keras.Input(batch_shape=(2, 6, 6), name="dense")
    pair = A, A
    scan = keras_ssm.ops.ssm_scan
    y, state = scan(x, pair, pair, pair, mask=mask, return_state=True)
    y = scan(y, dense, pair, pair, initial_state=state, reverse=True)
    step = keras_ssm.ops.ssm_scan_step(x[:, 0], pair, pair, pair, state=state)
    return keras.Model([x, mask, A, dense], [y, state, *step])


def test_a_functional_model_infers_its_shapes_without_a_kernel(monkeypatch):
    monkeypatch.setattr(keras_ssm.ops.dispatch, "run", None)
    shapes = [v.shape for v in make_model().outputs]
    assert shapes == [(None, None, 2), (None, 2, 6), (None, 2), (None, 2, 6)]


def test_a_functional_model_is_saved_and_runs_at_any_length(tmp_path):
    model = make_model()
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras", compile=False)
    rng = np.random.default_rng(5)
    for length in (1, 70):
        x, mask = rng.standard_normal((2, length, 2)), rng.random((2, length))
        A, dense = 0.3 * rng.random((2, 3)), 0.2 * rng.random((2, 6, 6))
        inputs = [tensor(v) for v in (x, mask > 0.2, A, dense)]
        y, state = reference.ssm_scan(
            x, (A, A), (A, A), (A, A), mask=mask > 0.2
        )
        y, _ = reference.ssm_scan(
            y, dense, (A, A), (A, A), initial_state=state, reverse=True
        )
        found = model(inputs)
        assert_close(found[0], y, "float32", "gradient")
        assert_close(found[1], state, "float32")
        for again, once in zip(loaded(inputs), found, strict=True):
            assert_same(again, once)


@each_kind
def test_an_unknown_length(kind):
    if BACKEND == "numpy":
        pytest.skip("NumPy knows every length")
    case = dict(initial_state=True, reverse=True)
    if kind == "dense":
        case["mask"] = "holes"
    arrays, options, _ = make(kind, l=20, **case)
    function = EXPORT[BACKEND](arrays, options)
    for length in (1, 64, LONG):
        arrays, options, _ = make(kind, l=length, **case)
        y, state = reference.ssm_scan(**arguments(arrays), **options)
        found = function(tensors(arrays))
        assert_close(found[0], y, "float32", "gradient")
        assert_close(found[1], state, "float32", "gradient")


def export_jax(arrays, options):
    import jax

    (length,) = jax.export.symbolic_shape("length")
    shapes = {
        name: jax.ShapeDtypeStruct(of_unknown_length(v, length), v.dtype)
        for name, v in tensors(arrays).items()
    }
    function = jax.jit(lambda values: call(values, **options))
    return jax.export.export(function)(shapes).call


def export_tensorflow(arrays, options):
    import tensorflow as tf

    signature = {
        name: tf.TensorSpec(of_unknown_length(v, None), v.dtype)
        for name, v in tensors(arrays).items()
    }
    return tf.function(
        lambda values: call(values, **options), input_signature=[signature]
    )


def export_torch(arrays, options):
    import torch

    class Module(torch.nn.Module):
        def forward(self, values):
            return call(values, **options)

    length = torch.export.Dim("length")
    shapes = {
        name: {1: length} if name in ("x", "mask") else {} for name in arrays
    }
    program = torch.export.export(
        Module(), (tensors(arrays),), dynamic_shapes={"values": shapes}
    )
    return program.module()


def of_unknown_length(array, length):
    if tuple(array.shape[:2]) == (3, 20):
        return 3, length, *array.shape[2:]
    return tuple(array.shape)


EXPORT = {
    "jax": export_jax,
    "tensorflow": export_tensorflow,
    "torch": export_torch,
}


# Wrong arguments.


@pytest.mark.parametrize("op", ("ssm_scan", "ssm_scan_step"))
def test_wrong_arguments(op):
    pair = tensor(np.zeros((2, 3))), tensor(np.zeros((2, 3)))
    time = (5,) if op == "ssm_scan" else ()
    right = {"x": tensor(np.zeros((4, *time, 2))), **dict.fromkeys("ABC", pair)}
    state = "initial_state" if op == "ssm_scan" else "state"
    right[state] = tensor(np.zeros((4, 2, 6)))
    wrong = tensor(np.zeros((2, 4)))
    must = "must have shape"
    for changes, error, sentence in (
        (
            {"B": wrong},
            ValueError,
            "`B` must be a pair `(real, imag)` of tensors. Received: a tensor.",
        ),
        (
            {"A": (wrong,)},
            ValueError,
            "`A` must be a pair `(real, imag)` of tensors or real matrices. "
            "Received: a tuple of 1.",
        ),
        (
            {"A": wrong},
            ValueError,
            f"`A` {must} (d, 6, 6) with d=2. Received: A.shape=(2, 4).",
        ),
        (
            {"C": (pair[0], wrong)},
            ValueError,
            f"`C[1]` {must} (d, n) with d=2, n=3. Received: C[1].shape=(2, 4).",
        ),
        (
            {state: right["x"]},
            ValueError,
            f"`{state}` {must} (b, d, 6) with b=4, d=2. "
            f"Received: {state}.shape={tuple(right['x'].shape)}.",
        ),
        (
            {"mask": tensor(np.ones((4, *time), "int32"))},
            TypeError,
            "`mask` must be boolean, True where a step counts; convert it, "
            "for example with `mask > 0`. Received: mask.dtype=int32.",
        ),
        (
            {"D": tensor(np.ones(2, "int32"))},
            TypeError,
            "`D` must be a floating-point tensor; cast it, for example with "
            "`keras.ops.cast(D, 'float32')`. Received: D.dtype=int32.",
        ),
    ):
        with pytest.raises(error) as caught:
            getattr(keras_ssm.ops, op)(**{**right, **changes})
        assert str(caught.value) == f"`{op}`: {sentence}"
