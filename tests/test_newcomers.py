"""What a newcomer reads after a mistake is what the guide says."""

import pathlib
import re

import keras
import pytest

import keras_ssm

ROOT = pathlib.Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "guides" / "errors.md").read_text()
SETUP = re.search(r"```python\n(.*?)```", PAGE, re.S)[1]
# Code, and what it raises.
MISTAKES = re.findall(r"```py\n(.*?)```\n\n```text\n(.*?)```", PAGE, re.S)


@pytest.mark.parametrize(
    ("code", "sentence"), MISTAKES, ids=range(len(MISTAKES))
)
def test_a_mistake_raises_the_sentence_of_the_guide(code, sentence):
    # Names of layers are counted.
    keras.utils.clear_session(free_memory=False)
    names = {}
    exec(SETUP, names)
    with pytest.raises((TypeError, ValueError)) as found:
        exec(code, names)
    assert raised(found) == " ".join(sentence.split())


def raised(found):
    """The type and the sentence, without what Keras writes around it."""
    text = str(found.value)
    inside = re.search(r"\x1b\[1m(.*?)\x1b\[0m", text, re.S)
    text = inside[1] if inside else text
    return f"{found.type.__name__}: {' '.join(text.split())}"


def test_every_mistake_of_the_guide_is_made():
    assert len(MISTAKES) == PAGE.count("```py\n") > 10


def test_a_file_is_not_loaded_before_the_import(tmp_path, monkeypatch):
    layer = keras_ssm.layers.MambaBlock(state_dim=2)
    keras.Sequential([keras.Input((3, 2)), layer]).save(tmp_path / "m.keras")
    registered = keras.saving.get_custom_objects()
    for name in [name for name in registered if "keras_ssm" in name]:
        monkeypatch.delitem(registered, name)
    with pytest.raises(TypeError) as found:
        keras.saving.load_model(tmp_path / "m.keras")
    quoted = re.search(r"TypeError: (Could not locate.*?)```", PAGE, re.S)[1]
    assert " ".join(quoted.split()) in " ".join(str(found.value).split())


def test_arguments_that_a_class_has_may_be_positional():
    class Own(keras_ssm.layers.Mamba):
        def __init__(self, units, **kwargs):
            super().__init__(**kwargs)
            self.units = units

    assert Own(5).units == Own(units=5).units == 5
    with pytest.raises(TypeError, match=r"but `units` .*Own\(5, 6\)"):
        Own(5, 6)


@pytest.mark.parametrize(
    ("shape", "mask", "end"),
    [
        ((2, 5, 9), None, r"Received: input shape \(2, 5, 9\)\."),
        ((2, 5, 8), (2, 4), r"Received: a mask of shape \(2, 4\)\."),
        ((2, 5, 8), (5,), r"Received: a mask of shape \(5,\)\."),
    ],
)
def test_hints_are_given_where_they_fit_alone(shape, mask, end):
    layer = keras_ssm.layers.MambaBlock()
    layer.build((None, None, 8))
    mask = None if mask is None else keras.ops.ones(mask, "bool")
    with pytest.raises(ValueError) as found:
        layer(keras.ops.ones(shape), mask=mask)
    assert re.search(f"{end}$", raised(found))
