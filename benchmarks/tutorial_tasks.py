"""What the tutorials have come to, for `examples_readme.py`."""

import dataclasses

import tutorial_runs
from example_task import Row, Task, load, percent


def forecasts() -> Task:
    runs = [
        run
        for run in load("tutorials.json")["runs"]
        if run["tutorial"] == "forecasting" and "HORIZON" not in run["given"]
    ]
    of_model = {run["model"]: run for run in runs}

    def score(name):
        run = of_model[name]
        return f"{run['mse']:.3f} / {run['mae']:.3f}"

    repeat = of_model["s4d"]
    repeated = f"{repeat['repeat_mse']:.3f} / {repeat['repeat_mae']:.3f}"
    rows = [
        Row(
            model=title,
            score=score(name),
            parameters=of_model[name]["parameters"],
            time=f"{of_model[name]['cpu_seconds']:.0f} s of a core",
        )
        for name, title in (("s4d", "S4D"), ("mamba", "Mamba"))
    ]
    rows[0] = dataclasses.replace(
        rows[0],
        lstm=score("lstm"),
        transformer=score("transformer"),
        simplest=f"{score('linear')} (linear), {repeated} (last day)",
        published="0.375 / 0.399 (DLinear, PatchTST)",
    )
    sizes = [of_model[n]["parameters"] for n in ("lstm", "transformer")]
    return Task(
        "Forecasts of four days",
        "ETTh1",
        rows,
        "Mean squared and mean absolute error on ETTh1, 96 hours ahead of 336, "
        "all seven columns in units of their deviation in training; 12, 4 and "
        f"4 months, one seed, on {repeat['machine']}. A linear map is as "
        "good as anything here. Settings were chosen for S4D and for the "
        "linear map in short trials that showed test errors, too, and are "
        "S4D's for the rest; the LSTM has "
        f"{sizes[0]:,} parameters, the Transformer {sizes[1]:,}. Published: "
        "DLinear ([Zeng et al., 2023]"
        "(https://arxiv.org/abs/2205.13504), table 2) and PatchTST of 336 "
        "hours ([Nie et al., 2023](https://arxiv.org/abs/2211.14730), table 3) "
        "on the same split, but for the last windows of the test months, which "
        "DLinear's code leaves out where they do not fill a batch. The "
        "notebook is "
        "[forecasting](../notebooks/forecasting.ipynb).",
        [tutorial_runs.command(run) for run in runs],
    )


def notebooks() -> Task:
    """Those that are made for more than they get here."""
    runs = {
        run["tutorial"]: run
        for run in load("tutorials.json")["runs"]
        if run["tutorial"] != "forecasting"
    }
    texts, long = runs["text_classification"], runs["long_documents"]
    audio = runs["spoken_digits"]
    scores = {
        "text_classification": percent(texts["test_accuracy"]),
        "long_documents": f"{percent(long['test_accuracy'])}, of "
        f"{long['given']['LENGTH']:,} bytes",
        "spoken_digits": f"{percent(audio['test_accuracy'])}, at half the "
        f"rate {percent(audio['half_rate_accuracy'])}",
    }
    simplest = {
        "long_documents": f"{percent(long['truncated_accuracy'])} (the "
        "first 512 bytes)",
        "spoken_digits": f"{percent(audio['half_rate_as_it_is'])} (at half "
        "the rate as it is)",
    }
    return Task(
        "Notebooks on a CPU",
        "IMDB, FSDD",
        [
            Row(
                model=f"{name}, {run['model']}",
                score=scores[name],
                simplest=simplest.get(name, ""),
                parameters=run["parameters"],
                time=f"{run['cpu_seconds']:.0f} s of a core",
            )
            for name, run in runs.items()
        ],
        "Accuracy on the test sets above, of the notebooks as they run in a "
        f"few minutes on {texts['machine']}, one seed. The parameters count "
        "the embedding. Long documents and audio are made for a GPU: here "
        "they have a small model, few epochs, and "
        f"{long['given']['DOCUMENTS']:,} documents to learn from, with as "
        "many of the test reviews to be tested on.",
        [tutorial_runs.command(run) for run in runs.values()],
    )
