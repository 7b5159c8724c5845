"""The one module that imports matplotlib; functions that draw import it."""

import io

from matplotlib.colors import PowerNorm  # noqa: TID251 - here
from matplotlib.figure import Figure  # noqa: TID251 - here


class Root(PowerNorm):
    """Colours by the square root of numbers, of which most are small."""

    def __init__(self):
        super().__init__(0.5)


class Picture(Figure):
    """A figure that notebooks show, whether they know matplotlib or not."""

    def _repr_png_(self) -> bytes:
        file = io.BytesIO()
        self.savefig(file, format="png")
        return file.getvalue()
