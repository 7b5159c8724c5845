"""Collects what `examples/recall.py` has found, and draws it.

    python benchmarks/recall_runs.py FOLDER ... --machine "one core of two"

Each folder is the `--output` of runs of `recall.py`. `results/recall.json`
keeps every run, and with it what another seed or learning rate came to; the
picture and the table show the most accurate one of each model, width and
question.
"""

import pathlib
import sys

import report
from collected import collect

HERE = pathlib.Path(__file__).resolve().parent
sys.path.append(str(HERE.parent / "examples"))

from memory import figure  # noqa: E402

RECORD = HERE / "results" / "recall.json"
QUESTION = ("task", "width", "pairs", "model")
MODELS = tuple(figure.COLOURS)


def main():
    record = collect(__doc__, RECORD, read, _key)
    figure.draw(str(RECORD.with_suffix(".png")), best(record))
    print(tables(record))


def read(folder) -> list[dict]:
    return figure.read(str(folder))


def _key(run):
    return (*(run[key] for key in QUESTION), run["learning_rate"], run["seed"])


def best(record) -> list[dict]:
    """The most accurate run of each model, width and question.

    At the longest length, where several are tested.
    """
    runs = {}
    for run in sorted(record["runs"], key=_accuracy):
        runs[tuple(run[key] for key in QUESTION)] = run
    return list(runs.values())


def _accuracy(run):
    return list(run.get("by_length", {"": run["accuracy"]}).values())[-1]


def tables(record) -> str:
    """One of the tasks that Mamba was made for, one of associations."""
    runs = best(record)
    return f"{_made_for_it(runs)}\n\n{_associations(runs)}"


def _made_for_it(runs):
    lines = [
        report.row(
            *("two blocks", "parameters", "selective copying"),
            *("induction heads, 256", "4,096", "16,384"),
        ),
        report.row("---", *["---:"] * 5),
    ]
    for model in MODELS:
        of_model = {r["task"]: r for r in runs if r["model"] == model}
        if "induction" not in of_model:
            continue
        copying, induction = of_model["copying"], of_model["induction"]
        by_length = [
            induction["by_length"].get(n) for n in ("256", "4096", "16384")
        ]
        shown = [*map(_percent, (copying["accuracy"], *by_length))]
        lines.append(report.row(model, f"{copying['parameters']:,}", *shown))
    return "\n".join(lines)


def _associations(runs):
    runs = [run for run in runs if run["task"] == "association"]
    pairs = sorted({run["pairs"] for run in runs})
    lines = [
        report.row("associative recall of", "width", *map(str, pairs)),
        report.row("---", "---:", *["---:"] * len(pairs)),
    ]
    accuracies = {
        (run["model"], run["width"], run["pairs"]): run["accuracy"]
        for run in runs
    }
    for model in MODELS:
        for width in sorted({r["width"] for r in runs if r["model"] == model}):
            found = [accuracies.get((model, width, n)) for n in pairs]
            lines.append(report.row(model, str(width), *map(_percent, found)))
    return "\n".join(lines)


def _percent(accuracy):
    """Empty where nothing is known."""
    return "" if accuracy is None else f"{accuracy:.2%}"


if __name__ == "__main__":
    main()
