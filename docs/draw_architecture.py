"""Draws docs/architecture.png, the picture in README.

    python docs/draw_architecture.py

The implementations come from the dispatch table, so that the picture cannot
show what is not there.
"""

import pathlib
import textwrap

from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

from keras_ssm import layers, models
from keras_ssm.layers.sequence_layer import SequenceLayer
from keras_ssm.ops.dispatch import PREFERENCES

FLOORS = {
    "models": "#ece3f4",
    "layers": "#dbe9f6",
    "ops": "#fde6c8",
    "kernels": "#dff0d8",
}
BACKENDS = {
    "torch": "PyTorch",
    "jax": "JAX",
    "tensorflow": "TensorFlow",
    "numpy": "NumPy",
}


def main():
    figure = Figure(figsize=(9, 5.9))
    axes = figure.subplots()
    axes.set(xlim=(0, 9), ylim=(0, 5.95))
    axes.axis("off")
    stacks = ["HybridBackbone", "CausalLM", "TextClassifier"]
    configs = [name for name in models.__all__ if name.endswith("config")]
    floor(axes, 4.85, "models", "stacks by a pattern", stacks + configs)
    names = [name for name in layers.__all__ if is_mixer(name)]
    floor(axes, 3.5, "layers", "parameters, masks, states: Keras' LSTM", names)
    ops = sorted({op for op, _ in PREFERENCES if not op.endswith("_step")})
    floor(axes, 2.15, "ops", "one meaning, float64 reference", ops)
    box(axes, 0.1, 0.1, 8.8, 1.6, FLOORS["kernels"])
    axes.text(0.25, 1.42, "kernels", weight="bold", va="center")
    axes.text(8.75, 1.42, "one folder an implementation", **SMALL)
    for column, (backend, title) in enumerate(BACKENDS.items()):
        left = 0.3 + 2.15 * column
        box(axes, left, 0.22, 1.95, 1.0, "white")
        axes.text(left + 0.975, 1.06, title, ha="center", va="center")
        found = dict.fromkeys(
            name
            for (_, of), rows in PREFERENCES.items()
            for row in rows.values()
            for name in row
            if of == backend
        )
        write(axes, left + 0.975, 0.58, own(found), 18)
    for bottom in (4.85, 3.5, 2.15):
        axes.annotate(
            "",
            (4.5, bottom - 0.42),
            (4.5, bottom),
            arrowprops={"arrowstyle": "-|>", "color": "#555555", "lw": 1.5},
        )
    path = pathlib.Path(__file__).parent / "architecture.png"
    figure.savefig(path, dpi=150, bbox_inches="tight")


SHARED = ("portable", "dense")
SMALL = dict(ha="right", va="center", size=9, color="#555555")


def floor(axes, bottom, title, note, names):
    box(axes, 0.1, bottom, 8.8, 0.93, FLOORS[title])
    axes.text(0.25, bottom + 0.7, title, weight="bold", va="center")
    axes.text(8.75, bottom + 0.7, note, **SMALL)
    write(axes, 4.5, bottom + 0.31, names, 82)


def write(axes, x, y, names, width):
    """Names around a place, in lines of so many characters."""
    lines = textwrap.wrap("  ".join(names), width, break_on_hyphens=False)
    text = "\n".join(lines)
    style = dict(ha="center", va="center", family="monospace", size=9)
    axes.text(x, y, text, linespacing=1.4, **style)


def own(names):
    """Those of a backend's own, or those of every backend if it has none."""
    return [name for name in names if name not in SHARED] or names


def is_mixer(name):
    """Whether a public name is a layer over time that is no block."""
    layer = getattr(layers, name)
    return issubclass(layer, SequenceLayer) and not name.endswith("Block")


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
