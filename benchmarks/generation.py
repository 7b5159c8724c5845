"""Tokens a second of generation against the length of the context.

    python benchmarks/generation.py

A process for each backend takes steps with Mamba, a hybrid and a Transformer
of nearly as many parameters. Before each time a state has read all of the
context but the tokens that are timed; of one row, which all rows of a batch
then go on from. It writes `results/generation.json` and `.png`.
"""

import argparse
import functools
import json
import pathlib
import subprocess
import sys
import time

import keras
import machine
import numpy as np
import processes
import report
from keras import ops
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator

from keras_ssm import models
from keras_ssm.models.generation import with_weights
from keras_ssm.ops.dispatch import compiled, traced

RECORD = pathlib.Path(__file__).parent / "results" / "generation.json"
BACKENDS = {"torch": "PyTorch", "jax": "JAX", "tensorflow": "TensorFlow"}
VOCABULARY, WIDTH = 256, 256
HEADS = {"attention": {"heads": 8, "kv_heads": 2}}
POSITIONS = {"rotary_base": 1e4}
MODELS = {
    "Mamba": dict(pattern=["mamba"] * 8),
    "hybrid": dict(
        pattern=(["mamba"] * 3 + ["attention"]) * 2 + ["mamba"], mixers=HEADS
    ),
    "Transformer": dict(
        pattern=["attention"] * 6,
        mixers={"attention": HEADS["attention"] | POSITIONS},
        feed_forward={"units": 512},
    ),
}
STYLES = {
    "Mamba": dict(color="#0b6e4f", marker="o", linewidth=2.4),
    "hybrid": dict(color="#b5541c", marker="s"),
    "Transformer": dict(color="#3b4cc0", marker="^"),
}
PART = 2048  # tokens that a state reads at once
TIMED = 8
SECONDS = 1.0  # that samples take together, at least


def main():
    options = parse()
    if options.worker:
        print(json.dumps(measure(options)))
        return
    rows = []
    for number, backend in enumerate(options.backends, 1):
        print(f"[{number}/{len(options.backends)}] {backend} ...", flush=True)
        rows += run_worker(backend, options)
    record = {
        **machine.describe(),
        "cores": machine.cores(),
        "load": machine.load(),
        "rows": rows,
    }
    options.output.write_text(json.dumps(record, indent=1) + "\n")
    figure = draw(record)
    figure.savefig(
        options.output.with_suffix(".png"), dpi=130, facecolor="white"
    )
    print(table(record))


def run_worker(backend, options):
    """The rows of one backend, from a process of its own."""
    command = [sys.executable, __file__, *sys.argv[1:], "--worker"]
    finished = subprocess.run(
        command,
        env=processes.environment(backend),
        stdout=subprocess.PIPE,
        text=True,
    )
    if finished.returncode:
        sys.exit(f"The process of {backend} failed: see above.")
    return json.loads(finished.stdout.splitlines()[-1])


def measure(options) -> list[dict]:
    """Times the backend of this process."""
    rows = []
    for name in MODELS:
        model = build(name)
        for context in options.contexts:
            state = read(model, context)
            for batch in options.batches:
                seconds = seconds_a_token(model, state, batch, options.samples)
                rows.append(
                    {
                        "backend": keras.config.backend(),
                        "model": name,
                        "parameters": model.count_params(),
                        "context": context,
                        "batch": batch,
                        "ms": 1e3 * seconds,
                        "tokens_a_second": batch / seconds,
                        "state_bytes": model.backbone.state_size_bytes(context),
                    }
                )
                print(rows[-1], file=sys.stderr, flush=True)
    return rows


def build(name):
    """A language model of bytes, not trained."""
    backbone = models.HybridBackbone(
        VOCABULARY, WIDTH, padding_id=None, seed=0, **MODELS[name]
    )
    return models.CausalLM(backbone)


def read(model, context):
    """The state of one row that has room for `TIMED` tokens more."""
    random = np.random.default_rng(0)
    tokens = random.integers(0, VOCABULARY, (1, context - TIMED), "int32")
    state = model.backbone.get_initial_state(1, context)

    def steps(state, tokens):
        return model.backbone.steps(tokens, state)[1]

    program = bind(model, with_weights(model, steps))
    for start in range(0, tokens.shape[1], PART):
        state = program(state, tokens[:, start : start + PART])
    return state


