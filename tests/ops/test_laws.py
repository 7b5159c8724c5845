"""The laws that every implementation of every op obeys."""

import functools

import harness
import keras
import numpy as np
import oracle
import pytest
from cases import PER_STEP, Case, make_cotangents, make_inputs
from compare import as_array, assert_close, assert_same
from harness import (
    OPS,
    at_steps,
    call,
    check,
    compiled_quickly,
    each_implementation,
    implementations,
    run_function,
    tensor,
    tensors,
)

LENGTH = 37
run = functools.partial(harness.run, wrap=compiled_quickly)
pytestmark = pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
SIZES = dict(l=LENGTH, d=4, n=3)
EVERYTHING = dict(D=True, z=True, bias=True, nonlinear=True, initial_state=True)
each_direction = pytest.mark.parametrize(
    "reverse", (False, True), ids=("forwards", "backwards")
)


def make(op, implementation=None, **changes):
    """Arrays, options and cotangents; none where gradients are not promised."""
    if op == "linear_scan" and changes.get("reverse"):
        changes["D"] = False  # forwards complex, backwards real
    case = Case("law", **{**SIZES, **EVERYTHING, **changes})
    arrays, options = make_inputs(op, case)
    cotangents = make_cotangents(op, case)
    if implementation == "portable":
        cotangents = None
    return arrays, options, cotangents


def expect(op, arrays, options, cotangents):
    """What the oracle computes; zeros for cotangents that are not asked."""
    if cotangents is None:
        of = arrays["x"], arrays["initial_state"]
        cotangents = tuple(np.zeros_like(v) for v in of)
    return oracle.solve(op, arrays, options, cotangents)


@each_direction
@pytest.mark.parametrize("op", OPS)
def test_steps_equal_the_scan(op, reverse):
    arrays, options, cotangents = make(op, mask="holes", reverse=reverse)
    expected = expect(op, arrays, options, cotangents)
    for name in {"reverse", "chunk_size"} & set(options):
        options.pop(name)
    for implementation in implementations(f"{op}_step"):

        def step(state, arrays, implementation=implementation):
            given = {**arrays, "state": state}
            return call(f"{op}_step", given, options, implementation)

        step, given = compiled_quickly(step), tensors(arrays)
        state, y = given.pop("initial_state"), [None] * LENGTH
        for t in range(LENGTH)[::-1] if reverse else range(LENGTH):
            y[t], state = step(state, at_steps(given, t))
        y = np.stack([as_array(v) for v in y], axis=1)
        assert_close(y, expected.y, "float32")
        assert_close(state, expected.state, "float32")


@pytest.mark.parametrize(
    ("cut", "reverse"), ((16, False), (2, True)), ids=("long", "short")
)
@each_implementation()
def test_two_parts_equal_the_whole(op, implementation, cut, reverse):
    arrays, options, cotangents = make(
        op, implementation, mask="holes", reverse=reverse
    )
    ids = [0] * 5 + [1] * 20 + [0] * (LENGTH - 25)
    arrays["segment_ids"] = np.array([ids, ids])

    def chained(tensors):
        parts = [slice(None, cut), slice(cut, None)]
        y = {}
        for part in reversed(parts) if reverse else parts:
            given = at_steps(tensors, part)
            y[part.start], state = call(op, given, options, implementation)
            tensors = {**tensors, "initial_state": state}
        return keras.ops.concatenate([y[None], y[cut]], axis=1), state

    actual = run_function(chained, arrays, cotangents, wrap=compiled_quickly)
    check(actual, expect(op, arrays, options, cotangents))


@each_direction
@each_implementation()
def test_padding_changes_nothing(op, implementation, reverse):
    arrays, options, cotangents = make(op, implementation, reverse=reverse)
    live = 24
    arrays = at_steps(arrays, slice(live))
    arrays["segment_ids"] = np.array([[0, 0, 1, 1] * 6, [3] * 10 + [2] * 14])
    if cotangents is not None:
        garbage, dstate = cotangents
        cotangents = (garbage[:, :live], dstate)
    expected = expect(op, arrays, options, cotangents)
    for places in make_places(live):
        row = np.arange(2)[:, None]
        padded = pad(arrays, places)
        mask = padded["mask"]
        if cotangents is not None:
            dy = garbage.copy()
            dy[row, places] = cotangents[0]
            actual = run(op, padded, options, implementation, (dy, dstate))
        else:
            actual = run(op, padded, options, implementation)
        for name, v in {"y": actual.y, **actual.gradients}.items():
            if name in PER_STEP or name == "y":
                assert not as_array(v)[~mask].any(), f"{name} is not 0"
        actual.y = as_array(actual.y)[row, places]
        for name in set(actual.gradients) & set(PER_STEP):
            v = as_array(actual.gradients[name])
            actual.gradients[name] = v[row, places]
        check(actual, expected)


