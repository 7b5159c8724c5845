"""Which implementation runs, and what is said when none can."""

import importlib
import inspect
import subprocess
import sys

import pytest
from cases import make_inputs, named
from harness import BACKEND, OPS, call, implementations, tensors

import keras_ssm
from keras_ssm.kernels import platforms
from keras_ssm.ops import dispatch, symbolic

ALL_OPS = (*OPS, *(f"{op}_step" for op in OPS))
DEFAULTS = {
    ("selective_scan", "jax"): "numba",
    ("selective_scan", "tensorflow"): "numba",
    ("selective_scan", "torch"): "numba",
    ("causal_conv1d", "jax"): "numba",
    ("causal_conv1d", "tensorflow"): "numba",
    ("causal_conv1d", "torch"): "numba",
    ("linear_scan", "jax"): "numba",
    ("linear_scan", "tensorflow"): "numba",
    ("linear_scan", "torch"): "numba",
    ("ssd", "jax"): "lax",
    ("ssd", "tensorflow"): "xla",
    ("ssd", "torch"): "torch",
}


@pytest.fixture
def ran(monkeypatch):
    """Records the implementations that run, and keeps them from running."""
    names = []

    def run(backend, chosen, tensors, options):
        here = platforms.here(backend)
        *_, name, _ = chosen[here].__module__.split(".")
        names.append(name)
        return tensors[0], tensors[0]

    monkeypatch.setattr(platforms, "run", run)
    return names


def call_any(op, implementation=None):
    arrays, options = make_inputs(op, named("mamba"))
    return call(op, tensors(arrays), options, implementation)


def default(op):
    """What runs if nobody asks: on a CPU as written down, else the first."""
    if platforms.here(BACKEND) != "cpu":
        return implementations(op)[0]
    return DEFAULTS.get((op, BACKEND), "portable")


def kernel(name, op):
    return importlib.import_module(f"keras_ssm.kernels.{name}.{op}")


@pytest.mark.parametrize("op", OPS)
def test_the_default(op, ran):
    if platforms.here(BACKEND) != "cpu":
        pytest.skip("about machines without an accelerator")
    call_any(op)
    assert ran == [DEFAULTS.get((op, BACKEND), "portable")]


@pytest.mark.parametrize("op", OPS)
def test_a_named_implementation_runs(op, ran):
    names = implementations(op)
    for name in names:
        call_any(op, name)
    assert ran == names


@pytest.mark.parametrize("op", OPS)
def test_an_implementation_that_does_not_exist(op):
    rows = dispatch.PREFERENCES[op, BACKEND]
    sentences = [
        f"`{op}` has no implementation 'cuda' on the {BACKEND!r} backend; it "
        f"has {list(names)}. Received: implementation='cuda'."
        for names in rows.values()
    ]
    with pytest.raises(ValueError) as caught:
        call_any(op, "cuda")
    assert str(caught.value) in sentences


@pytest.mark.parametrize("op", OPS)
def test_a_pinned_implementation_runs_within_the_context(op, ran):
    with keras_ssm.ops.use_implementation("portable"):
        call_any(op)
    call_any(op)
    assert ran == ["portable", default(op)]


def test_a_name_goes_before_a_pinned_implementation(ran):
    name = implementations("selective_scan")[0]
    with keras_ssm.ops.use_implementation("portable"):
        call_any("selective_scan", name)
    assert ran == [name]


def test_an_op_without_the_pinned_implementation_chooses_as_usual(ran):
    others = {"jax": "xla", "tensorflow": "lax"}
    with keras_ssm.ops.use_implementation(others.get(BACKEND, "lax")):
        call_any("selective_scan")
    assert ran == [default("selective_scan")]


def test_a_name_that_no_op_has_cannot_be_pinned():
    with pytest.raises(ValueError, match="`use_implementation` takes one of"):
        with keras_ssm.ops.use_implementation("cuda"):
            pass


@pytest.mark.parametrize("op", OPS)
def test_the_next_implementation_runs_where_the_first_cannot(
    op, ran, monkeypatch
):
    first, *others = implementations(op)
    if not others:
        pytest.skip("there is only one implementation")
    refuse(monkeypatch, op, first)
    call_any(op)
    assert ran == others[:1]


