"""What JAX does with the ops: vmap, grad, shard_map and export."""

import dataclasses

import oracle
import pytest
from cases import Case, make_cotangents, make_inputs
from compare import assert_close
from harness import OPS, call, check, implementations, only_on, tensors

only_on("jax")

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
from jax.extend.core import jaxprs_in_params  # noqa: E402
from jax.sharding import PartitionSpec  # noqa: E402

CASE = Case(
    "jax",
    l=37,
    d=4,
    n=3,
    D=True,
    z=True,
    bias=True,
    nonlinear=True,
    initial_state=True,
    segments="runs",
)
# Arguments that all rows share, and one of each op.
SHARED = ("A", "D", "dt_bias", "weight", "bias", "constant_a")
PARAMETERS = {
    "selective_scan": "A",
    "causal_conv1d": "weight",
    "linear_scan": "constant_a",
    "ssd": "A",
}
each_to_export = pytest.mark.parametrize(
    ("op", "implementation"),
    [(op, name) for op in OPS for name in (None, "lax")],
)
each_with_gradients = pytest.mark.parametrize(
    ("op", "implementation"),
    [(op, name) for op in OPS for name in implementations(op, True)],
)


def make(op, case=CASE):
    arrays, options = make_inputs(op, case)
    return arrays, options, make_cotangents(op, case)


@each_with_gradients
def test_vmap(op, implementation):
    arrays, options, cotangents = make(op)
    axes = {name: None if name in SHARED else 0 for name in arrays}
    given = tensors(arrays)

    def of_row(given):
        given = {
            name: v if name in SHARED else v[None] for name, v in given.items()
        }
        y, state = call(op, given, options, implementation)
        return y[0], state[0]

    expected = oracle.solve(op, arrays, options, cotangents)
    y, state = jax.jit(jax.vmap(of_row, (axes,)))(given)
    assert_close(y, expected.y, "float32")
    assert_close(state, expected.state, "float32")


@each_with_gradients
def test_a_gradient_for_each_row(op, implementation):
    # Without a gate, that of a linear scan has a parameter, too.
    arrays, options, cotangents = make(op, dataclasses.replace(CASE, z=False))
    name = PARAMETERS[op]
    given = tensors(arrays)
    ids = given.pop("segment_ids")
    shared = given.pop(name)
    rows = [v for v in ("D", "dt_bias", "bias") if v in given]
    axes = {v: None if v in rows else 0 for v in given}

    def loss(shared, given, ids, dy, dstate):
        given = {k: v if k in rows else v[None] for k, v in given.items()}
        given = {**given, name: shared, "segment_ids": ids[None]}
        y, state = call(op, given, options, implementation)
        return (y[0] * dy).sum() + (state[0] * dstate).sum()

    of_rows = jax.vmap(jax.grad(loss), (None, axes, 0, 0, 0))
    found = jax.jit(of_rows)(shared, given, ids, *map(jnp.float32, cotangents))
    expected = oracle.solve(op, arrays, options, cotangents).gradients[name]
    assert found.shape == (2, *expected.shape)
    assert_close(found.sum(0), expected, "float32", "gradient")


@each_to_export
def test_export_with_unknown_batch_and_length(op, implementation):
    arrays, options, _ = make(op)
    b, l = jax.export.symbolic_shape("b, l")
    sizes = {
        name: (b, *v.shape[1:]) if name == "initial_state" else v.shape
        for name, v in arrays.items()
    }
    for name in ("x", "dt", "a", "B", "C", "z", "segment_ids"):
        if name in sizes:
            sizes[name] = (b, l, *sizes[name][2:])
    wanted = {
        name: jax.ShapeDtypeStruct(shape, tensors(arrays)[name].dtype)
        for name, shape in sizes.items()
    }

    @jax.jit
    def function(given):
        return call(op, given, options, implementation)

    exported = jax.export.export(function)(wanted)
    exported = jax.export.deserialize(exported.serialize())
    for batch, length in ((1, 1), (2, 33), (3, 70)):
        case = dataclasses.replace(CASE, b=batch, l=length)
        arrays, _, cotangents = make(op, case)
        expected = oracle.solve(op, arrays, options, cotangents)
        y, state = exported.call(tensors(arrays))
        assert_close(y, expected.y, "float32")
        assert_close(state, expected.state, "float32")


@pytest.mark.parametrize("op", OPS)
def test_one_program_is_exported_for_several_platforms(op):
    arrays, options, cotangents = make(op)

    @jax.jit
    def function(given):
        return call(op, given, options)

    platforms = ("cpu", "cuda", "rocm", "tpu")
    exported = jax.export.export(function, platforms=platforms)(tensors(arrays))
    assert exported.platforms == platforms
    y, _ = exported.call(tensors(arrays))
    expected = oracle.solve(op, arrays, options, cotangents)
    assert_close(y, expected.y, "float32")


@each_with_gradients
def test_shard_map(op, implementation):
    # A wide convolution is a loop, which has to carry what varies.
    for k in (4, 20) if op == "causal_conv1d" else (4,):
        check_shard_map(op, implementation, dataclasses.replace(CASE, k=k))


def check_shard_map(op, implementation, case):
    arrays, options, cotangents = make(op, case)
    mesh = jax.sharding.Mesh(jax.devices()[:1], ("rows",))
    specs = {
        name: PartitionSpec() if name in SHARED else PartitionSpec("rows")
        for name in arrays
    }
    of_rows = PartitionSpec("rows")

    def forward(given):
        return call(op, given, options, implementation)

    sharded = jax.shard_map(
        forward, mesh=mesh, in_specs=(specs,), out_specs=(of_rows, of_rows)
    )
    given = tensors(arrays)
    floats = {name: given.pop(name) for name in oracle.floating(arrays)}

    @jax.jit
    def both(floats):
        outputs, adjoint = jax.vjp(lambda v: sharded({**v, **given}), floats)
        return outputs, adjoint(tuple(map(jnp.float32, cotangents)))[0]

    (y, state), found = both(floats)
    expected = oracle.solve(op, arrays, options, cotangents)
    check(oracle.Result(y, state, found), expected)


@pytest.mark.parametrize("implementation", implementations(OPS[0], True))
def test_training_never_holds_a_state_for_every_step(implementation):
    case = Case("memory", b=1, l=512, d=8, n=16)
    arrays, options = make_inputs("selective_scan", case)
    given = tensors(arrays)

    def loss(given):
        y, state = call("selective_scan", given, options, implementation)
        return y.sum() + state.sum()

    largest = max(sizes(jax.make_jaxpr(jax.grad(loss))(given).jaxpr))
    everything = case.l * case.d * case.n
    assert case.l * case.d <= largest < everything / 4


def sizes(jaxpr):
    """The size of every array in a program."""
    for equation in jaxpr.eqns:
        yield from (v.aval.size for v in equation.outvars)
        for inner in jaxprs_in_params(equation.params):
            yield from sizes(inner)
