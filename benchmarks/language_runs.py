"""Collects what `examples/language_model.py` has learned.

    python benchmarks/language_runs.py FOLDER ... --machine "one core of two"

Each folder is the `--output` of one run. `results/language.json` keeps the
runs, one for each pattern and seed; the table has the mean over seeds.
"""

import json
import pathlib
import statistics

import report
from collected import collect

RECORD = pathlib.Path(__file__).parent / "results" / "language.json"
PRIVATE = ("data", "output", "verbose", "pattern", "seed")


def main():
    print(table(collect(__doc__, RECORD, read, _key)))


def read(folder) -> list[dict]:
    """The run, without the places of the machine that it ran on."""
    found = json.loads((folder / "results.json").read_text())
    options = found["options"]
    run = {
        "pattern": found["pattern"],
        "seed": options["seed"],
        "backend": found["backend"],
        "parameters": found["parameters"],
        "bits_per_byte": found["bits_per_byte"],
        "options": {k: v for k, v in options.items() if k not in PRIVATE},
    }
    return [run]


def _key(run):
    return tuple(run["pattern"]), run["options"]["feed_forward"], run["seed"]


def table(record) -> str:
    """A line for each model, the best first."""
    models = {}
    for run in record["runs"]:
        models.setdefault(name(run), []).append(run)
    lines = [
        report.row(
            *("blocks", "parameters", "bits per byte", "seeds", "seconds"),
            "on",
        ),
        report.row("---", *["---:"] * 4, "---"),
    ]
    for model, runs in sorted(models.items(), key=lambda m: _bits(m[1])):
        spread = statistics.pstdev(run["bits_per_byte"] for run in runs)
        lines.append(
            report.row(
                model,
                f"{runs[0]['parameters']:,}",
                f"{_bits(runs):.3f} ± {spread:.3f}",
                str(len(runs)),
                f"{runs[0]['options']['seconds']:.0f}",
                f"{runs[0]['backend']}, {runs[0]['machine']}",
            )
        )
    return "\n".join(lines)


def name(run):
    """The pattern in words."""
    units = run["options"]["feed_forward"]
    mixers = ", ".join(run["pattern"])
    return f"{mixers}, each with a gated MLP of {units}" if units else mixers


def _bits(runs):
    return statistics.fmean(run["bits_per_byte"] for run in runs)


if __name__ == "__main__":
    main()
