"""Draws the pictures of docs/how/springs_and_s4.md.

    python docs/pictures/springs_and_s4.py

Any backend will do.
"""

import numpy as np
import style
from style import BLUE, GREEN, GREY, INK, ORANGE, PALE, PURPLE, numbers

from keras_ssm.layers import HiPPOLegS
from keras_ssm.layers.hippo import normal_plus_low_rank
from keras_ssm.ops import (
    discretize,
    discretize_dplr,
    fft_conv,
    s4d_conv_kernel,
    ssm_scan,
)

# An eigenvalue for each kind of spring: its decay, and its frequency.
SPRINGS = {
    "soft, hardly damped": (-0.15 + 1j, BLUE, "-"),
    "stiff, damped": (-0.6 + 3j, ORANGE, "--"),
    "only a damper": (-0.6 + 0j, GREEN, "-."),
}


def springs():
    """Eigenvalues in the plane, and how what they describe rings."""
    figure, (wall, plane, ringing) = style.axes(6.6, 3, height_ratios=(1, 2, 2))
    mass_on_a_spring(wall)
    seconds = np.linspace(0, 15, 400)
    for name, (eigenvalue, color, dashes) in SPRINGS.items():
        drawn = dict(color=color, markersize=9, linestyle="none", marker="o")
        ends = [eigenvalue, eigenvalue.conjugate()]
        plane.plot(np.real(ends), np.imag(ends), **drawn)
        plane.annotate(
            name,
            (eigenvalue.real, eigenvalue.imag),
            (9, 5 if eigenvalue.imag else -15),
            textcoords="offset points",
            color=color,
        )
        kernel = impulse(eigenvalue, seconds)
        ringing.plot(seconds, kernel, color=color, linestyle=dashes)
    plane.axhline(0, color=PALE, linewidth=1, zorder=0)
    plane.axvline(0, color=PALE, linewidth=1, zorder=0)
    plane.set(xlim=(-0.8, 0.45), ylim=(-4, 4))
    plane.set(xlabel="real part: the decay", ylabel="imaginary part")
    plane.set_title("eigenvalues, with their conjugates")
    ringing.axhline(0, color=PALE, linewidth=1, zorder=0)
    ringing.set(xlabel="seconds", ylabel="state")
    ringing.set_title("after one push")
    return figure


def mass_on_a_spring(page):
    """A mass between a wall, a spring and a damper, and what pushes it."""
    page.set(xlim=(0, 10), ylim=(0, 3))
    page.axis("off")
    drawn = dict(color=INK, linewidth=1.5)
    page.plot([0.5, 0.5], [0.2, 2.8], color=INK, linewidth=4)
    zigzag = [0, 0, *(0.3 * (-1) ** k for k in range(8)), 0, 0]
    along = np.concatenate([[0.5], np.linspace(1, 3, len(zigzag) - 2), [3.5]])
    page.plot(along, 2.1 + np.array(zigzag), **drawn)
    page.plot([0.5, 1.9], [0.9, 0.9], **drawn)
    page.plot([1.9, 1.9], [0.65, 1.15], **drawn)
    page.plot([2.6, 1.6, 1.6, 2.6], [0.5, 0.5, 1.3, 1.3], **drawn)
    page.plot([2.6, 2.6], [0.5, 1.3], **drawn)
    page.plot([2.6, 3.5], [0.9, 0.9], **drawn)
    page.fill_between([3.5, 4.9], 0.3, 2.7, color=style.SAND, linewidth=0)
    page.text(4.2, 1.5, "state", ha="center", va="center")
    style.arrow(page, (6.1, 1.5), (4.95, 1.5), color=INK)
    page.text(6.2, 1.5, "input pushes", va="center")
    page.text(1.05, 2.62, "spring: frequency")
    page.text(1.05, -0.15, "damper: decay")


def impulse(eigenvalue, seconds):
    """The kernel of one number, at times that are equally far apart."""
    dt, A, B, C = system([eigenvalue], [0.5], seconds[1] - seconds[0])
    kernel = s4d_conv_kernel(dt, A, B, C, length=len(seconds))
    return numbers(kernel)[:, 0] / float(dt[0])


