"""What is drawn, and written as HTML, is what was recorded."""

import html.parser
import sys

import numpy as np
import pytest
from harness import BACKEND

from keras_ssm import visualize
from keras_ssm.layers import S4D, S5
from keras_ssm.visualize import (
    Scan,
    colored_text,
    plot_attention,
    plot_kernels,
    plot_memory,
    plot_spectrum,
)

TEXT = "aé <&"
BYTES = TEXT.encode()  # a byte more than characters
LENGTH = len(BYTES) + 2


def scans():
    """Of two layers, and rows of 6 bytes between padding."""
    mask = np.zeros((2, LENGTH), bool)
    mask[1, 1:-1] = True
    found = []
    for name, d in (("first", 3), ("second", 2)):
        rng = np.random.default_rng(d)
        found.append(
            Scan(
                layer=f"<{name}>",
                inputs=rng.normal(size=(2, LENGTH, d, 1)),
                step_size=rng.uniform(size=(2, LENGTH, d)) * mask[..., None],
                A=-rng.uniform(size=(d, 2)),
                B=rng.normal(size=(2, LENGTH, 1, 2)),
                C=rng.normal(size=(2, LENGTH, 1, 2)),
                mask=mask,
            )
        )
    return found


def by_character(values):
    """The mean over the bytes of each character, of the row with text."""
    values = values[1, 1:-1]
    return np.array([values[0], values[1:3].mean(), *values[3:]])


def test_memory_is_drawn_by_layer_and_character():
    figure = plot_memory(scans(), BYTES, row=1)
    images = [ax.images[0].get_array() for ax in figure.axes if ax.images]
    step_size, retention, remembered = images[:3]
    for index, scan in enumerate(scans()):
        np.testing.assert_allclose(
            step_size[index], by_character(scan.step_size.mean(-1))
        )
        np.testing.assert_allclose(
            retention[index], by_character(scan.retention.mean(-1))
        )
        size = by_character(scan.remembered)
        np.testing.assert_allclose(remembered[index], size / size.max())
    labels = [label.get_text() for label in figure.axes[2].get_xticklabels()]
    assert labels == ["a", "é", "␣", "<", "&"]


def test_attention_is_drawn_by_layer_and_character():
    figure = plot_attention(scans(), BYTES, row=1)
    assert [ax.get_title("left") for ax in figure.axes] == [
        "<first>",
        "<second>",
    ]
    spread = np.zeros((5, LENGTH))
    spread[[0, 1, 1, 2, 3, 4], range(1, LENGTH - 1)] = 1, 0.5, 0.5, 1, 1, 1
    for ax, scan in zip(figure.axes, scans(), strict=True):
        M = spread @ scan.mean_attention()[1] @ spread.T
        expected = M / M.sum(-1, keepdims=True)
        np.testing.assert_allclose(ax.images[0].get_array(), expected)


def test_a_step_that_reads_nothing_is_drawn_all_the_same():
    figure = plot_attention(scans()[0])
    np.testing.assert_array_equal(figure.axes[0].images[0].get_array(), 0)


@pytest.mark.skipif(BACKEND == "jax", reason="arrays, drawn by NumPy")
def test_kernels_and_spectra_are_drawn():
    layer = S4D(state_dim=4)
    layer.build((None, None, 2))
    figure = plot_kernels(layer, 30, sampling_rate=10)
    (line,) = (v for v in figure.axes[2].lines if len(v.get_xdata()) == 30)
    np.testing.assert_allclose(line.get_xdata(), np.arange(30) / 10)
    np.testing.assert_array_equal(
        line.get_ydata(), visualize.conv_kernel(layer, 30)[:, 1]
    )
    assert figure.axes[-1].get_xlabel() == "frequency in Hz"
    recurrent = S5(state_dim=8, blocks=2)
    recurrent.build((None, None, 2))
    plane, scales = plot_spectrum(recurrent).axes
    found = visualize.spectrum(recurrent)
    np.testing.assert_array_equal(
        plane.lines[0].get_xdata(), found.eigenvalues.real
    )
    np.testing.assert_array_equal(
        scales.lines[0].get_ydata(), found.time_constants
    )


def test_a_notebook_shows_a_figure():
    png = plot_memory(scans(), row=1)._repr_png_()
    assert png.startswith(b"\x89PNG")


def test_without_matplotlib_the_error_says_what_to_install(monkeypatch):
    monkeypatch.delitem(
        sys.modules, "keras_ssm.visualize.picture", raising=False
    )
    monkeypatch.delattr(visualize, "picture", raising=False)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"pip install keras-ssm\[visualize"):
        plot_memory(scans(), row=1)


class Reader(html.parser.HTMLParser):
    """Finds the texts of tokens, with their strengths and numbers."""

    def __init__(self, page):
        super().__init__()
        self.words, self.paragraphs, self.tags = [], [], set()
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        if tag == "p":
            self.paragraphs.append([])
        if tag == "b":
            given = dict(attributes)
            strength = float(given["style"].removeprefix("--v:"))
            self.paragraphs[-1].append([strength, float(given["title"]), ""])

    def handle_data(self, text):
        if self.lasttag == "b":
            self.paragraphs[-1][-1][-1] += text.rstrip("\n")


WORDS = ["a", "b", "<p>", ">", "& ", " "]


@pytest.mark.parametrize("tokens", [BYTES, WORDS, ["1", *WORDS, "2"]])
def test_every_token_gets_its_colour_and_its_number(tokens):
    page = colored_text(scans(), tokens, measure="written", row=1).html
    found = Reader(page).paragraphs
    assert len(found) == 2
    for words, scan in zip(found, scans(), strict=True):
        strengths, numbers, texts = zip(*words, strict=True)
        if tokens is BYTES:
            expected, text = by_character(scan.written), list(TEXT)
        else:
            expected, text = scan.written[1, 1:-1], WORDS
        assert list(texts) == text
        np.testing.assert_allclose(numbers, expected, rtol=5e-3)
        expected = expected - expected.min()
        np.testing.assert_allclose(
            strengths, expected / expected.max(), atol=0.006
        )


def test_a_page_needs_nothing_else_and_appears_whole(tmp_path):
    view = colored_text(scans()[0], BYTES, row=1)
    assert view._repr_html_() == view.html
    view.save(tmp_path / "page.html")
    (path,) = tmp_path.iterdir()
    page = path.read_text(encoding="utf-8")
    assert view.html in page
    assert page.startswith("<!DOCTYPE html>")
    tags = Reader(page).tags
    assert not tags & {"script", "link", "img", "iframe", "first"}
    assert "http" not in page


@pytest.mark.parametrize("function", [colored_text, plot_memory])
def test_tokens_are_as_many_as_steps(function):
    with pytest.raises(
        ValueError, match="as the 8 steps.*as the 6.*Received: 5 tokens"
    ):
        function(scans(), list("abcde"), row=1)


def test_what_cannot_be_shown_is_an_error():
    with pytest.raises(ValueError, match="`measure` must be one of"):
        colored_text(scans(), BYTES, measure="loss", row=1)
    for function in (plot_memory, plot_attention, colored_text):
        with pytest.raises(ValueError, match="at least one `Scan`"):
            function([], BYTES)
