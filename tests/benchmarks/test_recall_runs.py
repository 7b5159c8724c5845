"""What `recall.py` has found becomes one record and two tables."""

import json
import sys

import recall_runs


def run(model, task, accuracy, **others):
    defaults = dict(width=16, pairs=0, length=256, learning_rate=1e-3, seed=0)
    of_task = {}
    if task == "induction":
        lengths = ("256", "4096", "16384")
        of_task["by_length"] = dict(zip(lengths, (1, 1, accuracy), strict=True))
    return {
        **dict(task=task, model=model, accuracy=accuracy, parameters=1234),
        **dict(steps=200, history=[0.1, accuracy]),
        **{**defaults, **of_task, **others},
    }


def test_the_best_run_of_each_question_is_shown(tmp_path, monkeypatch, capsys):
    runs = [
        run("mamba", "copying", 0.5),
        run("mamba", "induction", 0.25, seed=1),
        run("mamba", "induction", 0.75),
        run("hybrid", "association", 0.125, pairs=8),
        run("hybrid", "association", 0.875, pairs=8, learning_rate=2e-3),
        run("hybrid", "association", 1.0, pairs=16),
    ]
    for number, found in enumerate(runs):
        (tmp_path / f"{number}.json").write_text(json.dumps(found))
    record = tmp_path / "results" / "recall.json"
    record.parent.mkdir()
    monkeypatch.setattr(recall_runs, "RECORD", record)
    given = ["recall_runs.py", str(tmp_path), "--machine", "a machine"]
    for _ in range(2):  # the second time nothing is new
        monkeypatch.setattr(sys, "argv", given)
        recall_runs.main()
    kept = json.loads(record.read_text())["runs"]
    assert len(kept) == len(runs)
    assert {found["machine"] for found in kept} == {"a machine"}
    assert record.with_suffix(".png").exists()
    out = capsys.readouterr().out
    assert "| mamba | 1,234 | 50.00% | 100.00% | 100.00% | 75.00% |" in out
    assert "| hybrid | 16 | 87.50% | 100.00% |" in out
