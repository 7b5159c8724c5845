"""What TensorFlow does with the ops: graphs, XLA, and unknown sizes."""

import dataclasses
import functools

import numpy as np
import oracle
import pytest
from cases import PER_STEP, Case, make_cotangents, make_inputs
from compare import as_array
from harness import (
    OPS,
    call,
    check,
    gradients,
    implementations,
    only_on,
    run,
    tensor,
    tensors,
)

only_on("tensorflow")

import tensorflow as tf  # noqa: E402

CASE = Case(
    "tensorflow",
    d=4,
    n=3,
    g=2,
    D=True,
    z=True,
    bias=True,
    nonlinear=True,
    initial_state=True,
    mask="holes",
    segments="runs",
)
PLAIN = Case("plain", d=4, n=3, reverse=True)
SIZES = ((2, 7), (1, 1), (3, 33), (2, 70))
each_compiler = pytest.mark.parametrize(
    "jit_compile", (False, True), ids=("graph", "xla")
)
each = pytest.mark.parametrize(
    ("op", "implementation"),
    [(op, name) for op in OPS for name in implementations(op, True)],
)


def signature(op, arrays):
    """Specs of tensors whose batch and length are unknown."""
    specs = {}
    for name, v in tensors(arrays).items():
        shape = list(v.shape)
        if name in PER_STEP:
            shape[:2] = None, None
        if name == "initial_state":
            shape[0] = None
        specs[name] = tf.TensorSpec(shape, v.dtype)
    return specs


def make_function(op, case, implementation, jit_compile):
    """The op and its gradients, traced once for unknown batch and length."""
    arrays, options = make_inputs(op, case)
    specs = signature(op, arrays)
    floats = {name: specs.pop(name) for name in oracle.floating(arrays)}
    dy, dstate = make_cotangents(op, case)
    cotangents = tuple(
        tf.TensorSpec([None, *rest], tf.float32)
        for rest in ((None, *dy.shape[2:]), dstate.shape[1:])
    )

    @tf.function(
        jit_compile=jit_compile, input_signature=(floats, specs, cotangents)
    )
    def function(floats, others, cotangents):
        outputs, found = gradients(
            lambda floats: call(
                op, {**floats, **others}, options, implementation
            ),
            floats,
            cotangents,
        )
        assert outputs[0].shape.as_list() == [None, None, *dy.shape[2:]]
        assert outputs[1].shape.as_list() == [None, *dstate.shape[1:]]
        return outputs, found

    return function


def run_function(function, op, case):
    arrays, _ = make_inputs(op, case)
    given = tensors(arrays)
    floats = {name: given.pop(name) for name in oracle.floating(arrays)}
    cotangents = tuple(tensor(v) for v in make_cotangents(op, case))
    (y, state), found = function(floats, given, cotangents)
    return oracle.Result(y, state, found)


def expect(op, case):
    arrays, options = make_inputs(op, case)
    return oracle.solve(op, arrays, options, make_cotangents(op, case))


@each_compiler
@pytest.mark.parametrize("case", (CASE, PLAIN), ids=lambda case: case.name)
@each
def test_unknown_batch_and_length(op, implementation, case, jit_compile):
    function = make_function(op, case, implementation, jit_compile)
    # Under XLA, every size is compiled anew.
    for b, l in SIZES[1:3] if jit_compile else SIZES:
        sized = dataclasses.replace(case, b=b, l=l)
        check(run_function(function, op, sized), expect(op, sized))
    assert function.experimental_get_tracing_count() == 1


@each_compiler
@each
def test_an_unknown_size_may_turn_out_to_be_zero(
    op, implementation, jit_compile
):
    function = make_function(op, CASE, implementation, jit_compile)
    for b, l in ((2, 0), (0, 3)):
        case = dataclasses.replace(CASE, b=b, l=l)
        arrays, _ = make_inputs(op, case)
        _, dstate = make_cotangents(op, case)
        actual = run_function(function, op, case)
        assert actual.y.shape == arrays["x"].shape
        state = arrays["initial_state"]
        assert np.array_equal(as_array(actual.state), state.astype("float32"))
        for name, gradient in actual.gradients.items():
            wanted = dstate if name == "initial_state" else 0 * arrays[name]
            assert np.array_equal(as_array(gradient), wanted.astype("float32"))


@each_compiler
@pytest.mark.parametrize("op", OPS)
def test_portable_with_unknown_batch_and_length(op, jit_compile):
    arrays, options = make_inputs(op, CASE)

    @tf.function(
        jit_compile=jit_compile, input_signature=(signature(op, arrays),)
    )
    def function(given):
        return call(op, given, options, "portable")

    for b, l in SIZES[:2] if jit_compile else SIZES:
        case = dataclasses.replace(CASE, b=b, l=l)
        y, state = function(tensors(make_inputs(op, case)[0]))
        check(oracle.Result(y, state, {}), expect(op, case))


@each_compiler
@each
def test_known_sizes(op, implementation, jit_compile):
    case = dataclasses.replace(CASE, l=70, reverse=jit_compile)
    arrays, options = make_inputs(op, case)
    actual = run(
        op,
        arrays,
        options,
        implementation,
        make_cotangents(op, case),
        wrap=functools.partial(tf.function, jit_compile=jit_compile),
    )
    check(actual, expect(op, case))
