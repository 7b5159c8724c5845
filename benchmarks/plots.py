"""Draws what `bench.py` has measured.

    python benchmarks/plots.py [results/bench.json]

Writes `<name>_lengths.png`, `<name>_peers.png` and `<name>_forms.png` beside
the record.
"""

import json
import pathlib
import sys

from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator
from rows import BOTH, Rows, form, is_limit
from settings import LINEAR, MAIN

HERE = pathlib.Path(__file__).resolve().parent
BACKENDS = {"torch": "PyTorch", "jax": "JAX", "tensorflow": "TensorFlow"}
# Distinguishable without colour, too: by marker and by order.
MODELS = {
    "Mamba (keras_ssm)": dict(color="#0b6e4f", marker="o", linewidth=2.4),
    "LSTM": dict(color="#b5541c", marker="s"),
    "attention": dict(color="#3b4cc0", marker="^"),
}
FORMS = {
    "convolution": dict(color="#0b6e4f", marker="o", linewidth=2.4),
    "chunks": dict(color="#3b4cc0", marker="^"),
    "scan": dict(color="#b5541c", marker="s"),
}
OURS, PEERS, LIMIT = "#0b6e4f", "#9aa5b1", "#d9b44a"
PEER_PLOTS = {
    ("recurrence", MAIN, "forward"): "Recurrence, forward",
    ("recurrence", MAIN, BOTH): "Recurrence, forward and backward",
    ("layer", MAIN, BOTH): "Layer, forward and backward",
    **{
        ("linear_scan", case, BOTH): f"Linear scan, {kind}, both passes"
        for kind, case in LINEAR.items()
    },
}


def main():
    path = HERE / "results" / "bench.json"
    path = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else path
    record = json.loads(path.read_text())
    pictures = {"lengths": lengths, "peers": peers, "forms": forms}
    for name, draw in pictures.items():
        figure = draw(Rows(record))
        if figure is not None:
            target = path.with_name(f"{path.stem}_{name}.png")
            figure.savefig(target, dpi=130, facecolor="white")
            print(f"Wrote {target}")


def lengths(rows):
    """Mamba, LSTM and attention against length."""
    return _against_length(rows, "length", MODELS, _model)


def forms(rows):
    """The forms of a linear system against length."""
    return _against_length(rows, "system", FORMS, form)


def _against_length(rows, part, styles, title_of):
    """Time and peak memory against length, a column for each backend."""
    backends = [b for b in BACKENDS if rows.where(part=part, backend=b)]
    if not backends:
        return None
    figure = Figure(figsize=(3.4 * len(backends), 5.6), layout="constrained")
    axes = figure.subplots(2, len(backends), sharex=True, sharey="row")
    axes = axes.reshape(2, len(backends))
    for column, backend in enumerate(backends):
        found = rows.where(part=part, backend=backend, what=BOTH)
        axes[0, column].set_title(BACKENDS[backend])
        for axis, field in zip(
            axes[:, column], ("min_ms", "peak_mb"), strict=True
        ):
            _draw_lines(axis, found, field, styles, title_of)
        axes[1, column].set_xlabel("length")
    axes[0, 0].set_ylabel("forward and backward, ms")
    axes[1, 0].set_ylabel("peak memory, MB")
    axes[0, 0].legend(frameon=False, fontsize=9)
    return figure


def _draw_lines(axis, rows, field, styles, title_of):
    for title, style in styles.items():
        points = [
            (row["length"], row[field])
            for row in rows
            if title_of(row) == title and row.get(field)
        ]
        if points:
            axis.plot(*zip(*points, strict=True), label=title, **style)
    axis.set_xscale("log", base=2)
    axis.set_yscale("log")
    axis.xaxis.set_major_locator(LogLocator(base=4))
    axis.xaxis.set_minor_locator(NullLocator())
    axis.xaxis.set_major_formatter(FuncFormatter(_thousands))
    axis.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:,g}"))
    axis.grid(True, color="#e3e6ea", linewidth=0.8)
    axis.set_axisbelow(True)


def _model(row):
    name = row["name"]
    if name.startswith("keras_ssm"):
        return "Mamba (keras_ssm)"
    return "LSTM" if name.endswith("LSTM") else name


def _thousands(length, _):
    return f"{length / 1024:g}k" if length >= 1024 else f"{length:g}"


def peers(rows):
    """Ours, peers and limits as bars, a column for each backend."""
    backends = [b for b in BACKENDS if rows.where(case=MAIN, backend=b)]
    if not backends:
        return None
    plots = {
        key: title
        for key, title in PEER_PLOTS.items()
        if rows.where(part=key[0], case=key[1], what=key[2])
    }
    size = (4.6 * len(backends), 2.6 * len(plots))
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(len(plots), len(backends), sharex="row")
    axes = axes.reshape(len(plots), len(backends))
    for line, ((part, case, what), title) in enumerate(plots.items()):
        for column, backend in enumerate(backends):
            found = rows.where(part=part, what=what, case=case, backend=backend)
            _draw_bars(axes[line, column], found)
            axes[line, column].set_title(
                f"{BACKENDS[backend]}: {title}", fontsize=9
            )
    figure.supxlabel("ms, on a logarithmic scale", fontsize=9)
    return figure


def _draw_bars(axis, rows):
    rows = sorted(rows, key=lambda row: row["min_ms"])
    names = [row["name"] for row in rows]
    times = [row["min_ms"] for row in rows]
    bars = axis.barh(names, times, color=[_colour(n) for n in names])
    labels = [f"{t:.3g}" if t < 100 else f"{t:,.0f}" for t in times]
    axis.bar_label(bars, labels, padding=3, fontsize=8)
    axis.invert_yaxis()
    axis.set_xscale("log")
    axis.margins(x=0.25)
    axis.tick_params(labelsize=8)
    axis.xaxis.set_visible(False)
    axis.spines[["top", "right", "bottom"]].set_visible(False)


def _colour(name):
    if name.startswith("keras_ssm"):
        return OURS
    return LIMIT if is_limit(name) else PEERS


if __name__ == "__main__":
    main()
