"""What PyTorch does with the ops: compile, export, autocast, `torch.func`."""

import dataclasses

import oracle
import pytest
from cases import PER_STEP, Case, make_cotangents, make_inputs
from compare import assert_close, assert_same
from harness import (
    OPS,
    call,
    check,
    gradients,
    implementations,
    only_on,
    tensor,
    tensors,
)

only_on("torch")

import torch  # noqa: E402
from torch._dynamo.testing import CompileCounterWithBackend  # noqa: E402
from torch.fx.experimental.proxy_tensor import make_fx  # noqa: E402

from keras_ssm.kernels.torch import selective_scan  # noqa: E402, F401

CASE = Case(
    "torch",
    l=37,
    d=4,
    n=3,
    D=True,
    z=True,
    bias=True,
    nonlinear=True,
    initial_state=True,
    mask="holes",
    segments="runs",
)
PLAIN = Case("plain", l=20, d=4, n=3, reverse=True)
# An argument that all rows share.
PARAMETERS = {
    "selective_scan": "A",
    "causal_conv1d": "weight",
    "linear_scan": "constant_a",
    "ssd": "A",
}
each = pytest.mark.parametrize(
    ("op", "implementation"),
    [(op, name) for op in OPS for name in implementations(op, True)],
)
# The kernels of numba cannot leave the process.
each_to_export = pytest.mark.parametrize(
    ("op", "implementation"),
    [(op, name) for op in OPS for name in (None, "torch")],
)
each_case = pytest.mark.parametrize(
    "case", (CASE, PLAIN), ids=lambda case: case.name
)


def make(op, case):
    arrays, options = make_inputs(op, case)
    cotangents = make_cotangents(op, case)
    expected = oracle.solve(op, arrays, options, cotangents)
    return tensors(arrays), options, tuple(map(tensor, cotangents)), expected


def solve(function, op, case):
    """Outputs and gradients of a function with the arguments of the op."""
    given, _, cotangents, expected = make(op, case)
    floats = {name: given.pop(name) for name in expected.gradients}
    (y, state), found = gradients(
        lambda floats: function({**floats, **given}), floats, cotangents
    )
    return oracle.Result(y, state, found), expected


@each_case
@each
def test_compile_without_graph_breaks(op, implementation, case):
    _, options, _, _ = make(op, case)
    counter = CompileCounterWithBackend("aot_eager")
    torch.compiler.reset()

    @torch.compile(fullgraph=True, backend=counter)
    def function(given):
        return call(op, given, options, implementation)

    for number, length in enumerate((case.l, 50, 21, 33)):
        sized = dataclasses.replace(case, l=length)
        check(*solve(function, op, sized))
        if number == 1:
            after_second_length = counter.frame_count
    assert counter.frame_count == after_second_length


@pytest.mark.slow
@pytest.mark.parametrize("op", OPS)
def test_compile_with_the_default_compiler(op):
    _, options, _, _ = make(op, CASE)
    torch.compiler.reset()

    @torch.compile(fullgraph=True)
    def function(given):
        return call(op, given, options)

    check(*solve(function, op, dataclasses.replace(CASE, l=1024)))


class Module(torch.nn.Module):
    """The op as a module, which is what `torch.export` takes."""

    def __init__(self, op, options, implementation):
        super().__init__()
        self.arguments = op, options, implementation

    def forward(self, given):
        op, options, implementation = self.arguments
        return call(op, given, options, implementation)


@pytest.mark.parametrize(
    "case",
    (CASE, pytest.param(PLAIN, marks=pytest.mark.slow)),
    ids=lambda case: case.name,
)
@each_to_export
def test_export_with_unknown_batch_and_length(op, implementation, case):
    given, options, _, _ = make(op, case)
    b, l = torch.export.Dim("b"), torch.export.Dim("l")
    shapes = {
        name: {0: b, 1: l}
        if name in PER_STEP
        else ({0: b} if name == "initial_state" else {})
        for name in given
    }
    exported = torch.export.export(
        Module(op, options, implementation),
        (given,),
        dynamic_shapes={"given": shapes},
    )
    assert "keras_ssm" not in exported.graph_module.code
    for batch, length in ((2, 2), (3, 16), (1, 1), (4, 70)):
        sized = dataclasses.replace(case, b=batch, l=length)
        given, _, _, expected = make(op, sized)
        y, state = exported.module()(given)
        check(oracle.Result(y, state, {}), expected)


@pytest.mark.parametrize("randomness", ("rows", "parameters"))
@each
def test_func_vmap(op, implementation, randomness):
    case = dataclasses.replace(CASE, mask=None, z=randomness == "rows")
    given, options, _, expected = make(op, case)
    rows = {*PER_STEP, "initial_state"}
    if randomness == "rows":
        axes = {name: 0 if name in rows else None for name in given}
        given = {
            name: v[:, None] if name in rows else v for name, v in given.items()
        }
    else:
        name = PARAMETERS[op]
        axes = {other: 0 if other == name else None for other in given}
        given[name] = torch.stack([given[name]] * 2)

    def function(given):
        return call(op, given, options, implementation)

    y, state = torch.func.vmap(function, (axes,))(given)
    if randomness == "rows":
        y, state = y[:, 0], state[:, 0]
        check(oracle.Result(y, state, {}), expected)
        return
    for one in range(2):
        check(oracle.Result(y[one], state[one], {}), expected)


