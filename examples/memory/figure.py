"""The runs of a folder as a table and a picture."""

import glob
import json
import os

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from text.files import written_whole

COLOURS = {
    "mamba": "#0b6e4f",
    "mamba2": "#d9b44a",
    "hybrid": "#3b4cc0",
    "attention": "#b5541c",
}
LINES = ("-", "--", ":", "-.")


def read(folder: str) -> list[dict]:
    """The results of every run in a folder, in the order of their names."""
    found = []
    for path in sorted(glob.glob(os.path.join(folder, "*.json"))):
        with open(path, encoding="utf-8") as file:
            found.append(json.load(file))
    return found


def table(runs) -> str:
    """A line of Markdown for each run."""
    lines = [
        "| task | width | pairs | model | parameters | accuracy | steps |",
        "| --- | ---: | ---: | --- | ---: | ---: | ---: |",
    ]
    for run in sorted(runs, key=_place):
        task, told = run["task"], f"{run['accuracy']:.2%}"
        if "by_length" in run:
            length, accuracy = list(run["by_length"].items())[-1]
            told += f"; {accuracy:.2%} at length {int(length):,}"
        lines.append(
            f"| {task} | {run['width']} | {run['pairs'] or ''} | "
            f"{run['model']} | {run['parameters']:,} | {told} | "
            f"{run['steps']:,} |"
        )
    return "\n".join(lines)


def _place(run):
    return run["task"], run["width"], run["pairs"], _rank(run["model"])


def _rank(model):
    return list(COLOURS).index(model)


def draw(path: str, runs) -> None:
    """Writes a PNG with a panel for each task."""
    figure = Figure(figsize=(13, 3.8), layout="constrained")
    FigureCanvasAgg(figure)  # draws without a display
    axes = figure.subplots(1, 3)
    panels = {
        "copying": _draw_copying,
        "induction": _draw_induction,
        "association": _draw_association,
    }
    for axis, (task, panel) in zip(axes, panels.items(), strict=True):
        panel(axis, sorted((r for r in runs if r["task"] == task), key=_place))
        axis.set_ylim(-0.03, 1.03)
        axis.grid(color="#e3e6ea")
        axis.set_axisbelow(True)
        axis.spines[["top", "right"]].set_visible(False)
        if axis.get_legend_handles_labels()[1]:
            axis.legend(frameon=False, fontsize=8)
    axes[0].set_ylabel("accuracy")
    with written_whole(path) as temporary:
        figure.savefig(temporary, dpi=130, facecolor="white", format="png")


def _draw_copying(axis, runs):
    for run in runs:
        every = run["steps"] / max(1, len(run["history"]))
        steps = [every * (i + 1) for i in range(len(run["history"]))]
        axis.plot(steps, run["history"], **_style(run))
    axis.set(title="Selective copying", xlabel="steps of training")


def _draw_induction(axis, runs):
    for run in runs:
        lengths = [int(length) for length in run["by_length"]]
        accuracy = run["by_length"].values()
        axis.plot(lengths, accuracy, "o-", markersize=4, **_style(run))
        axis.axvline(run["length"], color="#9aa5b1", linewidth=1)
    axis.set_xscale("log", base=2)
    axis.set(title="Induction heads", xlabel="length (line: of training)")


def _draw_association(axis, runs):
    widths = sorted({run["width"] for run in runs})
    for width, name in sorted(
        {(r["width"], r["model"]) for r in runs},
        key=lambda line: (_rank(line[1]), line[0]),
    ):
        of_line = [r for r in runs if (r["model"], r["width"]) == (name, width)]
        pairs = [run["pairs"] for run in of_line]
        accuracy = [run["accuracy"] for run in of_line]
        style = _style(of_line[0]) | {"label": f"{name}, width {width}"}
        line = LINES[widths.index(width) % len(LINES)]
        axis.plot(pairs, accuracy, f"o{line}", markersize=4, **style)
    axis.set_xscale("log", base=2)
    axis.set(title="Associative recall", xlabel="pairs")


def _style(run):
    return {"color": COLOURS[run["model"]], "label": run["model"]}