def seconds_a_token(model, state, batch, samples):
    """The fastest of some samples of greedy steps."""
    program = traced(with_weights(model, functools.partial(step, model)))
    program = bind(model, program)
    found = []
    # The first one compiles; of short ones there are more.
    while len(found) <= samples or TIMED * sum(found[1:]) < SECONDS:
        carry = {
            "state": keras.tree.map_structure(
                lambda x: ops.repeat(x, batch, axis=0), state
            ),
            "token": ops.zeros((batch,), "int32"),
        }
        start = time.perf_counter()
        for _ in range(TIMED):
            carry = program(carry)
        ops.convert_to_numpy(carry["token"])
        found.append((time.perf_counter() - start) / TIMED)
    return min(found[1:])


def step(model, carry):
    """The most likely token after another one."""
    y, state = model.backbone.step(carry["token"], carry["state"])
    token = ops.argmax(model.logits(y), axis=-1)
    return {"state": state, "token": ops.cast(token, "int32")}


def bind(model, function):
    """A compiled function with the weights that the model has now."""
    values = [variable.value for variable in model.variables]
    return functools.partial(compiled(function, model.jit_compile), values)


def table(record) -> str:
    """Tokens a second at the ends of the range, and the state's bytes."""
    contexts = sorted({row["context"] for row in record["rows"]})
    batches = sorted({row["batch"] for row in record["rows"]})
    ends = [(b, c) for b in batches for c in (contexts[0], contexts[-1])]
    lines = [
        report.row(
            *("backend", "model", "parameters"),
            *(f"batch {b}, context {c:,}" for b, c in ends),
            *(f"bytes at {c:,}" for c in (contexts[0], contexts[-1])),
        ),
        report.row("---", "---", *["---:"] * (len(ends) + 3)),
    ]
    for backend in dict.fromkeys(row["backend"] for row in record["rows"]):
        for model in MODELS:
            found = {
                (row["batch"], row["context"]): row
                for row in record["rows"]
                if (row["backend"], row["model"]) == (backend, model)
            }
            first, *_, last = (found[end] for end in ends)
            lines.append(
                report.row(
                    BACKENDS[backend],
                    model,
                    f"{first['parameters']:,}",
                    *(f"{found[e]['tokens_a_second']:,.0f}" for e in ends),
                    f"{first['state_bytes']:,}",
                    f"{last['state_bytes']:,}",
                )
            )
    return "\n".join(lines)


def draw(record) -> Figure:
    """A column for each backend and one for the state, a row for each batch."""
    rows = record["rows"]
    batches = sorted({row["batch"] for row in rows})
    backends = list(dict.fromkeys(row["backend"] for row in rows))
    columns = len(backends) + 1
    size = (3 * columns, 2.8 * len(batches))
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(len(batches), columns, sharex=True, squeeze=False)
    for batch, of_batch in zip(batches, axes, strict=True):
        found = [row for row in rows if row["batch"] == batch]
        for axis, backend in zip(of_batch, backends, strict=False):
            of_backend = [r for r in found if r["backend"] == backend]
            draw_lines(axis, of_backend, lambda r: r["tokens_a_second"])
            axis.set_title(f"{BACKENDS[backend]}, batch {batch}")
            axis.set_ylim(bottom=0)
        # All backends have the same state.
        of_one = [r for r in found if r["backend"] == backends[0]]
        draw_lines(
            of_batch[-1], of_one, lambda r: r["batch"] * r["state_bytes"] / 1e6
        )
        of_batch[-1].set(title=f"state in MB, batch {batch}", yscale="log")
        of_batch[0].set_ylabel("tokens a second")
    for axis in axes[-1]:
        axis.set_xlabel("context")
    axes[0, 0].legend(frameon=False, fontsize=9)
    return figure


def draw_lines(axis, rows, value):
    for model, style in STYLES.items():
        of_model = [row for row in rows if row["model"] == model]
        contexts = [row["context"] for row in of_model]
        axis.plot(contexts, list(map(value, of_model)), label=model, **style)
    axis.set_xscale("log", base=2)
    axis.set_xticks(contexts)
    axis.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,.0f}"))
    axis.xaxis.set_minor_locator(NullLocator())
    axis.grid(color="#e3e6ea")
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)


def parse():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--backends", nargs="+", choices=BACKENDS, default=list(BACKENDS))
    add("--contexts", nargs="+", type=int, default=[256, 1024, 4096, 16384])
    add("--batches", nargs="+", type=int, default=[1, 32])
    add("--samples", type=int, default=3, help="at least; the fastest counts")
    add("--output", type=pathlib.Path, default=RECORD)
    add("--worker", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if min(options.contexts) <= TIMED:
        parser.error(f"--contexts must be more than {TIMED}.")
    return options


if __name__ == "__main__":
    main()
