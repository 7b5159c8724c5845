"""Draws the pictures of docs/how/scan.md.

    python docs/pictures/scan.py

Any backend will do.
"""

import dataclasses

import style
from matplotlib.patches import Rectangle
from style import BLUE, GREY, INK, MINT, ORANGE, PALE, SAND, SKY

from keras_ssm.kernels.numba.scan_frame import STEPS
from keras_ssm.kernels.numba.vectors import LANES
from keras_ssm.kernels.triton.scan_blocks import (
    ENOUGH,
    EVERY,
    forward_blocks,
)


@dataclasses.dataclass(frozen=True)
class Map:
    """What steps `first` to `last` together do to a state, and its parents."""

    first: int
    last: int
    row: int = 0
    parents: tuple = ()


def tree():
    """Maps of eight steps, composed in five rounds."""
    every, _ = scan([Map(t, t) for t in range(8)], 1)
    maps = []
    for found in every:
        collect(found, maps)
    figure, page = style.canvas(5.0)
    for found in maps:
        for parent in found.parents:
            start, end = place(parent), place(found)
            straight = parent.last == found.last
            style.arrow(
                page,
                (start[0], start[1] - 15),
                (end[0] - (0 if straight else 18), end[1] + 15),
                color=BLUE if straight else ORANGE,
            )
    for found in maps:
        x, y = place(found)
        text = f"{found.first}"
        if found.first != found.last:
            text = f"{found.first}-{found.last}"
        ground = MINT if found.first == 0 else SKY if found.row else SAND
        style.box(page, x - 24, y - 15, 48, 30, text, ground)
    page.text(10, 458, "a map for each of 8 steps")
    page.text(10, 12, "green: the maps from the start to each step")
    return figure


def scan(maps, row):
    """All prefixes, as `jax.lax.associative_scan` composes them.

    Returns:
        The prefixes, and the row that is free next.
    """
    if len(maps) < 2:
        return maps, row
    pairs = [
        compose(first, second, row)
        for first, second in zip(maps[::2], maps[1::2], strict=False)
    ]
    odd, row = scan(pairs, row + 1)
    even = [
        compose(first, second, row)
        for first, second in zip(odd, maps[2::2], strict=False)
    ]
    prefixes = [maps[0]]
    for k, found in enumerate(odd):
        prefixes += [found, *even[k : k + 1]]
    return prefixes, row + bool(even)


def compose(first, second, row):
    return Map(first.first, second.last, row, (first, second))


def collect(found, maps):
    """A map and all that it is made of."""
    if found not in maps:
        maps.append(found)
        for parent in found.parents:
            collect(parent, maps)


def place(found):
    return 30 + 60 * found.last, 430 - 75 * found.row


def chunks():
    """Which steps run when, in both passes over four chunks."""
    figure, page = style.canvas(5.6)
    left, width, top, count = 20, 105, 455, 4
    edges = [left + k * width for k in range(count + 1)]
    for edge in edges:
        page.plot([edge, edge], [58, top + 8], color=PALE, lw=1, zorder=0)
    page.text(left, 505, f"time of the sequence, in chunks of {STEPS} steps")
    style.arrow(page, (left, 492), (edges[-1], 492))
    line = dict(lw=2.5)
    style.arrow(page, (left, top), (edges[-1], top), color=BLUE, **line)
    page.plot(edges[:-1], [top] * count, "o", color=BLUE, markersize=11)
    page.text(left, 422, "forward: a state is kept where a chunk begins")
    for k in reversed(range(count)):
        y = 380 - 75 * (count - 1 - k)
        first, last = edges[k] + 8, edges[k + 1] - 8
        page.plot([edges[k]], [y], "o", color=BLUE, markersize=11)
        again = dict(color=BLUE, linestyle=(0, (4, 2)), **line)
        style.arrow(page, (first, y), (last, y), **again)
        style.arrow(page, (last, y - 26), (first, y - 26), ORANGE, **line)
    page.text(left, 352, "states again, from the one kept", color=BLUE)
    page.text(left, 326, "gradients, back through them", color=ORANGE)
    page.text(left, 22, "the last chunk goes first; its states are dropped")
    return figure


def tiles():
    """What one program of a kernel holds, of which part of the input."""
    figure, page = style.canvas(6.9)
    n, warp = 16, 32
    # 8 rows of 1536 channels on an H100, which has 132 multiprocessors.
    blocks = forward_blocks(1536, n, warp, pairs=8, fill=132 * ENOUGH)
    title = f"GPU: {blocks.channels} channels of a row in a warp"
    sequence(page, 350, title, blocks.channels, blocks.steps)
    rows = warp // blocks.channels
    each = f"{warp} lanes, in each {n // rows} states"
    lanes(page, (222, 428), rows, blocks.channels, f"{each}\nof a channel")
    held = f"in registers: states and A\nkept: states, every {EVERY} steps"
    page.text(222, 418, held, va="top", linespacing=1.4)
    title = f"CPU: {LANES} channels of a row in a task"
    sequence(page, 36, title, LANES, 1)
    each = f"a vector of {LANES} channels\nfor each of {n} states"
    lanes(page, (222, 114), n, LANES, each)
    held = f"in L1 cache: states and A\nkept: states, every {STEPS} steps"
    page.text(222, 104, held, va="top", linespacing=1.4)
    page.text(10, 10, "dark: what is read and written together")
    return figure


def sequence(page, bottom, title, channels, steps):
    """One row of the batch: time goes down, channels go right."""
    left, width, height = 34, 150, 236
    page.text(10, bottom + height + 38, title, weight="bold")
    page.text(left, bottom + height + 8, "x, dt, z, y: channels")
    page.text(14, bottom + height / 2, "time", rotation=90, va="center")
    page.add_patch(
        Rectangle((left, bottom), width, height, facecolor=SKY, edgecolor=GREY)
    )
    size = 5
    strip = left + 40, channels * size
    page.add_patch(
        Rectangle((strip[0], bottom), strip[1], height, facecolor="#9dc3e6")
    )
    page.add_patch(
        Rectangle(
            (strip[0], bottom + 120), strip[1], steps * size, facecolor=BLUE
        )
    )
    style.arrow(
        page,
        (strip[0] + strip[1] / 2, bottom + 112),
        (strip[0] + strip[1] / 2, bottom + 60),
        color=INK,
    )


def lanes(page, corner, rows, columns, text):
    """A number for each lane, or for each element of a vector."""
    left, bottom = corner
    width, height = 240 / columns, 120 / rows
    page.text(left, bottom + 128, text)
    for row in range(rows):
        for column in range(columns):
            at = left + column * width, bottom + row * height
            page.add_patch(
                Rectangle(
                    at,
                    width,
                    height,
                    facecolor=MINT if row % 2 else "#c3e3cb",
                    edgecolor="white",
                )
            )


if __name__ == "__main__":
    style.draw(tree, chunks, tiles)
