"""The benchmarks measure what they say, and refuse what is wrong."""

import json
import pathlib
import subprocess
import sys

import harness
import keras
import numpy as np
import plots
import pytest
import report
import targets
from candidates import BOTH, OURS, dual, layers, ops, plain_step, systems
from cases import MAMBA, Case
from compare import assert_close
from limits import c_scan
from problem import WINDOW, Problem
from processes import environment
from rows import Rows, crossover, growth
from settings import DUAL, LINEAR, MAIN, MAMBA2, OPS
from system import System

import keras_ssm
from keras_ssm.ops import reference

ROOT = pathlib.Path(__file__).parents[2]
SHORT = Case("short", b=3, l=20, d=6, n=3, **MAMBA)
LONG = Case("long", b=1, l=2 * WINDOW, d=2, n=2)
# More than a chunk.
SYSTEM = Case("system", l=70, d=3, n=4)


def solved(problem):
    """y and gradients of the default implementation."""
    op = getattr(keras_ssm.ops, problem.op)

    def function(arguments):
        return (op(**arguments, **problem.options),)

    run = harness.compiled(
        lambda arguments, dy: harness.gradients(function, arguments, (dy,))
    )
    (y,), gradients = run(problem.arguments, problem.sampled_dy())
    return y, gradients


def scaled(v):
    return keras.tree.map_structure(lambda part: part * 1.001, v)


@pytest.mark.parametrize("op", (*OPS, "linear_scan"))
@pytest.mark.parametrize("case", (SHORT, LONG), ids=lambda case: case.name)
def test_a_problem_accepts_the_right_answer_alone(op, case):
    problem = Problem(op, case)
    y, gradients = solved(problem)
    assert problem.error(y, gradients) < 1e-5
    refuses_what_is_wrong(problem, y, gradients)


def test_a_problem_of_heads_accepts_the_right_answer_alone(monkeypatch):
    # Two heads of one row are compared.
    monkeypatch.setattr("problem.HELD", SHORT.l * SHORT.n * SHORT.p)
    problem = Problem("ssd", SHORT, bare=True)
    y, gradients = solved(problem)
    assert problem.error(y, gradients) < 1e-5
    refuses_what_is_wrong(problem, y, gradients)


def test_a_selective_scan_computes_what_ssd_does():
    made = dual.make("ssd", SHORT, "float32")
    (key,) = (
        key
        for key in made
        if key[0] == BOTH and key[1].startswith("selective_scan")
    )
    assert made[key]().error < 1e-5


def refuses_what_is_wrong(problem, y, gradients):
    with pytest.raises(ArithmeticError, match="^y: relative error"):
        problem.error(scaled(y), gradients)
    for name, gradient in gradients.items():
        wrong = {**gradients, name: scaled(gradient)}
        error = rf"^(constant_)?{name}: relative error"
        with pytest.raises(ArithmeticError, match=error):
            problem.error(y, wrong)


@pytest.mark.parametrize("form", ("convolve", "recur", "scan"))
def test_the_forms_of_a_linear_system_are_equal(form):
    problem = System(SYSTEM)
    function = getattr(systems, form)
    run = harness.compiled_quickly(
        lambda arguments, dy: harness.gradients(
            lambda arguments: (function(**arguments),), arguments, (dy,)
        )
    )
    (y,), gradients = run(problem.arguments, problem.sampled_dy())
    assert problem.error(y, gradients) < 1e-4
    refuses_what_is_wrong(problem, y, gradients)


def test_a_scan_of_too_large_a_system_is_left_out(monkeypatch):
    monkeypatch.setattr(systems, "MOST", 1000)
    scan = systems.make("system", SYSTEM, "float32")["forward", f"{OURS} scan"]
    with pytest.raises(NotImplementedError, match="it holds"):
        scan()


def test_what_others_write_is_a_linear_scan():
    made = ops.make("linear_scan", SHORT, "float32")
    others = [key for key in made if not key[1].startswith(OURS)]
    assert {what for what, _ in others} == {"forward", "forward+backward"}
    for key in others:
        if key[0] == "forward+backward":
            assert made[key]().error < 1e-5


