"""What models get right of long texts becomes a record and a table."""

import json
import sys

import document_runs
import pytest

OPTIONS = {
    "train": "/somewhere/train.csv",
    "test": "/somewhere/test.csv",
    "output": "/else",
    "verbose": 2,
    "vocabulary": "byte",
    "no_tfidf": True,
    "id_column": "the id",
    "learning_rate": None,
}


def write(folder, accuracy, seed=0, length=256):
    folder.mkdir()
    results = {
        "model": "mamba",
        "backend": "torch",
        "parameters": {"inside": 1000, "outside": 234},
        "seconds": 59.7,
        "steps": 100,
        "validation_accuracy": 0.5,
        "test_accuracy": accuracy,
        "options": OPTIONS | {"seed": seed, "max_length": length},
    }
    (folder / "results.json").write_text(json.dumps(results))


@pytest.fixture
def collect(tmp_path, monkeypatch, capsys):
    """Runs the command; returns the record and what it printed."""
    record = tmp_path / "long_documents.json"
    monkeypatch.setattr(document_runs, "RECORD", record)

    def run(*folders, machine="one"):
        command = ["document_runs.py", *map(str, folders), "--machine", machine]
        monkeypatch.setattr(sys, "argv", command)
        document_runs.main()
        return json.loads(record.read_text()), capsys.readouterr().out

    return run


def test_seeds_share_a_line_and_repeated_runs_are_replaced(collect, tmp_path):
    write(tmp_path / "old", 0.3)
    write(tmp_path / "new", 0.7)
    write(tmp_path / "other", 0.8, seed=1)
    write(tmp_path / "long", 0.9, length=4096)
    collect(tmp_path / "old", tmp_path / "long")
    record, printed = collect(tmp_path / "new", tmp_path / "other")
    assert len(record["runs"]) == 3
    first, second = printed.splitlines()[2:]
    assert first == (
        "| mamba | 256 bytes | 70.00% and 80.00% | 2 | 100 | 60 | 1,234 | "
        "torch, one |"
    )
    assert second.startswith("| mamba | 4,096 bytes | 90.00% | 1 |")
    assert (tmp_path / "long_documents.png").exists()


def test_another_machine_has_lines_of_its_own(collect, tmp_path):
    write(tmp_path / "run", 0.7)
    collect(tmp_path / "run")
    record, printed = collect(tmp_path / "run", machine="two")
    assert len(record["runs"]) == 2
    assert len(printed.splitlines()) == 4


def test_the_command_repeats_the_run_without_its_places(collect, tmp_path):
    write(tmp_path / "run", 0.7)
    (run,) = collect(tmp_path / "run")[0]["runs"]
    assert run["command"] == (
        "python examples/text_classification.py --train train.csv.gz "
        "--test test.csv.gz --vocabulary byte --no-tfidf "
        "--id-column 'the id' --seed 0 --max-length 256"
    )
