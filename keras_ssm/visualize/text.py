"""Text, coloured by what a model keeps of it: HTML without a library."""

import dataclasses
import html
import os
import pathlib

from keras_ssm.serving.files import written_whole
from keras_ssm.visualize.tokens import measured, rows_of, texts_of_steps

MEASURES = {
    "remembered": "what is left in the state behind the last step",
    "written": "what a token adds to the state",
    "step_size": "how far a token moves in time",
    "retention": "how much of the past a token keeps",
}
# A blue that all see, laid over whatever the background is: dark text on a
# light page and light text on a dark one stay readable.
STYLE = """
.keras-ssm { font: 15px/1.7 system-ui, sans-serif; max-width: 75ch }
.keras-ssm h4 { margin: 1em 0 .2em; font-size: 13px }
.keras-ssm small { font-weight: normal; opacity: .75 }
.keras-ssm p { margin: 0; white-space: pre-wrap; overflow-wrap: anywhere }
.keras-ssm b { font-weight: inherit; border-radius: 2px;
  background: rgba(0, 114, 178, calc(var(--v) * .65)) }
"""
PAGE = """<!DOCTYPE html>
<html lang="und">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title}</title>
<style>body {{ margin: 2em auto; padding: 0 1em; max-width: 75ch }}</style>
{body}
</html>
"""


@dataclasses.dataclass(frozen=True)
class ColoredText:
    """Text with colours, as notebooks show it and a browser opens it.

    Attributes:
        html: The text with its styles, to be put into any page.
    """

    html: str

    def _repr_html_(self) -> str:
        return self.html

    def save(self, path: str | os.PathLike) -> None:
        """Writes a page that needs no other file.

        Args:
            path: The file, which appears whole, or not at all.
        """
        path = pathlib.Path(path)
        page = PAGE.format(title=html.escape(path.stem), body=self.html)
        with written_whole(path) as folder:
            (folder / path.name).write_text(page, encoding="utf-8")


def colored_text(
    scans, tokens, *, measure: str = "remembered", row: int = 0
) -> ColoredText:
    """Colours tokens by what each layer keeps of them.

    One paragraph for each scan. The token with the greatest number is blue in
    it, that with the least has no colour, and each says its number where the
    mouse rests on it.

    Args:
        scans: What `record` returned, or some of it.
        tokens: The text of each step of the row, or of each unmasked one: a
            list of strings; or `bytes`, where these are the tokens.
        measure: `"remembered"`, `"written"`, `"step_size"` or `"retention"`,
            of `Scan`; of the last two the mean over channels.
        row: Row of the batch.

    Raises:
        ValueError: If there is no such measure, no scan, or tokens and steps
            differ in number.

    Example:

    ```python
    # `model` as in the example of `record`.
    review = "A film to remember.".encode()
    scans = keras_ssm.visualize.record(model, np.array([list(review)]))
    view = keras_ssm.visualize.colored_text(scans, review)
    view.save("review.html")
    view  # in a notebook
    ```
    """
    if measure not in MEASURES:
        raise ValueError(
            f"`colored_text`: `measure` must be one of {list(MEASURES)}. "
            f"Received: measure={measure!r}."
        )
    scans = rows_of("colored_text", scans, row)
    paragraphs = [_paragraph(scan, tokens, measure) for scan in scans]
    body = f'<div class="keras-ssm">\n<style>{STYLE}</style>\n'
    return ColoredText(body + "\n".join(paragraphs) + "\n</div>")


def _paragraph(scan, tokens, measure):
    texts, steps = texts_of_steps("colored_text", scan, tokens)
    values = measured(scan, measure, steps)
    least, most = (values.min(), values.max()) if texts else (0.0, 0.0)
    strengths = (values - least) / ((most - least) or 1)
    words = "".join(
        f'<b style="--v:{strength:.2f}" title="{value:.3g}">'
        f"{html.escape(text)}</b>"
        for text, strength, value in zip(texts, strengths, values, strict=True)
    )
    name = f"{html.escape(scan.layer)} <small>{MEASURES[measure]}"
    scale = f"{least:.3g} to {most:.3g}</small>"
    return f"<h4>{name}, {scale}</h4>\n<p>{words}</p>"