def test_nan_is_refused():
    problem = Problem("selective_scan", SHORT)
    y, _ = solved(problem)
    with pytest.raises(ArithmeticError, match="not finite"):
        problem.error(y * float("nan"))


@pytest.mark.skipif(c_scan.unavailable() is not None, reason="no compiler")
def test_the_c_limit_is_the_recurrence():
    random = np.random.default_rng(0)
    x, dt, B, C = (
        random.normal(size=(2, 9, size)).astype("float32")
        for size in (32, 32, 5, 5)
    )
    # So far below that the exponential is 0, too.
    dt = np.exp(3 * dt)
    A = -np.exp(random.normal(size=(32, 5))).astype("float32")
    y = c_scan.prepare(x, dt, A, B, C)()
    exact = (v.astype("float64") for v in (x, dt, A, B, C))
    expected, _ = reference.selective_scan(*exact)
    assert_close(y, expected, "float32")


def test_the_plain_step_is_the_step_of_the_layer():
    layer = keras_ssm.layers.Mamba(state_dim=5)
    layer.build((3, None, 8))
    random = np.random.default_rng(0)
    x = harness.tensor(random.normal(size=(3, 8)))
    state = tuple(
        harness.tensor(random.normal(size=v.shape))
        for v in layer.get_initial_state(3)
    )
    y, after = layer.step(x, state)
    weights = plain_step.mamba_weights(layer)
    plain, plain_after = plain_step.mamba_step(weights, x, state)
    assert_close(plain, keras.ops.convert_to_numpy(y), "float32")
    for a, b in zip(plain_after, after, strict=True):
        assert_close(a, keras.ops.convert_to_numpy(b), "float32")


def test_attention_is_causal():
    attention = layers.Attention()
    x = np.random.default_rng(0).normal(size=(1, 7, 8)).astype("float32")
    attention.build(x.shape)
    before = keras.ops.convert_to_numpy(attention(x))
    x[:, 5:] += 1
    after = keras.ops.convert_to_numpy(attention(x))
    assert_close(after[:, :5], before[:, :5], "float32")
    assert np.abs(after[:, 5:] - before[:, 5:]).max() > 1e-3


def test_memory_is_that_of_what_a_call_adds():
    code = """
import frameworks, keras, measure
x = keras.ops.ones((1024, 1024))
run = frameworks.load().compiled(lambda: (keras.ops.ones((2**24,)) + x[0, 0],))
frameworks.load().wait(run())
print(measure.peak_memory(run))
"""
    found = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        cwd=ROOT / "benchmarks",
        env=environment(keras.config.backend(), TF_ENABLE_ONEDNN_OPTS="0"),
        capture_output=True,
        text=True,
        check=True,
    )
    peak = int(found.stdout.splitlines()[-1]) / 2**26  # of the output
    assert 0.9 < peak < 2.5


def row(backend, name, milliseconds, **values):
    return dict(
        dict(part="layer", case=MAIN, what="forward+backward"),
        backend=backend,
        name=name,
        min_ms=milliseconds,
        **values,
    )


RECORD = {
    "devices": {"torch": "cpu"},
    "rows": [
        row("torch", "keras_ssm numba", 10.0),
        row("torch", "keras_ssm torch", 30.0),
        row("torch", "matrix products", 8.0),
        row("torch", "mambapy", 60.0),
        *(
            row("torch", name, cost(length), length=length, peak_mb=length / 64)
            | dict(part="length")
            for name, cost in {
                "keras_ssm numba": lambda length: length / 100,
                "attention": lambda length: length**2 / 100 / 8192,
            }.items()
            for length in (4096, 16384, 65536)
        ),
    ],
}


def test_targets_are_reached_or_not_or_not_measured():
    reached = {t.what: t.reached for t in targets.targets(RECORD)}
    assert reached["PyTorch Mamba / its matrix products"] is True
    assert reached["PyTorch mambapy / Mamba"] is False
    assert reached["JAX scan, numba / C"] is None
    table = report.targets_table(RECORD)
    assert "| PyTorch mambapy / Mamba | 6.00 | ≥ 7 | no |" in table


