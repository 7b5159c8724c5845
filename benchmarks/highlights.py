"""The few figures that README has room for."""

import json
import statistics

import document_runs
import generation
import recall_runs
import report
import signal_runs
from figures import HERE
from targets import targets

MEASUREMENTS = "docs/measurements.md"
BACKENDS = {"torch": "PyTorch", "jax": "JAX", "tensorflow": "TensorFlow"}


def table():
    """A line for each area: what is known, and where it is written."""
    areas = (
        *(training, lengths, writing, reviews, documents, pixels),
        *(recalled, served),
    )
    lines = [report.row("what", "measured"), report.row("---", "---")]
    for area in areas:
        title, anchor, text = area()
        link = f"[{title}]({MEASUREMENTS}#{anchor})"
        lines.append(report.row(link, text))
    return "\n".join(lines) + "\n"


def training():
    figures = _targets()
    lstm = [
        f"{figures[f'{name}, keras LSTM of as many units / Mamba']:.0f} on "
        f"{BACKENDS[name]}"
        for name in BACKENDS
    ]
    names = ("mambapy", "torch.nn.TransformerEncoderLayer", "torch.nn.LSTM")
    peers = [
        f"`{name}` {figures[f'PyTorch {name} / Mamba']:.1f}" for name in names
    ]
    return (
        "Training a layer, two CPU cores",
        "speed",
        "times as long as our Mamba take: Keras' LSTM of as many units "
        f"{', '.join(lstm)}; on PyTorch, {', '.join(peers)}",
    )


def lengths():
    figures = _targets()

    def powers(what):
        grows = f"power of the length that the {what} of Mamba grows with"
        found = [figures[f"{name}, {grows}"] for name in BACKENDS]
        return f"{min(found):.2f} to {max(found):.2f}"

    return (
        "Long sequences",
        "speed",
        f"time grows with the length to the power of {powers('time')}, "
        f"memory of {powers('memory')}",
    )


def writing():
    rows = json.loads(generation.RECORD.read_text())["rows"]
    context = max(row["context"] for row in rows)

    def of(model):
        """The fastest backend's."""
        found = [
            row
            for row in rows
            if (row["model"], row["context"], row["batch"])
            == (model, context, 1)
        ]
        return max(found, key=lambda row: row["tokens_a_second"])

    mamba, other = of("Mamba"), of("Transformer")
    return (
        f"Generation behind {context:,} bytes",
        "generation",
        f"{mamba['tokens_a_second']:,.0f} tokens a second on one CPU core, "
        f"{BACKENDS[mamba['backend']]}; a Transformer of as many parameters "
        f"{other['tokens_a_second']:,.0f}. The state takes "
        f"{mamba['state_bytes'] / 2**20:.1f} MiB against "
        f"{other['state_bytes'] / 2**20:.0f}",
    )


def reviews():
    found = json.loads((HERE / "results/text_classification.json").read_text())
    seconds = found["setting"]["seconds"]
    scores = [
        f"{row['model']} {row['mean']:.1%}"
        for row in sorted(found["summary"], key=lambda row: -row["mean"])
    ]
    return (
        "IMDB reviews",
        "text-classification",
        f"right after {seconds:.0f} seconds of training on two CPU cores: "
        + ", ".join(scores),
    )


def documents():
    best = {}
    for run in json.loads(document_runs.RECORD.read_text())["runs"]:
        if (run["model"], run["vocabulary"]) == ("mamba", "byte"):
            before = best.get(run["length"], run)
            best[run["length"]] = max(before, run, key=_accuracy)
    scores = [
        f"{length:,} bytes {run['test_accuracy']:.1%} ({run['seconds']} s)"
        for length, run in sorted(best.items())
    ]
    return (
        "IMDB reviews, byte by byte",
        "long-documents",
        "right by the best run on an H200, by what is read: "
        + ", ".join(scores),
    )


def _accuracy(run):
    return run["test_accuracy"]


def pixels():
    record = json.loads(signal_runs.RECORD.read_text())
    runs = [
        run for run in record["runs"] if run["example"] == "sequential_pixels"
    ]
    scores = [
        f"{run['layer']} {run['test_accuracy']:.1%}"
        for run in sorted(runs, key=lambda run: -run["test_accuracy"])
    ]
    minutes = statistics.median(run["seconds"] for run in runs) / 60
    return (
        "MNIST, pixel by pixel",
        "signals",
        f"right after {minutes:.0f} minutes on one CPU core: "
        + ", ".join(scores),
    )


def recalled():
    runs = [
        run
        for run in recall_runs.best(json.loads(recall_runs.RECORD.read_text()))
        if run["task"] == "association"
    ]
    pairs = max(run["pairs"] for run in runs)
    width = min(run["width"] for run in runs)
    scores = [
        f"{run['model']} {run['accuracy']:.1%}"
        for run in sorted(runs, key=lambda run: -run["accuracy"])
        if (run["pairs"], run["width"]) == (pairs, width)
    ]
    return (
        f"Recalling {pairs} associations",
        "recall",
        f"by two blocks of width {width}: " + ", ".join(scores),
    )


def served():
    speed = json.loads((HERE / "results/serving.json").read_text())["speed"]
    times = speed["times"]
    live = min(v for name, v in times.items() if name.startswith("live"))
    return (
        "A token of an exported stream",
        "export",
        f"{times['served step, litert'] / 1000:.3f} ms by LiteRT, "
        f"{times['served step, onnx'] / 1000:.3f} by onnxruntime, "
        f"{times['served step, compiled'] / 1000:.2f} by a SavedModel; the "
        f"fastest live step takes {live / 1000:.3f}",
    )


def _targets():
    record = json.loads((HERE / "results/bench.json").read_text())
    return {target.what: target.figure for target in targets(record)}
