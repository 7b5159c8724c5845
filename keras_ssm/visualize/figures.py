"""Figures of matplotlib. They are returned, not shown: there is no state."""

import numpy as np

from keras_ssm.visualize.systems import (
    conv_kernel,
    frequency_response,
    spectrum,
)
from keras_ssm.visualize.tokens import (
    by_text,
    measured,
    rows_of,
    texts_of_steps,
)

# From dark blue to yellow, the same for all kinds of colour vision.
COLORS = "cividis"
# More tokens than this are not written below a picture.
LABELS = 64


def plot_memory(scans, tokens=None, *, row: int = 0):
    """Draws what each layer does at each token.

    Three pictures, each with a line for every scan: the step size and the
    retention, both the mean over channels, and what is left of a token behind
    the last one, of which the strongest in a layer is 1.

    Args:
        scans: What `record` returned, or some of it.
        tokens: The text of each step, as in `colored_text`. `None` for
            numbers.
        row: Row of the batch.

    Returns:
        A `matplotlib.figure.Figure`: `.savefig("memory.png")` writes it, and a
        notebook shows it.

    Raises:
        ImportError: If matplotlib is not installed.
        ValueError: If tokens and steps differ in number.

    Example:

    ```python
    # `scans` as in the example of `record`.
    keras_ssm.visualize.plot_memory(scans).savefig("memory.png")
    ```
    """
    scans = rows_of("plot_memory", scans, row)
    texts, steps = _labels("plot_memory", scans[0], tokens)
    step_size, retention, remembered = (
        np.stack([measured(scan, name, steps) for scan in scans])
        for name in ("step_size", "retention", "remembered")
    )
    most = remembered.max(-1, keepdims=True)
    remembered = remembered / np.where(most > 0, most, 1)
    figure = _figure(3 + 0.16 * len(steps), 1.5 + 3 * (0.6 + 0.25 * len(scans)))
    axes = figure.subplots(3, sharex=True)
    for ax, title, values, least, most in zip(
        axes,
        ("step size", "retention", "remembered at the end"),
        (step_size, retention, remembered),
        (0, None, 0),
        (None, 1, 1),
        strict=True,
    ):
        image = ax.imshow(values, COLORS, aspect="auto", vmin=least, vmax=most)
        figure.colorbar(image, ax=ax, pad=0.01)
        ax.set_title(title, loc="left")
        ax.set_yticks(range(len(scans)), [s.layer for s in scans])
    _write(axes[-1].xaxis, texts, "step")
    return figure


