"""Writes what pages quote: the support matrix and the measured figures.

    python benchmarks/readme.py          # writes
    python benchmarks/readme.py --check  # fails if a page says something else

The matrix comes from the dispatch table, the figures from `results/`. Pages
have a place for each: `<!-- matrix: ... -->`, what is written, `<!-- end -->`.
"""

import argparse
import pathlib
import re

import figures
import highlights
import quotes
import report

from keras_ssm.ops.dispatch import PREFERENCES

ROOT = pathlib.Path(__file__).parents[1]
BACKENDS = {**highlights.BACKENDS, "numpy": "NumPy"}

PLATFORMS = {
    "cpu": "CPU",
    "cpu graph": "CPU, graph without gradients",
    "gpu": "GPU",
    "tpu": "TPU",
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
    for name, sections in PAGES.items():
        before = (ROOT / name).read_text()
        after = render(before, sections)
        if not options.check:
            (ROOT / name).write_text(after)
        elif before != after:
            raise SystemExit(f"{name} is out of date")


def render(text, sections):
    """A page with its generated sections written anew."""
    for name, make in sections.items():
        text, count = re.subn(
            rf"(<!-- {name}: [^\n]*-->\n).*?(<!-- end -->)",
            lambda match, make=make: match[1] + make() + match[2],
            text,
            flags=re.DOTALL,
        )
        if count != 1:
            raise ValueError(
                f"A page must have one place for {name!r}. Received: {count}."
            )
    return text


def defaults():
    """Backend and device × op → what runs there if nobody chooses."""
    return _matrix(lambda names: names[0])


def matrix():
    """Backend and device × op → implementations, the default in bold."""
    return _matrix(lambda names: ", ".join([f"**{names[0]}**", *names[1:]]))


def _matrix(cell):
    """Ops that run the same way everywhere share a column."""
    ops = list(dict.fromkeys(op for op, _ in PREFERENCES))
    rows = [(b, p) for b in BACKENDS for p in PREFERENCES[ops[0], b]]
    columns = {}
    for op in ops:
        cells = tuple(cell(PREFERENCES[op, b][p]) for b, p in rows)
        columns.setdefault(cells, []).append(f"`{op}`")
    lines = [
        report.row("", "tested how", *map(", ".join, columns.values())),
        report.row(*["---"] * (len(columns) + 2)),
    ]
    for (backend, platform), *cells in zip(rows, *columns, strict=True):
        title = f"{BACKENDS[backend]}, {PLATFORMS[platform]}"
        tested = EVIDENCE[backend, platform]
        lines.append(report.row(title, tested, *cells))
    return "\n".join(lines) + "\n"


PAGES = {
    "README.md": {"matrix": defaults, "figures": highlights.table},
    "docs/support.md": {"matrix": matrix},
    "docs/measurements.md": {
        "speed": figures.speed,
        "generation": figures.generated,
        "text classification": figures.accuracy,
        "documents": figures.documents,
        "signals": figures.signals,
        "recall": figures.recall,
        "language models": figures.language,
        "export": figures.export,
    },
    "docs/which_layer.md": {
        "lengths": quotes.lengths,
        "steps": quotes.steps,
        "texts": quotes.texts,
        "signals": quotes.signals,
        "recall": quotes.recall,
        "language": quotes.language,
    },
    "docs/how/mamba.md": {
        "generation": quotes.generated,
        "recall": quotes.recall,
    },
    "docs/guides/long_contexts.md": {
        "memory": quotes.memory,
        "documents": quotes.documents,
    },
    "docs/guides/streaming.md": {"compiled": quotes.compiled},
}

if __name__ == "__main__":
    main()
