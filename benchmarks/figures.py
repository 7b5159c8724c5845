"""What was measured, as pages quote it: sentences, pictures and tables.

Each function is a section of docs/measurements.md, from a file of `results/`.
"""

import json
import pathlib

import document_runs
import generation
import language_runs
import recall_runs
import report
import signal_runs
import text_classification

HERE = pathlib.Path(__file__).parent
# From docs/, where the sections are.
RESULTS = "../benchmarks/results"

PICTURES = {
    "lengths": "Time and peak memory against length",
    "peers": "Ours, peers and limits",
    "forms": "A linear system as a convolution, in chunks and as a scan",
}


def speed():
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
        "their samples.",
    ]
    parts += [
        f"![{text}]({RESULTS}/{picture.name})"
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


def accuracy():
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


def signals():
    record = json.loads(signal_runs.RECORD.read_text())
    return (
        "Signals (`examples/sequential_pixels.py`, `examples/raw_audio.py`, "
        "`benchmarks/signal_runs.py`, signals.json):\n\n"
        f"![Learning curves]({RESULTS}/signals.png)\n\n"
        + signal_runs.table(record)
        + "\n"
    )


def recall():
    record = json.loads(recall_runs.RECORD.read_text())
    return (
        "Recall (`examples/recall.py`, `benchmarks/recall_runs.py`, "
        "recall.json): two blocks of Mamba, Mamba and attention, or two of "
        "attention, the best of the learning rates and seeds that were tried; "
        "trained for one to five minutes each on an H100 or H200 that others "
        "shared, where nobody went on until all had learned.\n\n"
        f"![What two blocks recall]({RESULTS}/recall.png)\n\n"
        + recall_runs.tables(record)
        + "\n"
    )


def language():
    record = json.loads(language_runs.RECORD.read_text())
    return (
        "Language models of bytes (`examples/language_model.py`, "
        "`benchmarks/language_runs.py`, language.json): tiny Shakespeare, of "
        "which the last tenth is held back, in equal time with nearly equal "
        "parameters, mean and standard deviation over seeds:\n\n"
        + language_runs.table(record)
        + "\n"
    )


def generated():
    record = json.loads(generation.RECORD.read_text())
    processor = record["machine"]["processor"]
    return (
        "Generation (`benchmarks/generation.py`, generation.json): tokens a "
        "second, greedy, of models of bytes with 8 blocks of Mamba, with 7 "
        "and 2 of attention, and of a Transformer with 6, all of width 256, "
        f"on {record['cores']} of the cores of an {processor}, with a load of "
        f"{record['load']}, and what the state of a row takes.\n\n"
        "![Tokens a second and the state against the context]"
        f"({RESULTS}/generation.png)\n\n" + generation.table(record) + "\n"
    )


def documents():
    record = json.loads(document_runs.RECORD.read_text())
    return (
        "Long documents (`examples/text_classification.py`, "
        "`benchmarks/document_runs.py`, long_documents.json): 25,000 IMDB "
        "reviews to learn from and as many to score on. Of a longer one its "
        "first quarter of what is read at most, and its end.\n\n"
        f"![Accuracy against what is read]({RESULTS}/long_documents.png)\n\n"
        + document_runs.table(record)
        + "\n"
    )


def export():
    speed = json.loads((HERE / "results/serving.json").read_text())["speed"]
    batch, length = speed["batch"]
    lines = [report.row("what", "milliseconds"), report.row("---", "---:")]
    for name, microseconds in speed["times"].items():
        lines.append(report.row(name, f"{microseconds / 1000:.3f}"))
    return (
        "Exported models (`python benchmarks/serving.py --parts speed`, "
        "serving.json): a classifier of bytes with two Mamba blocks of width "
        f"64, a batch of {batch} rows of {length:,} bytes, or one byte of a "
        "stream; one thread of two cores, each time the fastest of all.\n\n"
        + "\n".join(lines)
        + "\n"
    )
