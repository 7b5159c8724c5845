"""The recurrence of Mamba-3 is that of the paper, and obeys the laws."""

import math

import keras
import numpy as np
import oracle
import pytest
from compare import as_array, assert_close, assert_same
from harness import (
    BACKEND,
    check,
    compiled_quickly,
    rounded,
    run_function,
    tensor,
    tensors,
)

import keras_ssm
from keras_ssm.ops import reference
from keras_ssm.ops.rotary import sum_angles

PER_STEP = ("x", "dt", "A", "B", "C", "lam", "theta")
STATE = ("state_before", "x_before", "B_before")
# Steps of a chunk of `ssd`: so few that there are several.
CHUNK = 8
CASES = {
    "one_step": dict(l=1, r=1, h=1, initial_state=True),
    "real_in_part": dict(l=2, r=1, n=5, initial_state=True),
    "ranks_with_holes": dict(
        l=9, r=3, mask="holes", D=True, initial_state=True
    ),
    "packed_backwards": dict(
        l=19,
        r=1,
        mask="left",
        segments=True,
        D=True,
        initial_state=True,
        reverse=True,
    ),
}
# JAX and TensorFlow compile what a test calls: for `make test-all` alone there.
if_quick = () if BACKEND in ("torch", "numpy") else pytest.mark.slow
each_case = pytest.mark.parametrize(
    "case",
    [
        pytest.param(name, marks=if_quick if name == "real_in_part" else ())
        for name in CASES
    ],
)


def make(l, r=2, b=3, h=2, p=2, n=4, a=2, seed=0, **case):
    """Arrays, options and cotangents; masked steps hold NaN."""
    rng = np.random.default_rng(seed)
    rate, size = rng.uniform(-2, 1, (b, l, h)), rng.uniform(-4, 0, (b, l, h))
    arrays = {
        "x": rng.normal(size=(b, l, r, h, p)),
        "dt": np.exp(size),
        "A": -np.exp(rate),
        "B": rng.normal(size=(b, l, r, h, n)),
        "C": rng.normal(size=(b, l, r, h, n)),
        "lam": rng.uniform(size=(b, l, h)),
        "theta": rng.uniform(-3, 3, (b, l, a)),
    }
    if case.get("D"):
        arrays["D"] = rng.normal(size=h)
    shapes = (b, h, p, n), (b, r, h, p), (b, r, h, n)
    states = [rng.normal(size=shape) for shape in shapes]
    if case.get("initial_state"):
        arrays.update(zip(STATE, states, strict=True))
    arrays = {
        name: v.astype("float32").astype("float64")
        for name, v in arrays.items()
    }
    if "mask" in case:
        arrays["mask"] = make_mask(case["mask"], b, l)
        for name in PER_STEP:
            arrays[name][~arrays["mask"]] = np.nan
    if case.get("segments"):
        ids = np.cumsum(rng.random((b, l)) < 0.3, axis=1) % 2
        arrays["segment_ids"] = ids.astype("int32")
    size = sum(math.prod(shape[1:]) for shape in shapes)
    shapes = (b, l, r, h, p), (b, size)
    cotangents = tuple(rng.normal(size=shape) for shape in shapes)
    return arrays, {"reverse": case.get("reverse", False)}, cotangents


def make_mask(kind, b, l):
    """Rows with every step, with some, and with none."""
    step, length = np.arange(l), np.linspace(l, 0, b).astype(int)[:, None]
    if kind == "holes":
        return (step * 7) % l < length
    return step >= l - length


def arguments(values, name="initial_state"):
    """The arguments of the op, its state as a tuple."""
    others = {key: v for key, v in values.items() if key not in STATE}
    if STATE[0] in values:
        others[name] = tuple(values[key] for key in STATE)
    return others


def call(values, **options):
    """`y` and the states side by side, `(b, ...)`."""
    y, states = keras_ssm.ops.mamba3_scan(
        **arguments(values), **options, return_state=True
    )
    reshape, b = keras.ops.reshape, keras.ops.shape(y)[0]
    flat = [reshape(v, (b, math.prod(v.shape[1:]))) for v in states]
    return y, keras.ops.concatenate(flat, axis=1)


def expect(arrays, options):
    """The same of the reference."""
    y, states = reference.mamba3_scan(**arguments(arrays), **options)
    return y, np.concatenate([v.reshape(len(v), -1) for v in states], axis=1)


def solve(arrays, options, cotangents):
    """The reference, and its gradients by central differences."""
    y, state = expect(arrays, options)
    found, count = {}, len(y)
    for name in oracle.floating(arrays):
        row = arrays[name].shape[1:]
        if name == "D":
            continue
        moves = 1e-5 * np.eye(math.prod(row)).reshape(-1, 1, *row)
        moves = np.repeat(np.concatenate([moves, -moves]), count, axis=1)
        # Rows know nothing of each other: all moves are rows of one call.
        many = {
            key: v if key == "D" else np.concatenate([v] * len(moves))
            for key, v in arrays.items()
        }
        many[name] = many[name] + moves.reshape(many[name].shape)
        losses = sum(
            (v.reshape(len(moves), *g.shape) * g)
            .reshape(-1, count, g[0].size)
            .sum(-1)
            for v, g in zip(expect(many, options), cotangents, strict=True)
        )
        ahead, behind = np.split(losses, 2)
        found[name] = ((ahead - behind) / 2e-5).T.reshape(count, *row)
    if "D" in arrays:
        x = arrays["x"]
        if "mask" in arrays:
            x = np.where(arrays["mask"][:, :, None, None, None], x, 0)
        found["D"] = (cotangents[0] * x).sum((0, 1, 2, 4))
    return oracle.Result(y, state, found)


