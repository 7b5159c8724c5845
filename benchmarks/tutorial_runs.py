"""Collects what `examples/run_tutorial.py` has found.

    python benchmarks/tutorial_runs.py FOLDER ... --machine "one core of two"

Each folder is the `--output` of one run. `results/tutorials.json` keeps the
runs, one for each tutorial and the parameters that it was given.
"""

import json
import pathlib

import report
from collected import collect

RECORD = pathlib.Path(__file__).parent / "results" / "tutorials.json"


def main():
    print(table(collect(__doc__, RECORD, read, command)))


def read(folder) -> list[dict]:
    """The run, without the places of the machine that it ran on."""
    found = json.loads((folder / "results.json").read_text())
    given = {
        name: pathlib.Path(value).name if _is_path(value) else value
        for name, value in found["given"].items()
    }
    return [found | {"given": given}]


def _is_path(value) -> bool:
    return isinstance(value, str) and pathlib.Path(value).is_absolute()


def command(run) -> str:
    """What was run, with files by their names alone."""
    given = " ".join(f"{k}={v}" for k, v in run["given"].items())
    return (
        f"KERAS_BACKEND={run['backend']} python examples/run_tutorial.py "
        f"{run['tutorial']} {given}"
    )


def table(record) -> str:
    """A line for each run."""
    lines = [
        report.row("tutorial", "model", "parameters", "score", "CPU seconds"),
        report.row("---", "---", *["---:"] * 3),
    ]
    for run in record["runs"]:
        score = run.get("mse", run.get("test_accuracy"))
        lines.append(
            report.row(
                *(run["tutorial"], run["model"], f"{run['parameters']:,}"),
                *(f"{score:.4f}", f"{run['cpu_seconds']:.0f}"),
            )
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
