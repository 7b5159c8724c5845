"""The example learns a text that repeats itself, and writes it."""

import json

import keras
import language_model
import numpy as np
import pytest

if keras.config.backend() == "numpy":
    pytest.skip("numpy cannot train", allow_module_level=True)

SENTENCE = "abcdefgh"
SMALL = (
    "--width 16 --length 16 --steps 100 --seconds 0 --batch-size 8 "
    "--learning-rate 0.02 --sample 24 --verbose 0"
).split()


def test_it_learns_writes_and_saves(tmp_path, capsys):
    text, output = tmp_path / "text.txt", tmp_path / "output"
    text.write_text(SENTENCE * 100)
    arguments = ["--data", str(text), "--output", str(output)]
    arguments += ["--pattern", "mamba", "attention", "--prompt", "cde"]
    assert language_model.main([*arguments, *SMALL]) == 0
    results = json.loads((output / "results.json").read_text())
    assert results["bits_per_byte"] < 0.5  # 3 without a context
    sample = (output / "sample.txt").read_text()
    assert len(sample) == 3 + 24 and sample.startswith("cde")
    assert sample in capsys.readouterr().out
    assert np.mean([a in SENTENCE for a in sample]) > 0.9
    model = keras.saving.load_model(output / "model.keras", compile=False)
    assert model.count_params() == results["parameters"]


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "cannot be read"), ("too short", "shorten `--length`")],
)
def test_files_that_will_not_do(tmp_path, content, message, capsys):
    path = tmp_path / "text.txt"
    if content is not None:
        path.write_text(content)
    arguments = ["--data", str(path), "--output", str(tmp_path / "output")]
    assert language_model.main([*arguments, *SMALL]) == 2
    assert message in capsys.readouterr().err


def test_nothing_to_begin_with(tmp_path, capsys):
    arguments = ["--prompt", "", "--output", str(tmp_path)]
    assert language_model.main(arguments) == 2
    assert "--prompt must have" in capsys.readouterr().err
