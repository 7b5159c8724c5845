"""README tells the truth."""

import pathlib
import re
import subprocess
import sys

import keras
import numpy as np
import pytest

ROOT = pathlib.Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def test_matrix_and_figures_are_those_of_the_code_and_the_results():
    subprocess.run(
        [sys.executable, ROOT / "benchmarks" / "readme.py", "--check"],
        check=True,
    )


@pytest.mark.skipif(
    keras.config.backend() == "numpy", reason="numpy cannot train"
)
def test_the_python_in_it_runs():
    (block,) = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    names = {}
    exec(block, names)
    tokens = np.random.default_rng(0).integers(0, 256, (4, 12))
    history = names["model"].fit(tokens, tokens[:, 0] % 2, verbose=0)
    assert np.isfinite(history.history["loss"][0])


def test_its_links_point_somewhere():
    for link in re.findall(r"\]\(([^)]+)\)", README):
        assert (ROOT / link).exists(), link


def test_make_commands_in_it_exist():
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"^make (\w+)", README, flags=re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), target