def test_the_forms_of_a_system_and_linear_scans_are_ranked():
    def found(name, milliseconds, **values):
        return row("torch", name, milliseconds) | values

    system = {"part": "system", "case": "any"}
    scans = {"part": "linear_scan", "case": LINEAR["real"]}
    record = {
        "devices": {"torch": "cpu"},
        "rows": [
            *(
                found(f"keras_ssm {name}", 1.0 * time, **system)
                | {"length": length, "peak_mb": memory}
                for name, length, time, memory in (
                    *(("convolution", 4096, 2, 8), ("chunks", 4096, 3, 4)),
                    *(("convolution", 8192, 9, 16), ("chunks", 8192, 6, 12)),
                )
            ),
            found("keras_ssm numba", 2.0, **scans),
            found("torch loop", 6.0, **scans),
            found("keras.ops.associative_scan", 9.0, **scans),
        ],
    }
    table = report.forms_table(record)
    assert "convolution 2 ms, chunks x1.5 | chunks 6 ms, convolution x1.5" in (
        table
    )
    figures = {t.what: t.figure for t in targets.targets(record)}
    title = "torch, real linear scan, torch loop / ours"
    assert figures[title] == pytest.approx(3)
    title = "torch, power of the length that the memory of S4D's system "
    title += "grows with, at most (chunks)"
    assert figures[title] == pytest.approx(np.log2(3))
    assert plots.forms(Rows(record)) is not None


def test_ssd_is_held_against_a_scan_and_its_products():
    def found(name, milliseconds, **values):
        return row("torch", name, milliseconds) | dict(part="ssd") | values

    record = {
        "devices": {"torch": "cpu"},
        "rows": [
            *(
                found(name, milliseconds, case=DUAL[n])
                for n, name, milliseconds in (
                    *((16, "keras_ssm torch", 8.0), (128, OURS, 20.0)),
                    *((16, "selective_scan numba", 4.0),),
                    *((128, "selective_scan numba", 30.0),),
                )
            ),
            *(
                found(name, milliseconds, case=MAMBA2, part="mamba2")
                for name, milliseconds in (
                    *((OURS, 30.0), ("matrix products", 20.0)),
                    *(("transformers Mamba2", 75.0),),
                )
            ),
        ],
    }
    table = report.dual_table(record)
    line = "| 0.50 (4 / 8 ms) |  |  | 1.50 (30 / 20 ms) |  |"
    assert f"torch, forward+backward {line}" in table
    figures = {t.what: t.figure for t in targets.targets(record)}
    title = "torch, Mamba-2 layer / its matrix products"
    assert figures[title] == pytest.approx(1.5)
    title = "PyTorch transformers' Mamba-2 mixer / Mamba-2 layer"
    assert figures[title] == pytest.approx(2.5)
    assert figures["torch, `ssd` forward / its matrix products"] is None


def test_growth_and_crossover_are_read_off_the_lengths():
    rows = Rows(RECORD)
    attention = rows.where(part="length", name="attention")
    assert growth(attention, "min_ms") == pytest.approx(2)
    assert growth(attention, "peak_mb") == pytest.approx(1)
    assert crossover(rows, "torch") == pytest.approx(8192)


@pytest.mark.slow
def test_all_of_it_runs(tmp_path):
    path = tmp_path / "bench.json"
    subprocess.run(
        [
            *(sys.executable, ROOT / "benchmarks" / "bench.py"),
            *("--setting", "tiny", "--output", path),
            *("--backends", keras.config.backend()),
        ],
        check=True,
    )
    record = json.loads(path.read_text())
    refused = [row for row in record["rows"] if "refused" in row]
    assert not [row for row in refused if row["name"] != "C limit"]
    parts = {row["part"] for row in record["rows"] if "min_ms" in row}
    wanted = {"recurrence", "layer", "step", "length"}
    wanted |= {"linear_scan", "system", "ssd", "mamba2"}
    assert wanted <= parts