def system(eigenvalues, outputs, dt):
    """`dt, A, B, C` of a single channel, as ops take them."""
    return (
        np.array([dt], "float32"),
        parts(eigenvalues),
        parts(np.ones(len(eigenvalues))),
        parts(outputs),
    )


def parts(values):
    """Complex numbers as a pair of (1, n)."""
    values = np.asarray(values, "complex128")[None]
    return values.real.astype("float32"), values.imag.astype("float32")


def steps():
    """One spring, pushed and released, in steps of three sizes."""
    figure, rows = style.axes(6.0, 3, sharex=True, sharey=True)
    pushed, end = 2.0, 10.0
    fine = response(0.01, pushed, end, "zoh")
    for row, dt in zip(rows, (0.1, 0.5, 1.0), strict=True):
        row.plot(*fine, color=PALE, linewidth=5, label="continuous")
        for rule, color, marker in (
            ("zoh", BLUE, "o"),
            ("bilinear", ORANGE, "x"),
        ):
            drawn = dict(color=color, marker=marker, linestyle="none")
            found = response(dt, pushed, end, rule)
            row.plot(*found, label=rule, markersize=5, **drawn)
        row.set_title(f"step size {dt}: {round(end / dt)} steps")
        row.axvspan(0, pushed, color=style.SKY, alpha=0.6, linewidth=0)
        row.set_ylabel("state")
    rows[0].legend(ncols=3, loc="upper right", columnspacing=1, handlelength=1)
    rows[0].set_ylim(-0.6, 0.8)
    rows[-1].set_xlabel("seconds; pushed while the ground is blue")
    return figure


def response(dt, pushed, end, rule):
    """Times at the ends of steps, and the state then."""
    at, A, B, C = system([-0.4 + 2j], [0.5], dt)
    A, B = discretize(at, A, B, discretization=rule)
    times = dt * np.arange(1, round(end / dt) + 1)
    push = (times <= pushed + 1e-6).astype("float32")
    y = ssm_scan(push[None, :, None], A, B, C)
    return times, numbers(y)[0, :, 0]


def forms():
    """The same system as a kernel, as a filter, and as a recurrence."""
    figure, (kernel_at, filter_at, output_at) = style.axes(7.2, 3)
    length = 256
    dt, A, B, C = system([-0.5 + 3j, -0.3 + 9j], [1, 0.6], 0.05)
    kernel = s4d_conv_kernel(dt, A, B, C, length=length)
    kernel_at.plot(numbers(kernel)[:, 0], color=BLUE)
    kernel_at.set_title("kernel: what one input leaves behind")
    kernel_at.set(xlabel="steps later")
    spectrum = np.abs(np.fft.rfft(numbers(kernel)[:, 0], 4096))
    turns = np.fft.rfftfreq(4096) * 2 * np.pi / dt[0]
    shown = turns < 15
    filter_at.plot(turns[shown], spectrum[shown], color=PURPLE)
    for frequency in A[1][0]:
        filter_at.axvline(frequency, color=GREY, linestyle=":", zorder=0)
    filter_at.set_title("filter: loud at the two eigenvalues")
    filter_at.set(xlabel="radians a second", ylim=(0, None))
    x = np.zeros((1, length, 1), "float32")
    x[0, [10, 70, 90, 160], 0] = 1, 1, -1, 0.7
    x[0, 190:230, 0] = 0.4
    convolved = fft_conv(x, kernel)
    recurred = ssm_scan(x, *discretize(dt, A, B), C)
    drawn = 0.2 * x[0, :, 0]
    output_at.vlines(
        np.arange(length), 0, drawn, color=PALE, linewidth=3, zorder=0
    )
    output_at.plot(numbers(convolved)[0, :, 0], color=BLUE, label="convolution")
    every = np.arange(0, length, 6)
    output_at.plot(
        every,
        numbers(recurred)[0, every, 0],
        "o",
        color=ORANGE,
        markersize=4,
        label="recurrence",
    )
    output_at.set_title("output, and five times smaller the input")
    output_at.set(xlabel="step", ylim=(-0.27, 0.45))
    output_at.legend(ncols=2, loc="upper right", columnspacing=1)
    return figure


