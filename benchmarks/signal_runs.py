"""Collects what the examples on signals have learned, and draws it.

    python benchmarks/signal_runs.py FOLDER ... --machine "one core of two"

Each folder is the `--output` of one run of `sequential_pixels.py` or
`raw_audio.py`; that of `--held-out-speaker all` counts as one. The runs are
added to `results/signals.json`, in which a run takes the place of an earlier
one of the same example, layer and question; `results/signals.png` has the
learning curves.
"""

import json
import pathlib
import statistics

import report
from collected import collect
from matplotlib.figure import Figure

HERE = pathlib.Path(__file__).resolve().parent
RECORD = HERE / "results" / "signals.json"
EXAMPLES = {
    "sequential_pixels": "MNIST, one pixel at a time",
    "raw_audio": "Spoken digits, raw samples",
}
KEYS = ("example", "layer", "split")
COLOURS = ("#0b6e4f", "#3b4cc0", "#b5541c", "#9aa5b1", "#d9b44a", "#7a3e9d")


def main():
    record = collect(__doc__, RECORD, read, _key)
    figure = curves(record["runs"])
    figure.savefig(RECORD.with_suffix(".png"), dpi=130, facecolor="white")
    print(table(record))


def read(folder) -> list[dict]:
    """The run, without the places of the machine that it ran on."""
    paths = [folder / "results.json", *sorted(folder.glob("*/results.json"))]
    found = [json.loads(path.read_text()) for path in paths if path.exists()]
    first = found[0]
    example = "raw_audio" if "split" in first else "sequential_pixels"
    split = first.get("split", "official")
    private = ("data", "output", "verbose", "layer")
    run = {
        "example": example,
        "layer": first["layer"],
        "split": "each speaker in turn" if len(found) > 1 else split,
        "backend": first["backend"],
        "parameters": first["parameters"],
        "seconds": round(statistics.fmean(r["seconds"] for r in found)),
        "history": first["history"],
        "options": {
            name: value
            for name, value in first["options"].items()
            if name not in private
        },
    }
    for name in ("test_accuracy", "half_rate_accuracy"):
        if name in first:
            run[name] = statistics.fmean(r[name] for r in found)
    if len(found) > 1:
        run["speakers"] = {r["split"]: r["test_accuracy"] for r in found}
    return [run]


def _key(run):
    return tuple(run[key] for key in KEYS)


def table(record) -> str:
    """The runs, the most accurate of a question first."""
    lines = [
        report.row(
            *("data", "tested on", "layer", "accuracy", "at half the rate"),
            *("parameters", "seconds", "epochs", "on"),
        ),
        report.row("---", "---", "---", *["---:"] * 5, "---"),
    ]
    for run in sorted(record["runs"], key=_rank):
        half = run.get("half_rate_accuracy")
        lines.append(
            report.row(
                EXAMPLES[run["example"]],
                run["split"],
                run["layer"],
                f"{run['test_accuracy']:.2%}",
                "" if half is None else f"{half:.2%}",
                f"{run['parameters']:,}",
                f"{run['seconds']:,}",
                str(len(run["history"]["val_accuracy"])),
                f"{run['backend']}, {run['machine']}",
            )
        )
    return "\n".join(lines)


def _rank(run):
    place = list(EXAMPLES).index(run["example"]), run["split"] != "official"
    return (*place, -run["test_accuracy"])


def curves(runs) -> Figure:
    """Accuracy on what was held back against minutes of training."""
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    for axis, (example, title) in zip(
        figure.subplots(1, len(EXAMPLES)), EXAMPLES.items(), strict=True
    ):
        of_example = [
            run
            for run in sorted(runs, key=_rank)
            if run["example"] == example and run["split"] == "official"
        ]
        for run, colour in zip(of_example, COLOURS, strict=False):
            minutes = [s / 60 for s in run["history"]["seconds"]]
            accuracy = [100 * v for v in run["history"]["val_accuracy"]]
            label = f"{run['layer']}: {run['test_accuracy']:.1%} of the tests"
            axis.plot(minutes, accuracy, "o-", color=colour, label=label)
        axis.set(title=title, xlabel="minutes of training")
        axis.set_xlim(left=0)
        axis.grid(color="#e3e6ea")
        axis.set_axisbelow(True)
        axis.spines[["top", "right"]].set_visible(False)
        if of_example:
            axis.legend(frameon=False, fontsize=9)
    figure.axes[0].set_ylabel("accuracy on what was held back, %")
    return figure


if __name__ == "__main__":
    main()