@each
def test_func_grad(op, implementation):
    given, options, (dy, dstate), expected = make(op, CASE)
    floats = {name: given.pop(name) for name in expected.gradients}

    def loss(floats):
        y, state = call(op, {**floats, **given}, options, implementation)
        return (y * dy).sum() + (state * dstate).sum()

    found = torch.func.grad(loss)(floats)
    for name, gradient in expected.gradients.items():
        assert_close(found[name], gradient, "float32", "gradient", name)


@each
def test_func_grad_of_each_row(op, implementation):
    name = PARAMETERS[op]
    # Without a gate, a linear scan has a parameter, too.
    case = dataclasses.replace(CASE, mask=None, z=False)
    given, options, (dy, dstate), expected = make(op, case)
    rows = {*PER_STEP, "initial_state"}
    axes = {other: 0 if other in rows else None for other in given}
    shared = given.pop(name)
    axes.pop(name)

    def loss(shared, given, dy, dstate):
        given = {k: v[None] if k in rows else v for k, v in given.items()}
        given = {**given, name: shared}
        y, state = call(op, given, options, implementation)
        return (y[0] * dy).sum() + (state[0] * dstate).sum()

    of_rows = torch.func.vmap(torch.func.grad(loss), (None, axes, 0, 0))
    found = of_rows(shared, given, dy, dstate)
    wanted = expected.gradients[name]
    assert found.shape == (2, *wanted.shape)
    assert_close(found.sum(0), wanted, "float32", "gradient")


@each
def test_autocast_changes_nothing(op, implementation):
    def function(given):
        return call(op, given, options, implementation)

    _, options, _, _ = make(op, CASE)
    plain, _ = solve(function, op, CASE)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        within, expected = solve(function, op, CASE)
    check(within, expected)
    assert_same(within.y, plain.y)


@pytest.mark.parametrize(
    "implementation", implementations("selective_scan", True)
)
def test_a_tracer_sees_what_runs(implementation):
    given, options, _, _ = make("selective_scan", PLAIN)

    def function(given):
        return call("selective_scan", given, options, implementation)

    traced = make_fx(function)(given)
    other = {name: v.flip(-1) for name, v in given.items()}
    y, state = function(other)
    found = traced(other)
    assert_same(found[0], y)
    assert_same(found[1], state)


@pytest.mark.parametrize("reverse", (False, True))
def test_the_operator_is_well_behaved(reverse):
    random = torch.Generator().manual_seed(0)

    def make(*shape):
        v = torch.rand(shape, generator=random)
        return v.requires_grad_()

    arguments = (
        *(make(2, 20, 4), make(2, 20, 4), make(4, 3)),
        *(make(2, 20, 2, 3), make(2, 20, 2, 3), make(2, 4, 3)),
        *(torch.arange(40).reshape(2, 20) % 7 == 3, reverse),
    )
    operator = torch.ops.keras_ssm.selective_scan.default
    torch.library.opcheck(operator, (*arguments, 32))


def test_a_second_derivative_is_refused():
    given, options, _, _ = make("selective_scan", PLAIN)
    x = given.pop("x").requires_grad_()
    y, _ = call("selective_scan", {**given, "x": x}, options, "torch")
    (dx,) = torch.autograd.grad((y**2).sum(), x, create_graph=True)
    with pytest.raises(NotImplementedError, match="first derivatives only"):
        torch.autograd.grad(dx.sum(), x)


@pytest.mark.parametrize("implementation", implementations("linear_scan", True))
def test_a_linear_scan_keeps_its_output(implementation):
    case = Case("memory", b=1, l=512, d=64, D=True, z=True, bias=True)
    given, options, _, expected = make("linear_scan", case)
    for name in expected.gradients:
        given[name].requires_grad_()
    saved = {}

    def save(v):
        storage = v.untyped_storage()
        saved[storage.data_ptr()] = storage.nbytes()
        return v

    with torch.autograd.graph.saved_tensors_hooks(save, lambda v: v):
        call("linear_scan", given, options, implementation)
    a_and_y = 2 * expected.y.size * 4
    assert a_and_y <= sum(saved.values()) < 1.1 * a_and_y


@pytest.mark.parametrize(
    ("op", "implementation"),
    [
        (op, name)
        for op in ("selective_scan", "ssd")
        for name in implementations(op, True)
    ],
)
def test_training_never_holds_a_state_for_every_step(op, implementation):
    case = Case("memory", b=1, l=512, d=64, n=16, p=1)
    given, options, _, expected = make(op, case)
    for name in expected.gradients:
        given[name].requires_grad_()
    saved = []

    def save(v):
        saved.append(v.numel())
        return v

    with torch.autograd.graph.saved_tensors_hooks(save, lambda v: v):
        call(op, given, options, implementation)
    everything = case.l * case.d * case.n
    assert case.l * case.d <= sum(saved) < everything / 2