def hippo():
    """What a state of 64 numbers remembers of a signal, at three times."""
    figure, rows = style.axes(6.4, 3, sharex=True, sharey=True)
    length, dt = 1200, 1 / 300
    signal = wandering(length)
    for row, now in zip(rows, (300, 700, 1200), strict=True):
        row.plot(signal, color=PALE, linewidth=1.5)
        row.plot(signal[:now], color=GREY, linewidth=3, label="signal")
        remembered = reconstruct(signal[:now], dt, size=64)
        row.plot(remembered, "--", color=ORANGE, label="from the state")
        row.axvline(now - 1, color=INK, linewidth=1)
        row.set_title(f"after {now} steps")
        row.set_yticks([])
    rows[0].legend(loc="upper right", handlelength=1.5)
    rows[0].set_ylim(-2.6, 3.0)
    rows[-1].set_xlabel("step")
    return figure


def wandering(length):
    """A smooth signal with a kink and a jump."""
    t = np.arange(length) / length
    rng = np.random.default_rng(4)
    waves = sum(
        rng.normal() / k**0.5 * np.sin(2 * np.pi * (k * t + rng.random()))
        for k in range(1, 14)
    )
    return 0.55 * waves + np.where((t > 0.40) & (t < 0.46), 1.2, 0.0)


def reconstruct(signal, dt, size):
    """The past of a signal, from the state that S4 starts with."""
    shape = (1, size // 2)
    A = tuple(HiPPOLegS("A", part)(shape) for part in ("real", "imag"))
    P = tuple(HiPPOLegS("P", part)(shape) for part in ("real", "imag"))
    B = tuple(HiPPOLegS("B", part)(shape) for part in ("real", "imag"))
    A, B = discretize_dplr(np.array([dt], "float32"), A, P, B)
    x = signal.astype("float32")[None, :, None]
    _, state = ssm_scan(x, A, B, parts(np.ones(size // 2)), return_state=True)
    real, imag = np.split(numbers(state)[0, 0], 2)
    _, _, V = normal_plus_low_rank(size)
    coefficients = 2 * (V @ (real + 1j * imag)).real
    # They weigh orthonormal Legendre polynomials of exp(-age).
    weights = coefficients * np.sqrt(2 * np.arange(size) + 1)
    ages = dt * (np.arange(len(signal))[::-1] + 0.5)
    return np.polynomial.legendre.legval(2 * np.exp(-ages) - 1, weights)


def rates():
    """One system on all samples, and on every fourth with a rate of 4."""
    figure, (whole, wrong) = style.axes(4.6, 2, sharex=True, sharey=True)
    length, every = 400, 4
    dt, A, B, C = system([-0.5 + 2j, -0.8 + 5j], [0.7, 0.9], 0.05)
    signal = wandering(length).astype("float32")[None, :, None]
    y = fft_conv(signal, s4d_conv_kernel(dt, A, B, C, length))
    fewer = signal[:, ::every]
    for row, rate, color in ((whole, every, BLUE), (wrong, 1, ORANGE)):
        row.plot(numbers(y)[0, :, 0], color=PALE, linewidth=5)
        kernel = s4d_conv_kernel(dt, A, B, C, fewer.shape[1], rate=rate)
        found = numbers(fft_conv(fewer, kernel))[0, :, 0]
        at = np.arange(0, length, every)
        row.plot(at, found, "o", color=color, markersize=4)
        row.set_title(f"every fourth sample, rate={rate}")
        row.set_yticks([])
    wrong.set_xlabel("sample; grey: the output on all of them")
    return figure


if __name__ == "__main__":
    style.draw(springs, steps, forms, hippo, rates)
