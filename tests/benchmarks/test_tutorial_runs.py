"""What tutorials have found becomes a record, a table and a page."""

import json
import re
import shlex
import sys

import example_tasks
import examples_readme
import pytest
import tutorial_runs
from example_task import anchor, over_seeds


def write(folder, mse, **given):
    folder.mkdir()
    results = {
        "tutorial": "forecasting",
        "given": {"DATA": "/somewhere/ETTh1.csv", **given},
        "backend": "torch",
        "model": given.get("MODEL", "s4d"),
        "parameters": 1234,
        "mse": mse,
        "cpu_seconds": 60.0,
    }
    (folder / "results.json").write_text(json.dumps(results))
    return folder


def test_runs_replace_earlier_ones_and_name_no_place(
    tmp_path, monkeypatch, capsys
):
    record = tmp_path / "tutorials.json"
    monkeypatch.setattr(tutorial_runs, "RECORD", record)
    folders = [
        write(tmp_path / "a", 0.5),
        write(tmp_path / "b", 0.4, MODEL="mamba"),
        write(tmp_path / "c", 0.3),
    ]
    command = ["tutorial_runs.py", *map(str, folders), "--machine", "one"]
    monkeypatch.setattr(sys, "argv", command)
    tutorial_runs.main()
    runs = json.loads(record.read_text())["runs"]
    assert sorted(run["mse"] for run in runs) == [0.3, 0.4]
    assert "somewhere" not in record.read_text()
    assert {tutorial_runs.command(run) for run in runs} == {
        "KERAS_BACKEND=torch python examples/run_tutorial.py forecasting "
        f"DATA=ETTh1.csv{more}"
        for more in ("", " MODEL=mamba")
    }
    assert "| forecasting | mamba | 1,234 | 0.4000 | 60 |" in (
        capsys.readouterr().out
    )


def test_the_page_of_examples_is_up_to_date():
    text = examples_readme.PAGE.read_text("utf-8")
    assert examples_readme.render(text) == text


@pytest.mark.parametrize("make", example_tasks.TASKS)
def test_rows_fit_the_table_and_commands_run_what_is_there(make):
    task = make()
    bars = {line.count("|") for line in task.lines()}
    assert bars == {len(examples_readme.HEADINGS) + 1}
    for command in task.commands:
        words = [w for w in shlex.split(command) if "=" not in w]
        assert words[0] == "python"
        assert (examples_readme.PAGE.parents[1] / words[1]).exists()


def test_links_lead_to_sections():
    text = examples_readme.PAGE.read_text("utf-8")
    titles = re.findall(r"^### (.*)$", text, re.MULTILINE)
    assert anchor("Texts, byte by byte") == "texts-byte-by-byte"
    assert re.findall(r"\]\(#(.*?)\)", text) == list(map(anchor, titles))


def test_commands_that_differ_in_seeds_are_a_loop():
    commands = [f"python a.py --seed {n} --x 1" for n in (0, 2)]
    assert over_seeds([*commands, "python b.py --seed 1"]) == [
        "for seed in 0 2; do python a.py --seed $seed --x 1; done",
        "python b.py --seed 1",
    ]
