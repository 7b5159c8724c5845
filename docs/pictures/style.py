"""How the pictures of these pages look, and how their scripts draw them.

A picture is 480 pixels wide and its text 12 points, so that 9 points are left
on a telephone of 360 pixels. Colours are those of Okabe and Ito, which can be
told apart with any eyes; lines differ in their dashes, too. The ground is
white and opaque, because pages are light or dark.
"""

import argparse
import pathlib

import matplotlib
from keras import ops
from matplotlib.figure import Figure

BLUE, ORANGE, GREEN, PURPLE = "#0072b2", "#d55e00", "#00795a", "#9b4a80"
INK, GREY, PALE = "#222222", "#767676", "#d9d9d9"
# Grounds of boxes.
SKY, SAND, MINT, ROSE = "#dbe9f6", "#fde6c8", "#dcefe0", "#f3e3ee"

WIDTH = 5.0  # inches, of 96 pixels
SIZE = 12

SETTINGS = {
    "font.size": SIZE,
    "axes.titlesize": SIZE,
    "axes.labelsize": SIZE,
    "legend.fontsize": SIZE,
    "xtick.labelsize": SIZE,
    "ytick.labelsize": SIZE,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": GREY,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": GREY,
    "ytick.color": GREY,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "legend.frameon": False,
    "lines.linewidth": 2.0,
    "figure.facecolor": "white",
    # The same bytes again: no random names, no date, no program's version.
    "svg.hashsalt": "keras_ssm",
    "svg.fonttype": "path",
}
NOTHING = {"Date": None, "Creator": None}


def draw(*pictures) -> None:
    """Draws what functions return, each as a file of the function's name."""
    parser = argparse.ArgumentParser()
    here = pathlib.Path(__file__).parent
    parser.add_argument("--folder", type=pathlib.Path, default=here)
    folder = parser.parse_args().folder
    for picture in pictures:
        with matplotlib.rc_context(SETTINGS):
            path = folder / f"{picture.__name__}.svg"
            picture().savefig(path, metadata=NOTHING)


def axes(height, rows=1, columns=1, **options):
    """A figure so many inches high, and its axes."""
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.08, h_pad=0.06)
    return figure, figure.subplots(rows, columns, **options)


def canvas(height):
    """A figure to draw boxes on, in pixels from its lower left corner."""
    figure = Figure(figsize=(WIDTH, height))
    page = figure.add_axes((0, 0, 1, 1))
    page.set(xlim=(0, 96 * WIDTH), ylim=(0, 96 * height))
    page.axis("off")
    return figure, page


def box(page, left, bottom, width, height, text="", ground=SKY, **options):
    """A rounded box with text in its middle."""
    shape = matplotlib.patches.FancyBboxPatch(
        (left, bottom),
        width,
        height,
        boxstyle="round,pad=0,rounding_size=5",
        facecolor=ground,
        edgecolor=GREY,
    )
    page.add_patch(shape)
    middle = left + width / 2, bottom + height / 2
    page.text(*middle, text, ha="center", va="center", **options)


def arrow(page, start, end, color=GREY, **options):
    """An arrow between two points."""
    style = {"arrowstyle": "-|>", "color": color, "lw": 1.5, **options}
    style.update(shrinkA=0, shrinkB=0)
    page.annotate("", end, start, arrowprops=style)


def numbers(v):
    """A tensor of any backend in NumPy."""
    return ops.convert_to_numpy(v)