def run(arrays, options, cotangents=None, dtype="float32"):
    """Compiled, with gradients where the backend has any."""
    return run_function(
        lambda values: call(values, chunk_size=CHUNK, **options),
        arrays,
        None if BACKEND == "numpy" else cotangents,
        dtype=dtype,
        wrap=compiled_quickly,
    )


@each_case
def test_outputs_and_gradients(case):
    arrays, options, cotangents = make(**CASES[case])
    expected = solve(arrays, options, cotangents)
    check(run(arrays, options, cotangents), expected)


def test_outputs_of_portable():
    arrays, options, _ = make(**CASES["ranks_with_holes"])
    y, state = expect(arrays, options)
    options["implementation"] = "portable"
    check(run(arrays, options), oracle.Result(y, state, {}))


@pytest.mark.usefixtures("float64")
@pytest.mark.skipif(
    BACKEND == "numpy", reason="Keras' numpy backend computes in float32"
)
def test_double_precision():
    arrays, options, cotangents = make(**CASES["ranks_with_holes"])
    expected = solve(arrays, options, cotangents)
    check(run(arrays, options, cotangents, "float64"), expected, "float64")


@pytest.mark.parametrize(
    "dtype",
    [pytest.param(v, marks=if_quick) for v in ("bfloat16", "float16")],
)
def test_half_precision(dtype):
    if BACKEND == "numpy" and dtype == "bfloat16":
        pytest.skip("NumPy has no bfloat16")
    arrays, options, _ = make(**CASES["packed_backwards"])
    arrays = rounded(arrays, dtype)
    y, state = expect(arrays, options)
    check(run(arrays, options, None, dtype), oracle.Result(y, state, {}), dtype)


@pytest.mark.parametrize("r", (pytest.param(1, marks=if_quick), 3))
def test_steps_equal_the_scan(r):
    case = dict(l=9, D=True, mask="holes", initial_state=True)
    arrays, options, _ = make(r=r, **case)
    y, states = reference.mamba3_scan(**arguments(arrays), **options)
    step = compiled_quickly(
        lambda values: keras_ssm.ops.mamba3_scan_step(
            **arguments(values, "state")
        )
    )
    given, found = tensors(arrays), []
    for t in range(9):
        of_step = {name: given[name][:, t] for name in (*PER_STEP, "mask")}
        out, state = step({**given, **of_step})
        given.update(zip(STATE, state, strict=True))
        found.append(as_array(out))
    assert_close(np.stack(found, axis=1), y, "float32")
    for one, other in zip(state, states, strict=True):
        assert_close(one, other, "float32")


@pytest.mark.parametrize("reverse", (pytest.param(False, marks=if_quick), True))
def test_two_parts_equal_the_whole(reverse):
    case = dict(l=19, D=True, mask="holes", initial_state=True)
    arrays, options, _ = make(reverse=reverse, **case)
    y, end = expect(arrays, options)
    parts, found = [slice(None, 8), slice(8, None)], {}
    names = (*PER_STEP, "mask")
    given = tensors(arrays)
    scan = compiled_quickly(
        lambda values: keras_ssm.ops.mamba3_scan(
            **arguments(values), **options, return_state=True
        )
    )
    for part in reversed(parts) if reverse else parts:
        of_part = {name: given[name][:, part] for name in names}
        found[part.start], states = scan({**given, **of_part})
        given.update(zip(STATE, states, strict=True))
    both = [as_array(found[part.start]) for part in parts]
    assert_close(np.concatenate(both, axis=1), y, "float32")
    states = [as_array(v).reshape(3, -1) for v in states]
    assert_close(np.concatenate(states, axis=1), end, "float32")


def test_the_future_reaches_the_past_by_rounding_alone():
    arrays, options, _ = make(l=19, r=2)
    before = as_array(run(arrays, options).y)
    changed = {
        name: np.concatenate([v[:, :11], v[:, 11:] * 1.5], axis=1)
        for name, v in arrays.items()
    }
    after = as_array(run(changed, options).y)
    assert_same(after[:, :10], before[:, :10])
    assert_close(after[:, 10], before[:, 10], "float32")
    assert (after[:, 11] != before[:, 11]).all()


def test_sums_of_angles_keep_their_digits():
    angle = np.random.default_rng(3).uniform(0, 0.6, (1, 20000, 1))
    angle = angle.astype("float32")  # a thousand turns
    expected = np.cumsum(angle.astype("float64"), axis=1)
    error = as_array(sum_angles(tensor(angle))) - expected
    error = (error + np.pi) % (2 * np.pi) - np.pi
    assert np.abs(error).max() < 3e-4
    assert np.abs(np.cumsum(angle, axis=1) - expected).max() > 3e-3