def make_places(live):
    """Where the steps of two rows lie among masked ones."""
    random = np.random.default_rng(0)
    first, last = np.arange(live), np.arange(LENGTH - live, LENGTH)
    holes = [
        np.sort(random.choice(LENGTH, live, replace=False)) for _ in range(2)
    ]
    return [
        np.array(rows)
        for rows in ((first, first), (last, last), (first, last), holes)
    ]


def pad(arrays, places):
    """Puts steps at those places, and garbage at the others."""
    padded = dict(arrays)
    for name in set(PER_STEP) & set(arrays):
        v = arrays[name]
        garbage = np.nan if v.dtype.kind == "f" else 77
        padded[name] = np.full((2, LENGTH, *v.shape[2:]), garbage, v.dtype)
        padded[name][np.arange(2)[:, None], places] = v
    padded["mask"] = np.zeros((2, LENGTH), bool)
    padded["mask"][np.arange(2)[:, None], places] = True
    return padded


@each_direction
@each_implementation()
def test_packing_equals_separate_calls(op, implementation, reverse):
    arrays, options, cotangents = make(op, implementation, reverse=reverse)
    lengths, ids = (9, 1, LENGTH - 10), (0, 1, 0)
    packed = {
        **arrays,
        "segment_ids": np.tile(np.repeat(ids, lengths), (2, 1)),
    }
    actual = run(op, packed, options, implementation, cotangents)
    ends = np.cumsum(lengths)
    parts = [slice(e - n, e) for e, n in zip(ends, lengths, strict=True)]
    first, last = (2, 0) if reverse else (0, 2)
    results = []
    for number, part in enumerate(parts):
        own, of_part = at_steps(arrays, part), None
        if number != first:
            own["initial_state"] = np.zeros_like(own["initial_state"])
        if cotangents is not None:
            dstate = cotangents[1] * (number == last)
            of_part = (cotangents[0][:, part], dstate)
        results.append(expect(op, own, options, of_part))
    check(actual, join(results, results[first], results[last]))


def join(parts, first, last):
    """The result of calls one after the other."""
    found = {}
    for name in first.gradients:
        of_parts = [part.gradients[name] for part in parts]
        if name in PER_STEP:
            found[name] = np.concatenate(of_parts, axis=1)
        elif name == "initial_state":
            found[name] = first.gradients[name]
        else:
            found[name] = sum(of_parts)
    y = np.concatenate([part.y for part in parts], axis=1)
    return oracle.Result(y, last.state, found)


@each_direction
@pytest.mark.parametrize(
    ("op", "implementation"),
    [
        (op, implementation)
        for op in ("selective_scan", "linear_scan")
        for implementation in implementations(op, gradients=True)
    ],
)
def test_a_segment_keeps_its_infinities(op, implementation, reverse):
    sizes = dict(b=1, l=70, reverse=reverse)
    arrays, options, cotangents = make(op, implementation, **sizes)
    arrays["segment_ids"] = (np.arange(70) >= 40)[None].astype("int32")
    expected = run(op, arrays, options, implementation, cotangents)
    within, outside = slice(None, 40), slice(40, None)
    if reverse:
        within, outside = outside, within
    arrays["x"][:, within][:, 15] = np.inf
    actual = run(op, arrays, options, implementation, cotangents)
    assert_same(
        as_array(actual.y)[:, outside], as_array(expected.y)[:, outside]
    )
    assert_same(actual.state, expected.state)
    for name in set(PER_STEP) & set(actual.gradients):
        found, wanted = actual.gradients[name], expected.gradients[name]
        assert_same(as_array(found)[:, outside], as_array(wanted)[:, outside])


