"""The reference has every public name, and its examples run."""

import pathlib
import re

import keras_ssm

PACKAGES = (
    *(keras_ssm, keras_ssm.layers, keras_ssm.models, keras_ssm.ops),
    *(keras_ssm.optimizers, keras_ssm.visualize),
)
PAGES = pathlib.Path(__file__).parents[2] / "docs" / "reference"


def public_names():
    """Of every public object one path or two: `keras_ssm.ops.ssd`."""
    return {
        f"{package.__name__}.{name}": getattr(package, name)
        for package in PACKAGES
        for name in package.__all__
    }


def documented():
    pages = "".join(path.read_text() for path in PAGES.glob("*.md"))
    return set(re.findall(r"^::: ([\w.]+)$", pages, re.M))


def test_every_public_name_is_on_a_page():
    names = public_names()
    shown = [names[name] for name in documented() & names.keys()]
    for name, value in names.items():
        if value not in PACKAGES:
            assert any(value is other for other in shown), name