@pytest.mark.parametrize(("b", "l"), ((0, 3), (2, 0)))
def test_nothing_in_gives_nothing_out(b, l):
    given = tensors(make(l, b=b, initial_state=True)[0])
    y, states = keras_ssm.ops.mamba3_scan(**arguments(given), return_state=True)
    assert tuple(y.shape) == (b, l, 2, 2, 2)
    for name, state in zip(STATE, states, strict=True):
        assert_same(state, given[name])


def make_model():
    x = keras.Input((None, 2, 3, 4), name="x")
    maps = keras.Input((None, 2, 3, 6), name="maps")
    sizes = keras.Input((None, 3), name="sizes")
    mask = keras.Input((None,), dtype="bool", name="mask")
    turn = {"lam": sizes, "theta": sizes}
    y, state = keras_ssm.ops.mamba3_scan(
        x, sizes, -sizes, maps, maps, **turn, mask=mask, return_state=True
    )
    y = keras_ssm.ops.mamba3_scan(
        y, sizes, -sizes, maps, maps, **turn, initial_state=state
    )
    of_step = (v[:, 0] for v in (x, sizes, -sizes, maps, maps))
    turn = {name: v[:, 0] for name, v in turn.items()}
    of_step, _ = keras_ssm.ops.mamba3_scan_step(*of_step, **turn, state=state)
    return keras.Model([x, maps, sizes, mask], [y, of_step, *state])


def test_a_functional_model_is_saved(tmp_path):
    model = make_model()
    shapes = [v.shape[1:] for v in model.outputs]
    assert shapes == [
        *((None, 2, 3, 4), (2, 3, 4)),
        *((3, 4, 6), (2, 3, 4), (2, 3, 6)),
    ]
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras", compile=False)
    rng = np.random.default_rng(5)
    shapes = (7, 2, 3, 4), (7, 2, 3, 6), (7, 3)
    x, maps, sizes = (rng.uniform(0.1, 0.9, (2, *s)) for s in shapes)
    mask = rng.random((2, 7)) > 0.3
    given, options = (sizes, -sizes, maps, maps), dict(lam=sizes, theta=sizes)
    y, state = reference.mamba3_scan(x, *given, **options, mask=mask)
    y, _ = reference.mamba3_scan(y, *given, **options, initial_state=state)
    inputs = [tensor(v) for v in (x, maps, sizes, mask)]
    found = compiled_quickly(lambda inputs: model(inputs))(inputs)
    assert_close(found[0], y, "float32")
    for one, other in zip(found[2:], state, strict=True):
        assert_close(one, other, "float32")
    again = compiled_quickly(lambda inputs: loaded(inputs))(inputs)
    for one, other in zip(again, found, strict=True):
        assert_same(one, other)


@pytest.mark.parametrize("op", ("mamba3_scan", "mamba3_scan_step"))
def test_wrong_arguments(op):
    right = tensors(make(l=5, initial_state=True)[0])
    name = "initial_state"
    if op == "mamba3_scan_step":
        name = "state"
        right.update({key: right[key][:, 0] for key in PER_STEP})
    right = arguments(right, name)
    steps = tuple(right["dt"].shape[:-1])
    axes = "b, l" if len(steps) == 2 else "b"
    sizes = "b=3, l=5" if len(steps) == 2 else "b=3"
    wrong = tensor(np.zeros((*steps, 3)))
    for changes, error, sentence in (
        (
            {"A": wrong},
            ValueError,
            f"`A` must have shape ({axes}, h) with {sizes}, h=2. "
            f"Received: A.shape={(*steps, 3)}.",
        ),
        (
            {name: right[name][:2]},
            ValueError,
            f"`{name}` must be a tuple of three tensors: the state, and the x "
            "and B of the step before. Received: 2.",
        ),
        (
            {name: (right[name][0], right[name][2], right[name][2])},
            ValueError,
            f"`{name}[1]` must have shape (b, r, h, p) with b=3, r=2, h=2, "
            f"p=2. Received: {name}[1].shape=(3, 2, 2, 4).",
        ),
        (
            {"theta": wrong},
            ValueError,
            "`theta` must have at most one angle for two numbers of the "
            f"state. Received: theta.shape={(*steps, 3)}, "
            f"B.shape={(*steps, 2, 2, 4)}.",
        ),
        (
            {"mask": tensor(np.ones(steps, "int32"))},
            TypeError,
            "`mask` must be boolean, True where a step counts; convert it, "
            "for example with `mask > 0`. Received: mask.dtype=int32.",
        ),
        (
            {"lam": tensor(np.ones((*steps, 2), "int32"))},
            TypeError,
            "`lam` must be a floating-point tensor; cast it, for example with "
            "`keras.ops.cast(lam, 'float32')`. Received: lam.dtype=int32.",
        ),
    ):
        with pytest.raises(error) as caught:
            getattr(keras_ssm.ops, op)(**{**right, **changes})
        assert str(caught.value) == f"`{op}`: {sentence}"
