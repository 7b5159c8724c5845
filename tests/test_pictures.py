"""The pictures of the documentation are what their scripts draw."""

import pathlib
import runpy
import sys
import xml.etree.ElementTree as ET

import pytest
from harness import BACKEND

FOLDER = pathlib.Path(__file__).parents[1] / "docs" / "pictures"


# It is the same on every backend, but for rounding.
@pytest.mark.parametrize(
    "run",
    [
        pytest.param(
            runpy.run_path,
            marks=() if BACKEND == "torch" else pytest.mark.slow,
        )
    ],
)
def test_scripts_draw_the_pictures_that_are_there(run, tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    monkeypatch.syspath_prepend(FOLDER)
    for script in sorted(FOLDER.glob("*.py")):
        monkeypatch.setattr(sys, "argv", [script.name, f"--folder={tmp_path}"])
        run(str(script), run_name="__main__")
    drawn = {path.name for path in tmp_path.iterdir()}
    assert drawn == {path.name for path in FOLDER.glob("*.svg")}
    for name in drawn:
        assert outline(tmp_path / name) == outline(FOLDER / name), name


def outline(path):
    """The size of a picture, and what it is made of, but not where it lies."""
    root = ET.parse(path).getroot()
    return root.get("viewBox"), [element.tag for element in root.iter()]