@pytest.mark.parametrize("op", OPS)
def test_a_named_implementation_that_cannot_run_says_why(op, monkeypatch):
    first = implementations(op)[0]
    refuse(monkeypatch, op, first)
    with pytest.raises(NotImplementedError) as caught:
        call_any(op, first)
    assert str(caught.value) == (
        f"`{op}` cannot run here: {first}: needs a better machine."
    )


def refuse(monkeypatch, op, name):
    monkeypatch.setattr(
        kernel(name, op),
        "unsupported",
        lambda *tensors, **options: "needs a better machine",
    )


@pytest.mark.parametrize("op", OPS)
def test_a_missing_package_counts_as_unavailable(op, ran, monkeypatch):
    first, *others = implementations(op)
    monkeypatch.setitem(dispatch.PACKAGES, first, "no_such_package")
    with pytest.raises(
        NotImplementedError, match="`no_such_package` package is not installed"
    ):
        call_any(op, first)
    if others:
        call_any(op)
        assert ran == others[:1]


def test_a_broken_import_of_our_own_is_an_error(monkeypatch):
    rows = {"cpu": ("no_such_kernel", "portable")}
    rows = {**rows, "gpu": rows["cpu"], "tpu": rows["cpu"]}
    monkeypatch.setitem(dispatch.PREFERENCES, ("selective_scan", BACKEND), rows)
    with pytest.raises(ModuleNotFoundError, match="no_such_kernel"):
        call_any("selective_scan")


@pytest.mark.parametrize("op", ALL_OPS)
def test_implementations_of_an_op_have_the_same_arguments(op):
    parameters = [
        inspect.signature(getattr(kernel(name, op), op)).parameters.values()
        for name in implementations(op)
    ]
    options = [
        {p.name for p in of_one if p.kind is p.KEYWORD_ONLY}
        for of_one in parameters
    ]
    assert all(names == options[0] for names in options), options
    # Those that only pass their tensors on take them as `*tensors`.
    ordered = [
        [p.name for p in of_one if p.kind is p.POSITIONAL_OR_KEYWORD]
        for of_one in parameters
        if all(p.kind is not p.VAR_POSITIONAL for p in of_one)
    ]
    assert all(names == ordered[0] for names in ordered), ordered


@pytest.mark.parametrize("op", ALL_OPS)
def test_the_shapes_of_an_op_are_inferred_from_the_same_arguments(op):
    def arguments(function):
        parameters = inspect.signature(function).parameters.values()
        return [(p.name, p.kind, p.default) for p in parameters]

    _, output_spec = symbolic._OPS[op]
    assert arguments(output_spec) == arguments(getattr(keras_ssm.ops, op))


def test_what_would_run_is_shown(capsys):
    text = keras_ssm.show_implementations()
    assert capsys.readouterr().out == text + "\n"
    assert text.startswith(f"keras backend: {BACKEND}\n")
    for op in ALL_OPS:
        after = text.split(f"\n{op} on ")[1].splitlines()
        assert after[1].endswith(": runs"), after


def test_a_missing_package_is_shown(monkeypatch):
    first = implementations("selective_scan")[0]
    monkeypatch.setitem(dispatch.PACKAGES, first, "no_such_package")
    text = keras_ssm.show_implementations()
    assert f"  {first}: the `no_such_package` package is not inst" in text


IMPORTS = """
import sys
import keras
before = set(sys.modules)
import keras_ssm
x = keras.ops.ones((1, 2, 3))
keras_ssm.ops.selective_scan(x, x, -x[0, :1, :1] * keras.ops.ones((3, 1)),
                             x[..., :1], x[..., :1])
print(*(set(sys.modules) - before))
"""


def test_no_framework_is_imported_that_the_user_did_not_choose():
    out = subprocess.run(
        [sys.executable, "-c", IMPORTS],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    imported = {name.split(".")[0] for name in out.split()}
    assert "keras_ssm" in imported
    others = {"jax", "matplotlib", "tensorflow", "torch"} - {BACKEND}
    if BACKEND != "torch" or platforms.here(BACKEND) == "cpu":
        others.add("triton")
    assert not imported & others
