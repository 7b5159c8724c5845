"""The reference has every public name, and its examples run."""

import inspect
import pathlib
import re

import keras
import numpy as np
import pytest
import sybil
from harness import BACKEND, needs_gradients
from sybil.parsers.markdown import PythonCodeBlockParser

import keras_ssm

PACKAGES = (
    *(keras_ssm, keras_ssm.layers, keras_ssm.models, keras_ssm.ops),
    *(keras_ssm.optimizers, keras_ssm.visualize),
)
NAMES = {
    f"{package.__name__}.{name}": getattr(package, name)
    for package in PACKAGES
    for name in package.__all__
}
PAGES = pathlib.Path(__file__).parents[2] / "docs" / "reference"


def shown(page):
    """The public objects on a page, in its order, by their names."""
    names = re.findall(r"^::: ([\w.]+)$", page.read_text(), re.M)
    return {name: NAMES[name] for name in names if name in NAMES}


def examples(name, value):
    """The examples in the docstring of an object, and of its methods."""
    values = [value]
    if inspect.isclass(value):
        values += [v for k, v in vars(value).items() if not k.startswith("_")]
    for value in values:
        text = inspect.cleandoc(value.__doc__ or "")
        document = sybil.Document(text, name)
        for region in PythonCodeBlockParser()(document):
            document.add(region)
        yield from document.examples()


def test_every_public_name_is_on_a_page():
    found = [v for page in PAGES.glob("*.md") for v in shown(page).values()]
    for name, value in NAMES.items():
        if value not in PACKAGES:
            assert any(value is other for other in found), name


def marks(page):
    """PyTorch compiles nothing, TensorFlow exports without another process."""
    quick = "tensorflow" if page.stem == "serving" else "torch"
    return () if BACKEND == quick else pytest.mark.slow


# Those of a page share names, as its reader does: a step goes on from the
# example of its op.
@needs_gradients
@pytest.mark.parametrize(
    "page",
    [
        pytest.param(page, id=page.stem, marks=marks(page))
        for page in sorted(PAGES.glob("*.md"))
        if shown(page)
    ],
)
def test_its_examples_run(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    known = vars(keras_ssm.ops) | vars(keras_ssm.layers)
    namespace = {**known, "keras": keras, "keras_ssm": keras_ssm, "np": np}
    for name, value in shown(page).items():
        for example in examples(name, value):
            example.namespace = namespace
            example.evaluate()
