"""The tutorials run, each on one backend, and the notebooks are theirs."""

import json

import keras
import make_notebooks
import numpy as np
import pandas as pd
import pytest
import run_tutorial
from harness import BACKEND

if BACKEND == "numpy":
    pytest.skip("numpy cannot train", allow_module_level=True)


def run(folder, name, *parameters):
    """Returns what a tutorial has found, without the data it is made for."""
    if BACKEND != RUNS_ON[name]:
        pytest.skip(f"runs on {RUNS_ON[name]}")
    arguments = [name, *parameters, "--output", str(folder)]
    assert run_tutorial.main(arguments) == 0
    pictures = sorted(folder.glob("figure_*.png"))
    assert len(pictures) >= 2
    assert all(p.read_bytes().startswith(b"\x89PNG") for p in pictures)
    model = keras.saving.load_model(next(folder.glob("*.keras")), compile=False)
    results = json.loads((folder / "results.json").read_text())
    assert model.count_params() == results["parameters"]
    return results


RUNS_ON = {
    "forecasting": "tensorflow",
    "text_classification": "jax",
    "long_documents": "torch",
    "spoken_digits": "torch",
}


def test_forecasting(tmp_path):
    hours = np.arange(20 * 30 * 24)
    noise = np.random.default_rng(0).normal(0, 0.3, (2, len(hours)))
    table = pd.DataFrame({"date": hours, "load": 9 + np.sin(hours) + noise[0]})
    days = np.sin(2 * np.pi * hours / 24)
    table.assign(OT=5 * days + noise[1]).to_csv(tmp_path / "t.csv", index=False)
    results = run(
        *(tmp_path, "forecasting", "HISTORY=48", "HORIZON=30", "WIDTH=16"),
        *("DEPTH=1", "STATE_DIM=8", "BATCH_SIZE=128", "EPOCHS=1"),
        *("DROPOUT=0", f"DATA={tmp_path / 't.csv'}"),
    )
    assert results["mse"] < results["repeat_mse"]
    forecast = pd.read_csv(tmp_path / "forecast.csv")
    assert list(forecast) == ["hour", "load", "OT"] and len(forecast) == 30
    assert abs(forecast["load"] - 9).max() < 3  # in its own units
    assert (tmp_path / "kernels.png").exists()


def reviews(path, count):
    """Writes rows whose label is told by one word; returns the labels."""
    labels = np.arange(count) % 2
    words = np.array(["dreadful", "wonderful"])[labels]
    texts = [f"A {word} film, number {n}!" for n, word in enumerate(words)]
    table = pd.DataFrame({"id": np.arange(count) + 100, "text": texts})
    table.assign(target=labels).to_csv(path, index=False)
    return labels


def test_text_classification(tmp_path):
    reviews(tmp_path / "train.csv", 160)
    labels = reviews(tmp_path / "test.csv", 48)
    results = run(
        *(tmp_path, "text_classification", "EPOCHS=6", "MAX_LENGTH=16"),
        *("WIDTH=16", "BATCH_SIZE=16", "DROPOUT=0", "LEARNING_RATE=0.02"),
        f"TRAIN={tmp_path / 'train.csv'}",
        f"TEST={tmp_path / 'test.csv'}",
    )
    submission = pd.read_csv(tmp_path / "submission.csv")
    assert list(submission) == ["id", "target"]
    assert list(submission["id"]) == list(range(100, 148))
    right = np.mean(submission["target"] == labels)
    assert right == results["test_accuracy"] >= 0.9
    assert "<b style=" in (tmp_path / "memory.html").read_text()


def test_long_documents(tmp_path):
    results = run(
        *(tmp_path, "long_documents", "DOCUMENTS=60", "EPOCHS=1"),
        *("LENGTH=256", "TRUNCATED=64", "WIDTH=8", "DEPTH=1"),
    )
    for name in ("test_accuracy", "truncated_accuracy"):
        assert (60 * results[name]) % 1 == pytest.approx(0, abs=1e-6)


def test_spoken_digits(tmp_path):
    results = run(
        *(tmp_path, "spoken_digits", "LENGTH=2048", "WIDTH=16", "DEPTH=1"),
        *("STATE_DIM=16", "LEARNING_RATE=0.02", "EPOCHS=6", "DROPOUT=0.0"),
    )
    assert results["test_accuracy"] > 0.3  # of ten tones
    halved = results["half_rate_accuracy"]
    assert halved > results["half_rate_as_it_is"]
    assert (tmp_path / "kernels.png").exists()


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("SIZE=3", "no parameter 'SIZE'. It has: DATA, MODEL, HISTORY"),
        ("EPOCHS=2.5", "EPOCHS must be of the type int, as 5 is"),
        ("DROPOUT=much", "DROPOUT must be of the type float"),
    ],
)
def test_parameters_that_it_does_not_have(assignment, message, capsys):
    assert run_tutorial.main(["forecasting", assignment]) == 2
    assert message in capsys.readouterr().err


def test_a_file_is_found_from_the_folder_it_runs_in(tmp_path, monkeypatch):
    (tmp_path / "table.csv").write_text("")
    monkeypatch.chdir(tmp_path)
    source = '# %% tags=["parameters"]\nDATA = "x"\nRATE = 0.1\n# %%\n'
    given = ["DATA=table.csv", "RATE=1"]
    found = run_tutorial.read_parameters(source, given)
    assert found == {"DATA": str(tmp_path / "table.csv"), "RATE": 1.0}
    lines = run_tutorial.inject(source, found).splitlines()
    assert lines[-2:] == ["RATE = 1.0", "# %%"]


@pytest.mark.skipif(BACKEND != "torch", reason="once is enough")
def test_notebooks_are_what_their_scripts_give():
    assert make_notebooks.out_of_date() == []
    for script in make_notebooks.SCRIPTS:
        cells = json.loads(make_notebooks.render(script))["cells"]
        sources = ["".join(cell["source"]) for cell in cells]
        assert "KERAS_BACKEND" in sources[1]
        assert "\n!pip install -q keras-ssm" in sources[1]
        tagged = [c for c in cells if "tags" in c["metadata"]]
        assert [c["metadata"]["tags"] for c in tagged] == [["parameters"]]
        ids = [cell["id"] for cell in cells]
        assert len(set(ids)) == len(ids)
