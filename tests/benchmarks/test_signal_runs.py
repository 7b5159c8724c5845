"""What the examples on signals have learned becomes one record."""

import json
import sys

import pytest
import signal_runs

HISTORY = {"val_accuracy": [0.5, 0.75], "seconds": [60.0, 120.0]}
OPTIONS = {"data": "/somewhere", "output": "/else", "verbose": 2, "width": 8}


def write(folder, layer, accuracy, **more):
    folder.mkdir(parents=True)
    results = dict(layer=layer, backend="torch", test_accuracy=accuracy)
    results |= dict(parameters=1234, seconds=119.6, history=HISTORY)
    results |= dict(options=OPTIONS, **more)
    (folder / "results.json").write_text(json.dumps(results))


@pytest.fixture
def collect(tmp_path, monkeypatch, capsys):
    """Runs the command; returns the record and what it printed."""
    record = tmp_path / "results" / "signals.json"
    record.parent.mkdir()
    monkeypatch.setattr(signal_runs, "RECORD", record)

    def run(*folders):
        command = ["signal_runs.py", *map(str, folders), "--machine", "a core"]
        monkeypatch.setattr(sys, "argv", command)
        signal_runs.main()
        return json.loads(record.read_text()), capsys.readouterr().out

    return run


def test_runs_are_added_and_take_the_place_of_earlier_ones(collect, tmp_path):
    write(tmp_path / "old", "s4d", 0.9)
    write(tmp_path / "new", "s4d", 0.98765)
    write(tmp_path / "lstm", "lstm", 0.5)
    collect(tmp_path / "old", tmp_path / "lstm")
    record, printed = collect(tmp_path / "new")
    assert [run["test_accuracy"] for run in record["runs"]] == [0.5, 0.98765]
    assert printed.index("| s4d | 98.77%") < printed.index("| lstm | 50.00%")
    assert record["runs"][0]["options"] == {"width": 8}
    picture = signal_runs.RECORD.with_suffix(".png").read_bytes()
    assert picture.startswith(b"\x89PNG")


def test_speakers_in_turn_count_as_one_run(collect, tmp_path):
    for speaker, accuracy in (("ada", 0.5), ("bob", 0.7)):
        write(
            tmp_path / "all" / speaker,
            "s5",
            accuracy,
            split=speaker,
            half_rate_accuracy=accuracy - 0.1,
        )
    record, printed = collect(tmp_path / "all")
    (run,) = record["runs"]
    assert run["example"] == "raw_audio"
    assert run["test_accuracy"] == pytest.approx(0.6)
    assert run["speakers"] == {"ada": 0.5, "bob": 0.7}
    assert "| each speaker in turn | s5 | 60.00% | 50.00% |" in printed