@each_implementation()
def test_reverse_equals_flip_scan_flip(op, implementation):
    arrays, options, cotangents = make(
        op, implementation, mask="holes", segments="alternating"
    )
    arrays = {
        name: np.nan_to_num(v) if v.dtype.kind == "f" else v
        for name, v in arrays.items()
    }
    flip = slice(None, None, -1)
    flipped = at_steps(arrays, flip)
    backwards = cotangents and (cotangents[0][:, flip], cotangents[1])
    expected = run(op, flipped, options, implementation, backwards)
    options = {**options, "reverse": True}
    actual = run(op, arrays, options, implementation, cotangents)
    expected.y = as_array(expected.y)[:, flip]
    expected.gradients = {
        name: as_array(v)[:, flip] if name in PER_STEP else v
        for name, v in expected.gradients.items()
    }
    check(actual, expected)


@each_direction
@each_implementation()
def test_the_future_never_changes_the_past(op, implementation, reverse):
    arrays, options, cotangents = make(op, implementation, reverse=reverse)
    past, future = slice(None, 20), slice(20, None)
    if reverse:
        past, future = future, past
    changed = {name: v.copy() for name, v in arrays.items()}
    for name in set(PER_STEP) & set(arrays):
        changed[name][:, future] += 1
    before = run(op, arrays, options, implementation).y
    after = run(op, changed, options, implementation).y
    assert_same(as_array(before)[:, past], as_array(after)[:, past])
    if cotangents is not None:
        cotangents[0][:, future] = 0
        cotangents = (cotangents[0], 0 * cotangents[1])
        result = run(op, arrays, options, implementation, cotangents)
        for name in set(PER_STEP) & set(result.gradients):
            gradient = as_array(result.gradients[name])
            assert not gradient[:, future].any(), name
            assert gradient[:, past].any(), name


@each_implementation()
def test_rows_are_independent(op, implementation):
    arrays, options, cotangents = make(op, implementation)
    broken = {name: v.copy() for name, v in arrays.items()}
    of_rows = {*PER_STEP, "initial_state"} & set(arrays)
    for name in of_rows:
        broken[name][1] = np.nan
    alone = run(op, arrays, options, implementation, cotangents)
    beside = run(op, broken, options, implementation, cotangents)
    assert_same(as_array(alone.y)[0], as_array(beside.y)[0])
    assert_same(as_array(alone.state)[0], as_array(beside.state)[0])
    for name in of_rows & set(alone.gradients):
        assert_same(
            as_array(alone.gradients[name])[0],
            as_array(beside.gradients[name])[0],
            name,
        )


@pytest.mark.usefixtures("uninitialized_memory")
@each_implementation()
def test_two_runs_give_the_same_bits(op, implementation):
    arrays, options, cotangents = make(op, implementation, segments="runs")
    once = run(op, arrays, options, implementation, cotangents)
    again = run(op, arrays, options, implementation, cotangents)
    assert_same(once.y, again.y)
    assert_same(once.state, again.state)
    for name, gradient in once.gradients.items():
        assert_same(gradient, again.gradients[name], name)


@pytest.mark.parametrize(("b", "l"), ((0, 3), (2, 0), (0, 0)))
@each_implementation()
def test_nothing_in_gives_nothing_out(op, implementation, b, l):
    arrays, options, cotangents = make(op, implementation, b=b, l=l)
    result = run(op, arrays, options, implementation, cotangents)
    assert_same(result.y, np.zeros(arrays["x"].shape, np.float32))
    assert_same(result.state, arrays["initial_state"].astype(np.float32))
    for name, gradient in result.gradients.items():
        expected = np.zeros(arrays[name].shape)
        if name == "initial_state":
            expected = cotangents[1]
        assert_same(gradient, expected.astype(np.float32), name)


@pytest.mark.parametrize("op", OPS)
def test_nothing_in_leaves_an_absent_state_empty(op):
    arrays, options, _ = make(op, l=0, initial_state=False)
    shape = make(op)[0]["initial_state"].shape
    state = run(op, arrays, options).state
    assert_same(state, np.zeros(shape, np.float32))


@each_implementation()
def test_inputs_are_not_changed(op, implementation):
    arrays, options, _ = make(op, mask="holes", segments="runs")
    given = tensors(arrays)
    call(op, given, options, implementation)
    for name, array in arrays.items():
        expected = as_array(tensor(array))
        assert np.array_equal(as_array(given[name]), expected, equal_nan=True)
