"""Draws how the library is built, the picture in README.

    python docs/pictures/architecture.py

Its names come from the packages and from the dispatch table, so that it cannot
show what is not there.
"""

import textwrap

import style
from style import MINT, ROSE, SAND, SKY

from keras_ssm import layers, models
from keras_ssm.layers.sequence_layer import SequenceLayer
from keras_ssm.ops.dispatch import PREFERENCES

BACKENDS = {
    "torch": "PyTorch",
    "jax": "JAX",
    "tensorflow": "TensorFlow",
    "numpy": "NumPy",
}
# On every backend.
SHARED = ("portable", "dense")


def architecture():
    """Models stack layers, layers call ops, ops call kernels."""
    figure, page = style.canvas(6.3)
    stacks = ["HybridBackbone", "CausalLM", "TextClassifier"]
    presets = [name for name in models.__all__ if name.endswith("config")]
    mixers = [name for name in layers.__all__ if is_mixer(name)]
    ops = sorted({op for op, _ in PREFERENCES if not op.endswith("_step")})
    top = 597
    for title, names, ground in (
        ("models: stacks by a pattern", stacks + presets, ROSE),
        ("layers: the language of Keras' LSTM", mixers, SKY),
        ("ops: one meaning, a float64 reference", ops, SAND),
    ):
        text = wrapped(names, 52)
        height = 50 + 20 * text.count("\n") + 16
        bottom = top - height
        style.box(page, 8, bottom, 464, height, ground=ground)
        write(page, 20, top, title, text)
        top = bottom - 26
        style.arrow(page, (240, bottom), (240, top))
    style.box(page, 8, 8, 464, top - 8, ground=MINT)
    page.text(20, top - 23, "kernels: one folder an implementation")
    for place, (backend, title) in enumerate(BACKENDS.items()):
        left, upper = 18 + 227 * (place % 2), top - 35 - 86 * (place // 2)
        style.box(page, left, upper - 78, 217, 78, ground="white")
        text = wrapped(names_of(backend), 24)
        write(page, left + 10, upper, title, text, weight="bold")
    return figure


def wrapped(names, width):
    lines = textwrap.wrap(", ".join(names), width, break_on_hyphens=False)
    return "\n".join(lines)


def write(page, left, top, title, text, **options):
    """A title and names, below the upper edge of a box."""
    page.text(left, top - 23, title, **options)
    small = dict(va="top", linespacing=1.3, color="#4a4a4a")
    page.text(left, top - 32, text, **small)


def names_of(backend):
    """A backend's own implementations, or every backend's if it has none."""
    found = dict.fromkeys(
        name
        for (_, of), rows in PREFERENCES.items()
        for row in rows.values()
        for name in row
        if of == backend
    )
    return [name for name in found if name not in SHARED] or list(found)


def is_mixer(name):
    """Whether a public name is a layer over time that is no block."""
    layer = getattr(layers, name)
    return issubclass(layer, SequenceLayer) and not name.endswith("Block")


if __name__ == "__main__":
    style.draw(architecture)
