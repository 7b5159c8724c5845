"""Draws the pictures of docs/how/mamba.md.

    python docs/pictures/mamba.py

Any backend will do.
"""

import numpy as np
import style
from style import BLUE, MINT, ORANGE, ROSE, SAND, numbers

from keras_ssm.layers import Mamba
from keras_ssm.ops import selective_scan

WORDS = "I thought the film was not bad at all".split()
WEIGHTY = ("film", "not", "bad")


def selection():
    """Whose share a state has after each word, by the sizes of steps."""
    chosen = [0.8 if word in WEIGHTY else 0.03 for word in WORDS]
    cases = {
        "every step small: a blend of all": [0.05] * len(WORDS),
        "every step large: the last word": [2.5] * len(WORDS),
        "steps chosen: the words that count": chosen,
    }
    figure, rows = style.axes(
        9.0, 6, sharex=True, height_ratios=(1, 3.2) * len(cases)
    )
    for k, (title, dt) in enumerate(cases.items()):
        bars, shares = rows[2 * k : 2 * k + 2]
        large = [size > 0.5 for size in dt]
        colors = [ORANGE if is_large else BLUE for is_large in large]
        bars.bar(range(len(dt)), dt, color=colors, width=0.8)
        bars.set(title=title, ylabel="step", yticks=[0, 2.5], ylim=(0, 2.6))
        bars.tick_params(axis="x", length=0)
        shares.imshow(
            shares_of_state(dt), cmap="Blues", vmin=0, vmax=1, aspect="auto"
        )
        shares.set_yticks(range(len(WORDS)), WORDS)
        shares.tick_params(length=0)
    rows[-1].set_xticks(range(len(WORDS)), WORDS, rotation=60)
    rows[-1].set_xlabel("state after this word")
    return figure


def shares_of_state(dt):
    """What part of the state each input has, (input, step).

    An input at a time, a row of the batch each, goes through the scan; with
    one state, which decays at the rate 1 and is read as it is.
    """
    length = len(dt)
    x = np.eye(length, dtype="float32")[..., None]
    dt = np.tile(np.array(dt, "float32")[:, None], (length, 1, 1))
    A = np.array([[-1]], "float32")
    ones = np.ones((length, length, 1), "float32")
    states = numbers(selective_scan(x, dt, A, ones, ones))[..., 0]
    return states / states.sum(0)


def mamba_block():
    """What happens in a Mamba layer, with the shapes of its weights."""
    layer = Mamba()
    layer.build((None, None, 64))
    d, n = layer.A_log.shape
    k = layer.conv_kernel.shape[0]
    figure, page = style.canvas(6.7)
    lane = dict(left=20, width=280)
    style.box(page, 20, 570, 440, 42, shapes(layer, "in_proj"), SAND)
    style.arrow(page, (240, 638), (240, 612))
    page.text(250, 620, "input, width 64")
    page.text(172, 542, f"x, {d} wide")
    page.text(412, 542, "z")
    style.arrow(page, (160, 570), (160, 526))
    conv = f"convolution over {k} steps, SiLU"
    style.box(page, bottom=484, height=42, text=conv, ground=ROSE, **lane)
    style.arrow(page, (90, 484), (90, 446))
    style.box(page, 40, 404, 260, 42, shapes(layer, "x_proj"), SAND)
    page.text(112, 376, "B, C")
    style.arrow(page, (90, 404), (90, 264))
    style.arrow(page, (220, 404), (220, 364))
    to_dt = shapes(layer, "dt_proj")
    style.box(page, 130, 296, 240, 68, f"{to_dt}\n+ dt_bias, softplus", SAND)
    style.arrow(page, (250, 296), (250, 264))
    page.text(258, 272, "dt")
    style.arrow(page, (30, 484), (30, 264))
    page.text(38, 272, "x")
    scan = f"selective scan\nstate: {d} by {n} numbers"
    style.box(page, bottom=198, height=66, text=scan, ground=MINT, **lane)
    style.arrow(page, (160, 198), (160, 156))
    page.text(172, 172, "+ D x")
    style.box(page, 20, 114, 440, 42, "times SiLU(z): the gate", ROSE)
    style.arrow(page, (402, 570), (402, 156))
    style.arrow(page, (240, 114), (240, 78))
    style.box(page, 20, 36, 440, 42, shapes(layer, "out_proj"), SAND)
    style.arrow(page, (240, 36), (240, 8))
    page.text(250, 12, "output, width 64")
    return figure


def shapes(layer, name):
    """A projection with the shape of its kernel."""
    rows, columns = getattr(layer, name).kernel.shape
    return f"{name}: {rows} to {columns}"


if __name__ == "__main__":
    style.draw(selection, mamba_block)
