"""Collects what `examples/run_tutorial.py` has found.

    python benchmarks/tutorial_runs.py FOLDER ... --machine "one core of two"

Each folder is the `--output` of one run. `results/tutorials.json` keeps the
runs, one for each tutorial and the parameters that it was given.
"""

import argparse
import json
import pathlib

import report

RECORD = pathlib.Path(__file__).parent / "results" / "tutorials.json"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", nargs="+", type=pathlib.Path)
    parser.add_argument("--machine", required=True, help="what ran them")
    options = parser.parse_args()
    record = load()
    found = [read(folder, options.machine) for folder in options.folders]
    # A run that was repeated takes the place of the first.
    runs = {command(run): run for run in record["runs"] + found}
    record["runs"] = [runs[key] for key in sorted(runs)]
    RECORD.write_text(json.dumps(record, indent=1) + "\n")
    print(table(record))


def load() -> dict:
    """The record of all runs, empty before the first."""
    return json.loads(RECORD.read_text()) if RECORD.exists() else {"runs": []}


def read(folder, machine) -> dict:
    """One run, without the places of the machine that it ran on."""
    found = json.loads((folder / "results.json").read_text())
    given = {
        name: pathlib.Path(value).name if _is_path(value) else value
        for name, value in found["given"].items()
    }
    return found | {"given": given, "machine": machine}


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
