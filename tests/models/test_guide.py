"""The guide tells the truth."""

import pathlib
import re

import keras
import pytest
from harness import BACKEND, needs_gradients

from keras_ssm.models import HybridBackbone, jamba_config

GUIDE = pathlib.Path(__file__).parents[2] / "docs/guides/models.md"
TEXT = GUIDE.read_text()


# It compiles every model in it.
@needs_gradients
@pytest.mark.parametrize(
    "run",
    [pytest.param(exec, marks=() if BACKEND == "torch" else pytest.mark.slow)],
)
def test_its_python_runs(run, capsys):
    names = {}
    for block in re.findall(r"```python\n(.*?)```", TEXT, flags=re.DOTALL):
        run(block, names)
    assert capsys.readouterr().out.startswith("All work")
    assert len(names["results"]) == 2
    assert names["logits"].shape == (1, 256)


def test_its_links_point_somewhere():
    for link in re.findall(r"\]\(([^)]+)\)", TEXT):
        assert (GUIDE.parent / link).exists(), link


def test_its_table_of_bytes_is_computed():
    if BACKEND != "torch":
        pytest.skip("only PyTorch builds large models without their weights")
    with keras.device("meta"):
        model = HybridBackbone(**jamba_config(dtype="mixed_bfloat16"))
    rows = re.findall(r"^\| ([\d,]+) \|.*\| ([\d,]+) \| [\d,]+ \|$", TEXT, re.M)
    assert len(rows) == 3
    for length, mebibytes in rows:
        size = model.state_size_bytes(int(length.replace(",", "")))
        assert f"{size / 2**20:,.0f}" == mebibytes
