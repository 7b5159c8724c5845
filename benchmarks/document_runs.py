"""Collects what `examples/text_classification.py` gets right of long texts.

    python benchmarks/document_runs.py FOLDER ... --machine "one H200, alone"

Each folder is the `--output` of one run, with tests that have labels. The runs
are added to `results/long_documents.json`, in which a run takes the place of
an earlier one of the same model, vocabulary, length, seed and machine;
`results/long_documents.png` shows accuracy against what is read of a text.
"""

import json
import pathlib
import shlex
import statistics

import report
from collected import collect
from matplotlib.figure import Figure

HERE = pathlib.Path(__file__).resolve().parent
RECORD = HERE / "results" / "long_documents.json"
KEYS = ("model", "vocabulary", "length", "seed", "machine")
PRIVATE = ("train", "test", "output", "verbose", "submission")
COLOURS = {"mamba": "#0b6e4f", "lstm": "#9aa5b1", "transformer": "#3b4cc0"}


def main():
    record = collect(__doc__, RECORD, read, _key)
    figure = curves(record["runs"])
    figure.savefig(RECORD.with_suffix(".png"), dpi=130, facecolor="white")
    print(table(record))


def read(folder) -> list[dict]:
    """The run, without the places of the machine that it ran on."""
    found = json.loads((folder / "results.json").read_text())
    options = found["options"]
    run = {
        "model": found["model"],
        "vocabulary": options["vocabulary"],
        "length": options["max_length"],
        "seed": options["seed"],
        "backend": found["backend"],
        "parameters": found["parameters"],
        "seconds": round(found["seconds"]),
        "steps": found["steps"],
        "validation_accuracy": found["validation_accuracy"],
        "test_accuracy": found["test_accuracy"],
        "command": command(options),
    }
    return [run]


def command(options) -> str:
    """What repeats the run, with data of one's own."""
    words = ["python", "examples/text_classification.py"]
    words += ["--train", "train.csv.gz", "--test", "test.csv.gz"]
    for name, value in options.items():
        if name in PRIVATE or value is None or value is False:
            continue
        words.append(f"--{name.replace('_', '-')}")
        words += [] if value is True else [str(value)]
    return shlex.join(words)


def _key(run):
    return tuple(run[key] for key in KEYS)


def table(record) -> str:
    """A line for each model and length, with the mean over seeds."""
    lines = [
        report.row(
            *("model", "reads, at most", "test accuracy", "seeds", "steps"),
            *("seconds", "parameters", "on"),
        ),
        report.row("---", *["---:"] * 6, "---"),
    ]
    for (model, vocabulary, length, machine), runs in _groups(record["runs"]):
        parameters = sum(runs[0]["parameters"].values())
        lines.append(
            report.row(
                model,
                f"{length:,} {vocabulary}s",
                " and ".join(f"{run['test_accuracy']:.2%}" for run in runs),
                str(len(runs)),
                f"{_mean(runs, 'steps'):,.0f}",
                f"{_mean(runs, 'seconds'):,.0f}",
                f"{parameters:,}",
                f"{runs[0]['backend']}, {machine}",
            )
        )
    return "\n".join(lines)


def _groups(runs):
    """Runs that differ in their seeds alone, shorter texts first."""
    groups = {}
    for run in runs:
        names = ("model", "vocabulary", "length", "machine")
        groups.setdefault(tuple(run[n] for n in names), []).append(run)
    return sorted(groups.items())


def _mean(runs, name):
    return statistics.fmean(run[name] for run in runs)


def curves(runs) -> Figure:
    """Accuracy on the tests against the bytes that are read of each."""
    figure = Figure(figsize=(6.4, 4), layout="constrained")
    axis = figure.subplots()
    lines = {}
    for (model, vocabulary, length, machine), same in _groups(runs):
        if vocabulary == "byte":
            line = lines.setdefault((model, machine), [])
            line.append((length, 100 * _mean(same, "test_accuracy")))
    for (model, machine), points in lines.items():
        colour = COLOURS.get(model, "#7a3e9d")
        mark = "o-" if len(points) > 1 else "D"
        label = f"{model}, {machine}"
        axis.plot(*zip(*points, strict=True), mark, color=colour, label=label)
    axis.set(xlabel="bytes of a review that are read, at most")
    axis.set(ylabel="right of 25,000 tests, %")
    axis.set_xscale("log", base=4)
    lengths = sorted(
        {length for points in lines.values() for length, _ in points}
    )
    axis.set_xticks(lengths, [f"{length:,}" for length in lengths])
    axis.minorticks_off()
    axis.grid(color="#e3e6ea")
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)
    if lines:
        axis.legend(frameon=False, fontsize=9)
    return figure


if __name__ == "__main__":
    main()
