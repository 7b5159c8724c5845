"""Draws docs/architecture.png, the picture in README.

    python docs/draw_architecture.py

The implementations come from the dispatch table, so that the picture cannot
show what is not there.
"""

import pathlib

from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

from keras_ssm import layers
from keras_ssm.ops.dispatch import PREFERENCES

FLOORS = {"layers": "#dbe9f6", "ops": "#fde6c8", "kernels": "#dff0d8"}
BACKENDS = {
    "torch": "PyTorch",
    "jax": "JAX",
    "tensorflow": "TensorFlow",
    "numpy": "NumPy",
}


def main():
    figure = Figure(figsize=(9, 4.6))
    axes = figure.subplots()
    axes.set(xlim=(0, 9), ylim=(0, 4.6))
    axes.axis("off")
    names = [name for name in layers.__all__ if "Mamba" in name]
    floor(axes, 3.5, "layers", "parameters, masks, states: Keras' LSTM", names)
    ops = sorted({op for op, _ in PREFERENCES if not op.endswith("_step")})
    floor(axes, 2.15, "ops", "one meaning, float64 reference", ops)
    box(axes, 0.1, 0.1, 8.8, 1.6, FLOORS["kernels"])
    axes.text(0.25, 1.42, "kernels", weight="bold", va="center")
    axes.text(8.75, 1.42, "one folder an implementation", **SMALL)
    for column, (backend, title) in enumerate(BACKENDS.items()):
        left = 0.3 + 2.15 * column
        box(axes, left, 0.25, 1.95, 0.95, "white")
        axes.text(left + 0.975, 1.02, title, ha="center", va="center")
        found = dict.fromkeys(
            name
            for (_, of), rows in PREFERENCES.items()
            for row in rows.values()
            for name in row
            if of == backend
        )
        text = "\n".join(
            [name for name in found if name != "portable"] or found
        )
        axes.text(
            left + 0.975,
            0.56,
            text,
            ha="center",
            va="center",
            family="monospace",
            size=9,
        )
    for bottom in (3.5, 2.15):
        axes.annotate(
            "",
            (4.5, bottom - 0.42),
            (4.5, bottom),
            arrowprops={"arrowstyle": "-|>", "color": "#555555", "lw": 1.5},
        )
    path = pathlib.Path(__file__).parent / "architecture.png"
    figure.savefig(path, dpi=150, bbox_inches="tight")


SMALL = dict(ha="right", va="center", size=9, color="#555555")


def floor(axes, bottom, title, note, names):
    box(axes, 0.1, bottom, 8.8, 0.93, FLOORS[title])
    axes.text(0.25, bottom + 0.7, title, weight="bold", va="center")
    axes.text(8.75, bottom + 0.7, note, **SMALL)
    axes.text(
        4.5,
        bottom + 0.3,
        "     ".join(names),
        ha="center",
        va="center",
        family="monospace",
    )


def box(axes, left, bottom, width, height, color):
    style = "round,pad=0,rounding_size=0.08"
    axes.add_patch(
        FancyBboxPatch(
            (left, bottom),
            width,
            height,
            boxstyle=style,
            facecolor=color,
            edgecolor="#777777",
        )
    )


if __name__ == "__main__":
    main()
