"""Writes the table of results in `examples/README.md`.

    python benchmarks/examples_readme.py          # writes
    python benchmarks/examples_readme.py --check  # fails if it is out of date

Every number of ours comes from `results/`, with the command that gave it;
those of papers are quoted in `example_tasks.py`, with where they stand.
"""

import argparse
import pathlib
import re

import report
from example_tasks import TASKS

PAGE = pathlib.Path(__file__).resolve().parents[1] / "examples" / "README.md"
MARKS = r"(<!-- results: [^\n]*-->\n).*?(<!-- end -->)"
HEADINGS = (
    *("task and data", "model", "score", "LSTM", "Transformer"),
    *("simplest", "published", "parameters", "time"),
)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    before = PAGE.read_text("utf-8")
    after = render(before)
    if options.check:
        stale = before != after
        raise SystemExit("examples/README.md is out of date" if stale else 0)
    PAGE.write_text(after, "utf-8")


def render(text: str) -> str:
    """The page with its table and commands written anew."""
    return re.sub(
        MARKS,
        lambda match: match[1] + results() + match[2],
        text,
        flags=re.DOTALL,
    )


def results() -> str:
    """The table of all tasks, then a section for each."""
    tasks = [make() for make in TASKS]
    head = [report.row(*HEADINGS), report.row("---", "---", *["---:"] * 7)]
    lines = head + [line for task in tasks for line in task.lines()]
    sections = [task.section() for task in tasks]
    return "\n".join([*lines, "", *sections])


if __name__ == "__main__":
    main()
