"""The guide's table tells the truth; tests/docs/ run its code."""

import pathlib
import re

import keras
import pytest
from harness import BACKEND

from keras_ssm.models import HybridBackbone, jamba_config

GUIDE = pathlib.Path(__file__).parents[2] / "docs/guides/models.md"
TEXT = GUIDE.read_text()


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
