"""The layering of the package is a lint error, and the tree is clean."""

import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]


def ruff(*arguments, source=""):
    return subprocess.run(
        [sys.executable, "-m", "ruff", *arguments],
        cwd=ROOT,
        input=source,
        capture_output=True,
        text=True,
    )


def lint(path, source):
    return ruff("check", "--stdin-filename", path, "-", source=source).stdout


@pytest.mark.parametrize(
    ("floor", "source"),
    [
        ("models", "import torch"),
        ("models", "from keras_ssm.kernels import border"),
        ("models", "from keras_ssm.serving import Stream"),
        ("serving", "import tensorflow"),
        ("serving/formats", "import torch"),
        ("serving/formats", "from keras_ssm.kernels import border"),
        ("visualize", "import torch"),
        ("visualize", "from keras_ssm.kernels import border"),
        ("visualize", "import matplotlib.pyplot as plt"),
        ("serving", "from keras_ssm.visualize import record"),
        ("serving/formats", "from keras_ssm.visualize import record"),
        ("models", "from keras_ssm.visualize import record"),
        ("layers", "from keras_ssm.visualize import record"),
        ("ops", "from keras_ssm.visualize import record"),
        ("kernels", "from keras_ssm.visualize import record"),
        ("layers", "from keras_ssm.serving import Stream"),
        ("ops", "from keras_ssm.serving import Stream"),
        ("kernels", "from keras_ssm.serving import Stream"),
        ("layers", "import jax"),
        ("layers", "import jax.numpy as jnp"),
        ("layers", "from tensorflow import function"),
        ("layers", "import keras_ssm.kernels.border"),
        ("layers", "from keras_ssm.models import backbone"),
        ("ops", "import torch"),
        ("ops", "import triton"),
        ("ops", "import numba"),
        ("ops", "import tensorflow as tf"),
        ("ops", "from keras_ssm.kernels import border"),
        ("ops", "from keras_ssm.layers import Mamba"),
        ("ops", "from keras_ssm.models import backbone"),
        ("kernels", "from keras_ssm.ops import dispatch"),
        ("kernels", "import keras_ssm.ops.dispatch"),
        ("kernels", "from keras_ssm.layers import Mamba"),
        *(
            (floor, f"{statement} keras.src{rest}")
            for floor in (
                *("visualize", "serving", "models"),
                *("layers", "ops", "kernels"),
            )
            for statement, rest in (
                ("import", ""),
                ("import", ".backend"),
                ("from", " import backend"),
                ("from", ".backend import config"),
            )
        ),
    ],
)
def test_an_import_against_the_layering_is_reported(floor, source):
    assert "TID251" in lint(f"keras_ssm/{floor}/x.py", f"{source}\n")


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("keras_ssm/layers/x.py", "from keras_ssm.ops import selective_scan"),
        ("keras_ssm/models/x.py", "from keras_ssm.layers import Mamba"),
        (
            "keras_ssm/models/x.py",
            "from keras_ssm.ops.dispatch import compiled",
        ),
        ("keras_ssm/serving/x.py", "from keras_ssm.layers import Mamba"),
        ("keras_ssm/serving/x.py", "from keras_ssm.models import CausalLM"),
        ("keras_ssm/visualize/x.py", "from keras_ssm.serving import files"),
        ("keras_ssm/serving/formats/x.py", "import tensorflow"),
        ("keras_ssm/kernels/lax/x.py", "import jax"),
        ("keras_ssm/kernels/torch/x.py", "import torch"),
        ("keras_ssm/kernels/lax/x.py", "from keras_ssm.kernels import border"),
        ("keras_ssm/ops/x.py", "from keras_ssm.ops.shapes import check_shapes"),
        ("keras_ssm/ops/x.py", "import keras"),
    ],
)
def test_an_import_along_the_layering_is_not(path, source):
    assert "TID251" not in lint(path, f"{source}\n")


def test_only_dispatch_loads_modules_by_name():
    package = ROOT / "keras_ssm"
    found = {
        str(path.relative_to(package))
        for path in package.rglob("*.py")
        if "importlib" in path.read_text() or "__import__" in path.read_text()
    }
    assert found == {"ops/dispatch.py", "serving/formats/packages.py"}


def test_the_tree_is_linted():
    result = ruff("check")
    assert result.returncode == 0, result.stdout


def test_the_tree_is_formatted():
    result = ruff("format", "--check")
    assert result.returncode == 0, result.stdout
