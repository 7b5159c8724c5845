"""The tasks of recall are what they say, and the example learns one."""

import json

import keras
import numpy as np
import pytest
import recall
from memory import figure, tasks

if keras.config.backend() == "numpy":
    pytest.skip("numpy cannot train", allow_module_level=True)


def drawn(task, **sizes):
    """Tokens, targets and weights of a few rows, one row after the other."""
    random = np.random.default_rng(0)
    return zip(*task(random, 20, **sizes), strict=True)


def test_copying_asks_for_the_numbers_in_their_order():
    for tokens, targets, weights in drawn(tasks.copying, length=12, numbers=3):
        numbers = tokens[tokens < tasks.NUMBERS]
        assert (targets[weights == 1] == numbers).all() and len(numbers) == 3
        assert (tokens[weights == 1] == tasks.SIGN).all()
        assert (tokens[:12] == tasks.NOISE).sum() == 12 - 3


def test_induction_asks_for_what_followed_the_sign():
    for tokens, targets, weights in drawn(tasks.induction, length=9):
        first, last = np.flatnonzero(tokens == tasks.SIGN)
        assert last == 8 and weights.tolist() == [0] * 8 + [1]
        assert targets[8] == tokens[first + 1] < tasks.NUMBERS


def test_association_asks_for_the_value_of_each_key():
    for tokens, targets, weights in drawn(tasks.association, pairs=5):
        value_of = dict(zip(tokens[:10:2], tokens[1:10:2], strict=True))
        assert len(value_of) == 5
        assert (np.sort(tokens[10:]) == np.sort(tokens[:10:2])).all()
        assert [value_of[key] for key in tokens[10:]] == targets[10:].tolist()
        assert weights.tolist() == [0] * 10 + [1] * 5


SMALL = (
    "--width 16 --steps 300 --length 16 --test-lengths 16 32 --verbose 0 "
    "--learning-rate 0.01 --batch-size 32 --enough 0.9"
).split()


def test_it_learns_tests_and_draws(tmp_path, capsys):
    arguments = ["--task", "induction", "--model", "hybrid"]
    arguments += ["--output", str(tmp_path), *SMALL]
    assert recall.main(arguments) == 0
    name = "induction_hybrid_16_seed0.json"
    results = json.loads((tmp_path / name).read_text())
    assert results["accuracy"] > 0.5  # of 14 numbers
    assert list(results["by_length"]) == ["16", "32"]
    assert results["steps"] == 100 * len(results["history"]) <= 300
    assert (tmp_path / "results.png").read_bytes().startswith(b"\x89PNG")
    assert figure.table([results]) in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--length", "15"], "--length must be at least 16"),
        (["--pairs", "300"], "--pairs must be between 1 and 256"),
    ],
)
def test_sizes_that_no_task_can_have(arguments, message, capsys):
    assert recall.main(arguments) == 2
    assert message in capsys.readouterr().err
