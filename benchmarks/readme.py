"""Writes what README quotes: the support matrix and the measured figures.

    python benchmarks/readme.py          # writes
    python benchmarks/readme.py --check  # fails if README says something else

The matrix comes from the dispatch table, the figures from `results/`.
"""

import argparse
import json
import pathlib
import re

import text_classification

from keras_ssm.ops.dispatch import PREFERENCES

HERE = pathlib.Path(__file__).parent
README = HERE.parent / "README.md"
BACKENDS = {
    "torch": "PyTorch",
    "jax": "JAX",
    "tensorflow": "TensorFlow",
    "numpy": "NumPy",
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    before = README.read_text()
    after = render(before)
    if options.check:
        raise SystemExit("README.md is out of date" if before != after else 0)
    README.write_text(after)


def render(text):
    """README with its generated sections written anew."""
    for name, make in {"matrix": matrix, "figures": figures}.items():
        text = re.sub(
            rf"(<!-- {name}: [^\n]*-->\n).*?(<!-- end -->)",
            lambda match, make=make: match[1] + make() + match[2],
            text,
            flags=re.DOTALL,
        )
    return text


def matrix():
    """Backend and device × op → implementations, the default in bold."""
    ops = list(dict.fromkeys(op for op, _ in PREFERENCES))
    lines = [
        row("", *(f"`{op}`" for op in ops)),
        row(*["---"] * (len(ops) + 1)),
    ]
    for backend, title in BACKENDS.items():
        for platform in PREFERENCES[ops[0], backend]:
            cells = []
            for op in ops:
                first, *others = PREFERENCES[op, backend][platform]
                cells.append(", ".join([f"**{first}**", *others]))
            lines.append(row(f"{title}, {platform.upper()}", *cells))
    return "\n".join(lines) + "\n"


def figures():
    """The tables of the benchmarks that have been run."""
    parts = [_speed(), _accuracy()]
    return "\n".join(part for part in parts if part)


def _speed():
    path = HERE / "results" / "bench_mamba.json"
    if not path.exists():
        return ""
    record = json.loads(path.read_text())
    machine = record["machine"]
    runs = min(found["runs"] for found in record["rows"].values())
    lines = [
        f"Speed: the fastest of {runs} calls, in one run on a machine of "
        f"{machine['cores']} cores with neighbours "
        f"({machine['processor']}), float32, batch 2, length 1024; the scan at "
        "768 channels with 16 states, the layer at width "
        f"{record['layer_width']}, that is as many channels. The first of each "
        "group is ours. Neighbours slow many small parallel steps most: the "
        "ratios to LSTMs flatter us and are not those of a quiet machine. "
        "`make bench` repeats it.",
        "",
        row("what", "ms", "ratio"),
        row("---", "---:", "---:"),
    ]
    first = {}
    for name, found in record["rows"].items():
        time = found["min_ms"]
        ours = first.setdefault(name.split(", ")[0], time)
        lines.append(row(name, f"{time:.0f}", f"{time / ours:.1f}"))
    return "\n".join(lines) + "\n"


def _accuracy():
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


def row(*cells):
    return "| " + " | ".join(cells) + " |"


if __name__ == "__main__":
    main()
