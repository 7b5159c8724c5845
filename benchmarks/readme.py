"""Writes what README quotes: the support matrix and the measured figures.

    python benchmarks/readme.py          # writes
    python benchmarks/readme.py --check  # fails if README says something else

The matrix comes from the dispatch table, the figures from `results/`.
"""

import argparse
import json
import pathlib
import re

import generation
import language_runs
import recall_runs
import report
import signal_runs
import text_classification

from keras_ssm.ops.dispatch import PREFERENCES

HERE = pathlib.Path(__file__).parent
README = HERE.parent / "README.md"
BACKENDS = {
    "torch": "PyTorch",
    "jax": "JAX",
    "tensorflow": "TensorFlow",
    "numpy": "NumPy",
}

PLATFORMS = {
    "cpu": "CPU",
    "cpu graph": "CPU, graph without gradients",
    "gpu": "GPU",
    "tpu": "TPU",
}

PICTURES = {
    "lengths": "Time and peak memory against length",
    "peers": "Ours, peers and limits",
    "forms": "A linear system as a convolution, in chunks and as a scan",
}

# What is known of each row: *run* on such a device, *interpreted or lowered*
# without one, or only *claimed*.
EVIDENCE = {
    ("torch", "cpu"): "run",
    ("torch", "gpu"): "run (H100); interpreted and compiled in CI",
    ("jax", "cpu"): "run",
    ("jax", "gpu"): "run in part (H100); interpreted and lowered in CI",
    ("jax", "tpu"): "interpreted and lowered",
    ("tensorflow", "cpu"): "run",
    ("tensorflow", "cpu graph"): "run",
    ("tensorflow", "gpu"): "claimed",
    ("numpy", "cpu"): "run",
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    before = README.read_text()
    after = render(before)
    if options.check:
        raise SystemExit("README.md is out of date" if before != after else 0)
    README.write_text(after)


def render(text):
    """README with its generated sections written anew."""
    for name, make in {"matrix": matrix, "figures": figures}.items():
        text = re.sub(
            rf"(<!-- {name}: [^\n]*-->\n).*?(<!-- end -->)",
            lambda match, make=make: match[1] + make() + match[2],
            text,
            flags=re.DOTALL,
        )
    return text


def matrix():
    """Backend and device × op → implementations, the default in bold.

    Ops that run the same way everywhere share a column.
    """
    ops = list(dict.fromkeys(op for op, _ in PREFERENCES))
    rows = [(b, p) for b in BACKENDS for p in PREFERENCES[ops[0], b]]
    columns = {}
    for op in ops:
        cells = tuple(_cell(PREFERENCES[op, b][p]) for b, p in rows)
        columns.setdefault(cells, []).append(f"`{op}`")
    lines = [
        report.row("", *map(", ".join, columns.values()), "tested how"),
        report.row(*["---"] * (len(columns) + 2)),
    ]
    for (backend, platform), *cells in zip(rows, *columns, strict=True):
        title = f"{BACKENDS[backend]}, {PLATFORMS[platform]}"
        tested = EVIDENCE[backend, platform]
        lines.append(report.row(title, *cells, tested))
    return "\n".join(lines) + "\n"


def _cell(names):
    first, *others = names
    return ", ".join([f"**{first}**", *others])


def figures():
    """The tables of the benchmarks that have been run."""
    parts = [
        _speed(),
        _generation(),
        _accuracy(),
        _signals(),
        _recall(),
        _language(),
    ]
    return "\n".join(part for part in parts if part)


def _speed():
    """What `bench.py` has measured, on each machine that left a record."""
    records = (HERE / "results").glob("bench*.json")
    return "\n".join(_speed_of(path) for path in sorted(records))


def _speed_of(path):
    record = json.loads(path.read_text())
    machine = record["machine"]
    devices = ", ".join(dict.fromkeys(record["devices"].values()))
    if devices == "cpu":
        devices = f"{machine['cores']} cores of {machine['processor']}"
    parts = [
        f"Speed on {devices}, {record['settings']['dtype']} "
        f"(`make bench`, {path.name}; the load of the machine was "
        f"{record['load_before']} before and {record['load_after']} after "
        "it, the run itself counted). Times are the fastest of "
        "their samples. [benchmarks/README.md](benchmarks/README.md) says how "
        "to read and repeat them.",
    ]
    parts += [
        f"![{text}](benchmarks/results/{picture.name})"
        for name, text in PICTURES.items()
        if (picture := path.with_name(f"{path.stem}_{name}.png")).exists()
    ]
    parts += [report.forms_table(record), _dual(record)]
    parts.append(report.targets_table(record, measured_only=True))
    return "\n\n".join(part for part in parts if part) + "\n"


def _dual(record):
    table = report.dual_table(record)
    return table and (
        "`ssd` beside a `selective_scan` of the same function, 12 heads of 64 "
        "channels, length 1024, batch 2, by the size n of the state: above 1 "
        f"`ssd` is faster.\n\n{table}"
    )


def _accuracy():
    parts = []
    for path in sorted((HERE / "results").glob("text_classification*.json")):
        report = json.loads(path.read_text())
        setting = report["setting"]
        parts.append(
            f"Text classification on {setting['backend']}: 25,000 IMDB reviews "
            "to learn from and as many to score on, "
            f"{setting['seconds']:.0f} seconds of training for every neural "
            "model, mean and standard deviation over seeds "
            f"(`benchmarks/text_classification.py`, {path.name}):\n\n"
            + text_classification.markdown(report["summary"])
            + "\n"
        )
    return "\n".join(parts)


def _signals():
    record = json.loads(signal_runs.RECORD.read_text())
    return (
        "Signals (`examples/sequential_pixels.py`, `examples/raw_audio.py`, "
        "`benchmarks/signal_runs.py`, signals.json):\n\n"
        "![Learning curves](benchmarks/results/signals.png)\n\n"
        + signal_runs.table(record)
        + "\n"
    )


def _recall():
    record = json.loads(recall_runs.RECORD.read_text())
    return (
        "Recall (`examples/recall.py`, `benchmarks/recall_runs.py`, "
        "recall.json): two blocks of Mamba, Mamba and attention, or two of "
        "attention, the best of the learning rates and seeds that were tried; "
        "trained for one to five minutes each on an H100 or H200 that others "
        "shared, where nobody went on until all had learned.\n\n"
        "![What two blocks recall](benchmarks/results/recall.png)\n\n"
        + recall_runs.tables(record)
        + "\n"
    )


def _language():
    record = json.loads(language_runs.RECORD.read_text())
    return (
        "Language models of bytes (`examples/language_model.py`, "
        "`benchmarks/language_runs.py`, language.json): tiny Shakespeare, of "
        "which the last tenth is held back, in equal time with nearly equal "
        "parameters, mean and standard deviation over seeds:\n\n"
        + language_runs.table(record)
        + "\n"
    )


def _generation():
    if not generation.RECORD.exists():
        return ""
    record = json.loads(generation.RECORD.read_text())
    processor = record["machine"]["processor"]
    return (
        "Generation (`benchmarks/generation.py`, generation.json): tokens a "
        "second, greedy, of models of bytes with 8 blocks of Mamba, with 7 "
        "and 2 of attention, and of a Transformer with 6, all of width 256, "
        f"on {record['cores']} of the cores of an {processor}, with a load of "
        f"{record['load']}, and what the state of a row takes.\n\n"
        "![Tokens a second and the state against the context]"
        "(benchmarks/results/generation.png)\n\n"
        + generation.table(record)
        + "\n"
    )


if __name__ == "__main__":
    main()
