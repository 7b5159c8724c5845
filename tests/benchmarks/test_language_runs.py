"""What language models have learned becomes one record and a table."""

import json
import sys

import language_runs
import pytest

OPTIONS = {"data": "/somewhere", "output": "/else", "seconds": 60.0}


def write(folder, pattern, bits, seed=0, feed_forward=0):
    folder.mkdir()
    options = OPTIONS | dict(seed=seed, feed_forward=feed_forward)
    results = dict(pattern=pattern, backend="torch", parameters=1234)
    results |= dict(bits_per_byte=bits, options=options)
    (folder / "results.json").write_text(json.dumps(results))


@pytest.fixture
def collect(tmp_path, monkeypatch, capsys):
    """Runs the command; returns the record and what it printed."""
    record = tmp_path / "language.json"
    monkeypatch.setattr(language_runs, "RECORD", record)

    def run(*folders):
        command = ["language_runs.py", *map(str, folders), "--machine", "one"]
        monkeypatch.setattr(sys, "argv", command)
        language_runs.main()
        return json.loads(record.read_text()), capsys.readouterr().out

    return run


def test_seeds_are_averaged_and_repeated_runs_replaced(collect, tmp_path):
    write(tmp_path / "old", ["mamba"], 3.0)
    write(tmp_path / "new", ["mamba"], 2.0)
    write(tmp_path / "other", ["mamba"], 2.5, seed=1)
    write(tmp_path / "attention", ["attention"] * 2, 2.2, feed_forward=8)
    collect(tmp_path / "old", tmp_path / "attention")
    record, printed = collect(tmp_path / "new", tmp_path / "other")
    assert len(record["runs"]) == 3
    assert record["runs"][0]["options"] == {"seconds": 60.0, "feed_forward": 8}
    first, second = printed.splitlines()[2:]
    assert first.startswith(
        "| attention, attention, each with a gated MLP of 8 | 1,234 | 2.200"
    )
    assert second.startswith("| mamba | 1,234 | 2.250 ± 0.250 | 2 | 60 |")
