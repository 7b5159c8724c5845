"""Draws the confusion matrix and the learning curve side by side."""

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from text.files import written_whole

INK, ACCENT = "#33415c", "#d1495b"


def confusion_matrix(truth, predicted, classes: list[str]):
    """Counts rows by `[true class, predicted class]`; classes are sorted."""
    counts = np.zeros((len(classes), len(classes)), int)
    cells = np.searchsorted(classes, truth), np.searchsorted(classes, predicted)
    np.add.at(counts, cells, 1)
    return counts


def draw(path: str, title: str, confusion, classes, history: dict, kept=None):
    """Writes a PNG; a model without epochs gets the matrix alone.

    Args:
        kept: the index of the epoch that was kept; the best if `None`.
    """
    panels = 2 if history else 1
    figure = Figure(figsize=(5.4 * panels, 4.8), layout="constrained")
    FigureCanvasAgg(figure)  # draws without a display
    axes = figure.subplots(1, panels, squeeze=False)
    draw_confusion(axes[0, 0], confusion, classes)
    if history:
        draw_history(axes[0, 1], history, kept)
    figure.suptitle(title, color=INK, fontsize=13)
    with written_whole(path) as temporary:
        figure.savefig(temporary, dpi=150, format="png")


def draw_confusion(axis, confusion, classes):
    """Colours by the share of the true class; writes share and count."""
    shares = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    axis.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    names = [name if len(name) <= 14 else name[:13] + "…" for name in classes]
    ticks = range(len(classes))
    axis.set_xticks(ticks, names, rotation=45 if len(names) > 4 else 0)
    axis.set_yticks(ticks, names)
    axis.set(
        xlabel="Predicted class",
        ylabel="True class",
        title="Confusion matrix of the validation rows",
    )
    if len(classes) > 12:
        return
    for (row, column), share in np.ndenumerate(shares):
        axis.text(
            column,
            row,
            f"{share:.1%}\n{confusion[row, column]:,}",
            ha="center",
            va="center",
            color="white" if share > 0.5 else INK,
        )


def draw_history(axis, history: dict, kept):
    """Draws accuracy by epoch; a ring marks the epoch that was kept."""
    epochs = np.arange(1, len(history["accuracy"]) + 1)
    validation = history["val_accuracy"]
    kept = int(np.argmax(validation)) if kept is None else kept
    axis.plot(epochs, history["accuracy"], "o-", color=INK, label="training")
    axis.plot(epochs, validation, "o-", color=ACCENT, label="validation")
    axis.plot(
        epochs[kept],
        validation[kept],
        "o",
        markersize=13,
        markerfacecolor="none",
        color=ACCENT,
        label="kept",
    )
    axis.set(xlabel="Epoch", ylabel="Accuracy", title="Learning curve")
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.grid(alpha=0.3)
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False)