def plot_attention(scans, tokens=None, *, row: int = 0):
    """Draws the attention that each scan implies.

    A picture for each scan, with a line for every step that reads and a column
    for every one that was written: the mean of `|M|` over channels, each line
    divided by its sum. Pictures of 1,000 steps take minutes.

    Args:
        scans: What `record` returned, or some of it.
        tokens: The text of each step, as in `colored_text`. `None` for
            numbers.
        row: Row of the batch.

    Returns:
        A `matplotlib.figure.Figure`.

    Raises:
        ImportError: If matplotlib is not installed.
        ValueError: If tokens and steps differ in number.

    Example:

    ```python
    # `scans` as in the example of `record`.
    keras_ssm.visualize.plot_attention(scans[:1])
    ```

    Reference:
        [Ali et al., 2024](https://arxiv.org/abs/2403.01590), section 5.
    """
    scans = rows_of("plot_attention", scans, row)
    texts, steps = _labels("plot_attention", scans[0], tokens)
    columns = min(len(scans), 3)
    lines = -(-len(scans) // columns)
    size = min(1.2 + 0.16 * len(steps), 6)
    figure = _figure(size * columns, size * lines)
    norm = _picture().Root()
    for index, scan in enumerate(scans):
        M = scan.mean_attention()[0]
        M = by_text(by_text(M, steps).T, steps).T
        total = M.sum(-1, keepdims=True)
        ax = figure.add_subplot(lines, columns, index + 1)
        ax.imshow(M / np.where(total > 0, total, 1), COLORS, norm=norm)
        ax.set_title(scan.layer, loc="left")
        _write(ax.xaxis, texts, "written")
        _write(ax.yaxis, texts, "read")
    return figure


def plot_kernels(
    layer,
    length: int,
    *,
    channels=range(4),
    sampling_rate: float | None = None,
):
    """Draws convolution kernels and what frequencies they let pass.

    Args:
        layer: An `S4`, an `S4D` or a block of one, built.
        length: Number of steps of the kernels.
        channels: Indices of those to draw.
        sampling_rate: Steps per second, for seconds and hertz.

    Returns:
        A `matplotlib.figure.Figure`.

    Raises:
        ImportError: If matplotlib is not installed.
        ValueError: If the layer is another one, or not built.

    Example:

    ```python
    # `layer` as in the example of `conv_kernel`.
    keras_ssm.visualize.plot_kernels(layer, 1000).savefig("kernels.svg")
    ```
    """
    rate = sampling_rate or 1.0
    kernel = conv_kernel(layer, length)
    frequencies, response = frequency_response(
        layer, length, sampling_rate=rate
    )
    channels = [c for c in channels if c < kernel.shape[1]]
    figure = _figure(10, 1.2 + 1.3 * len(channels))
    axes = figure.subplots(
        len(channels), 2, sharex="col", sharey="col", squeeze=False
    )
    for (in_time, by_frequency), c in zip(axes, channels, strict=True):
        in_time.plot(np.arange(length) / rate, kernel[:, c], lw=1)
        in_time.axhline(0, color="gray", lw=0.5)
        in_time.set_ylabel(f"channel {c}")
        by_frequency.loglog(frequencies[1:], response[1:, c], lw=1)
    axes[0, 0].set_title("kernel", loc="left")
    axes[0, 1].set_title("frequency response", loc="left")
    axes[-1, 0].set_xlabel(_unit(sampling_rate, "time in seconds", "step"))
    axes[-1, 1].set_xlabel(
        _unit(sampling_rate, "frequency in Hz", "turns per step")
    )
    return figure


def plot_spectrum(layer, *, sampling_rate: float | None = None):
    """Draws the eigenvalues of a recurrence.

    On the left in the complex plane, where states whose eigenvalue is near the
    circle last long; on the right as frequencies and time constants.

    Args:
        layer: An `S4D`, an `S5`, an `LRU` or a block of one, built.
        sampling_rate: Steps per second, for seconds and hertz.

    Returns:
        A `matplotlib.figure.Figure`.

    Raises:
        ImportError: If matplotlib is not installed.
        ValueError: If the layer is another one, or not built.

    Example:

    ```python
    keras_ssm.visualize.plot_spectrum(layer).savefig("spectrum.svg")
    ```
    """
    found = spectrum(layer, sampling_rate=sampling_rate)
    figure = _figure(9, 4.2)
    plane, scales = figure.subplots(1, 2)
    a = found.eigenvalues.ravel()
    plane.plot(a.real, abs(a.imag), ".", ms=4, alpha=0.6)
    angle = np.linspace(0, np.pi, 200)
    plane.plot(np.cos(angle), np.sin(angle), color="gray", lw=0.8)
    plane.set(aspect="equal", xlabel="real part", ylabel="|imaginary part|")
    plane.set_title("eigenvalues of a step", loc="left")
    scales.semilogy(
        found.frequencies.ravel(),
        found.time_constants.ravel(),
        ".",
        ms=4,
        alpha=0.6,
    )
    scales.set_xlabel(_unit(sampling_rate, "frequency in Hz", "turns per step"))
    scales.set_ylabel(
        _unit(sampling_rate, "time constant in seconds", "time constant, steps")
    )
    scales.set_title("how long, and how fast", loc="left")
    return figure


def _picture():
    """The module that imports matplotlib."""
    try:
        from keras_ssm.visualize import picture
    except ImportError as error:
        raise ImportError(
            "`keras_ssm.visualize` draws with matplotlib, which is not "
            "installed: pip install keras-ssm[visualize]"
        ) from error
    return picture


def _figure(width, height):
    """An empty figure, in inches, of readable size."""
    size = min(max(width, 4), 16), min(max(height, 3), 40)
    return _picture().Picture(size, layout="compressed")


def _labels(function, scan, tokens):
    """What is written beside the steps, and which steps these are."""
    if tokens is None:
        steps = range(scan.step_size.shape[1])
        return None, [[t] for t in steps]
    return texts_of_steps(function, scan, tokens)


def _write(axis, texts, name):
    """Texts beside an axis of a picture, as long as they can be read."""
    axis.set_label_text(name)
    if texts is None or len(texts) > LABELS:
        return
    shown = [text.replace(" ", "␣").replace("\n", "↵") for text in texts]
    rotation = 90 if axis.axis_name == "x" and max(map(len, shown)) > 1 else 0
    axis.set_ticks(range(len(shown)), shown, fontsize=8, rotation=rotation)


def _unit(sampling_rate, with_rate, without):
    return without if sampling_rate is None else with_rate
