"""What the examples have come to, task by task, for `examples_readme.py`."""

import dataclasses
import math
import statistics

import recall_runs
import tutorial_tasks
from example_task import Row, Task, flags, load, percent, program


def texts() -> Task:
    record = load("text_classification.json")
    setting, machine = record["setting"], record["machine"]
    of_model = {row["model"]: row for row in record["summary"]}

    def score(name):
        row = of_model[name]
        return f"{percent(row['mean'])} ± {100 * row['deviation']:.2f}"

    mamba = of_model["mamba"]
    return Task(
        "Texts, word by word",
        "IMDB",
        [
            Row(
                model="Mamba",
                score=score("mamba"),
                lstm=score("lstm"),
                transformer=score("transformer"),
                simplest=f"{score('tfidf')} (TF-IDF)",
                published="91.22% (NBSVM)",
                parameters=mamba["parameters"],
                time=f"{mamba['seconds']:.0f} s",
            )
        ],
        "Accuracy on the 25,000 test reviews of IMDB, of which the first and "
        "last words are read, 256 at most; mean and standard deviation over "
        f"{len(setting['seeds'])} seeds. Every network has "
        f"{setting['seconds']:.0f} seconds on {machine['cores']} cores of an "
        f"{machine['processor']}, and about as many "
        "parameters beside the embedding. Word counts win, and they win in the "
        "literature: NBSVM is that of [Wang and Manning, 2012]"
        "(https://aclanthology.org/P12-2018), on the same split "
        "([their code](https://github.com/sidaw/nbsvm) prints it). "
        "[text_classification.py](text_classification.py) is the example.",
        [
            "python benchmarks/text_classification.py "
            + flags({k: setting[k] for k in ("train", "test", "backend")})
            + f" --seconds {setting['seconds']:.0f} --seeds "
            + " ".join(map(str, setting["seeds"]))
        ],
    )


def documents() -> Task:
    runs = load("long_documents.json")["runs"]
    groups = {}
    for run in runs:
        if run["vocabulary"] == "byte":
            key = run["length"], run["machine"], run["model"]
            groups.setdefault(key, []).append(run)

    def score(*key):
        same = [run["test_accuracy"] for run in groups.get(key, [])]
        mean = same and percent(statistics.fmean(same))
        return f"{mean} ({_seeds(same)})" if same else ""

    rows = []
    for length, machine, model in sorted(groups):
        if model != "mamba":
            continue
        run = groups[length, machine, model][0]
        published = "64.27% (Transformer), 86.82% (S4)"
        rows.append(
            Row(
                model=f"Mamba, {length:,} bytes",
                score=score(length, machine, model),
                lstm=score(length, machine, "lstm"),
                transformer=score(length, machine, "transformer"),
                published=published if length == 4096 else "",
                parameters=run["parameters"]["outside"],
                time=f"{run['seconds'] / 60:.1f} min, {run['steps']:,} steps, "
                f"{machine}",
            )
        )
    return Task(
        "Texts, byte by byte",
        "IMDB",
        rows,
        "Accuracy on the 25,000 test reviews of IMDB, of which so many bytes "
        "are read, a quarter of them from the beginning and the rest from the "
        "end; mean over seeds. Most of what reading on brings is there at "
        "1,024 bytes: seeds differ by as much as more of them add. "
        "Published, for the first 4,096 bytes, on the same split: a "
        "Transformer in the [Long Range Arena]"
        "(https://arxiv.org/abs/2011.04006), table 1, and S4 with HiPPO-LegS "
        "([Gu et al., 2022](https://arxiv.org/abs/2206.11893)), trained far "
        "longer. The notebook is "
        "[long_documents](../notebooks/long_documents.ipynb).",
        [
            f"KERAS_BACKEND={run['backend']} {run['command']}"
            for run in runs
            if run["vocabulary"] == "byte"
        ],
    )


def _seeds(values) -> str:
    return "one seed" if len(values) == 1 else f"{len(values)} seeds"


def _signals(example: str, split: str) -> list[dict]:
    runs = [
        run
        for run in load("signals.json")["runs"]
        if (run["example"], run["split"]) == (example, split)
    ]
    return sorted(runs, key=lambda run: -run["test_accuracy"])


def _signal_command(run) -> str:
    return program(
        run["example"],
        run["backend"],
        {"layer": run["layer"]} | run["options"],
    )


def pixels() -> Task:
    runs = _signals("sequential_pixels", "official")
    [lstm] = [run for run in runs if run["layer"] == "lstm"]
    rows = [
        Row(
            model=run["layer"].upper(),
            score=percent(run["test_accuracy"]),
            parameters=run["parameters"],
            time=f"{run['seconds'] / 60:.0f} min",
        )
        for run in runs
        if run is not lstm
    ]
    rows[0] = dataclasses.replace(
        rows[0], lstm=percent(lstm["test_accuracy"]), published="99.63% (S4)"
    )
    return Task(
        "Images, pixel by pixel",
        "MNIST",
        rows,
        "Accuracy on the 10,000 test images of MNIST, each a sequence of 784 "
        "pixels, in equal time, one seed, on "
        f"{' or '.join(sorted({run['machine'] for run in runs}))}. Published: "
        "S4 with more and wider layers and many more epochs ([Gu et al., 2022]"
        "(https://arxiv.org/abs/2111.00396), sequential MNIST), on the same "
        "split. [sequential_pixels.py](sequential_pixels.py) is the example.",
        [_signal_command(run) for run in runs],
    )


def audio() -> Task:
    official, strangers = (
        _signals("raw_audio", split)[0]
        for split in ("official", "each speaker in turn")
    )
    rows = [
        Row(
            model=f"{run['layer'].upper()}, {title}",
            score=f"{percent(run['test_accuracy'])}, at half the rate "
            f"{percent(run['half_rate_accuracy'])}",
            parameters=run["parameters"],
            time=f"{run['seconds'] / 60:.0f} min on a GPU",
        )
        for run, title in (
            (official, "known speakers"),
            (strangers, "strangers"),
        )
    ]
    return Task(
        "Spoken digits, sample by sample",
        "FSDD",
        rows,
        "Accuracy on the Free Spoken Digit Dataset, 8,000 samples a second: on "
        "its official test recordings, and on each speaker in turn, after "
        f"training without them; one seed ({official['machine']}; "
        f"{strangers['machine']}). LSTM and Transformer were not run on so "
        "long sequences, and we know no published result for raw samples on "
        "these splits. [raw_audio.py](raw_audio.py) is the example, and the "
        "notebook is [spoken_digits](../notebooks/spoken_digits.ipynb).",
        [_signal_command(run) for run in (official, strangers)],
    )


def _recalled(task: str) -> dict:
    """The best run of each model and question, and how many were tried."""
    runs = [r for r in load("recall.json")["runs"] if r["task"] == task]
    return {
        (run["model"], run["width"], run["pairs"]): run
        for run in recall_runs.best({"runs": runs})
    }


def _recall_command(run) -> str:
    names = ("task", "model", "width", "learning_rate", "seed")
    options = {name: run[name] for name in names}
    if run["pairs"]:
        options["pairs"] = run["pairs"]
    return program("recall", run["backend"], options)


TRIED = (
    "the best of the learning rates and seeds that were tried, which differ "
    "much (`benchmarks/results/recall.json` has all)"
)


def recall() -> Task:
    copying, induction = _recalled("copying"), _recalled("induction")
    longest = "16384"
    rows, commands = [], []
    for task, found, published in (
        ("copying", copying, "99.8% (Mamba)"),
        ("induction heads", induction, "100% (Mamba)"),
    ):
        of_model = {model: run for (model, _, _), run in found.items()}

        def score(run):
            by_length = run.get("by_length", {})
            return percent(by_length.get(longest, run["accuracy"]))

        mamba, attention = of_model["mamba"], of_model["attention"]
        rows.append(
            Row(
                model=f"Mamba, {task}",
                score=score(mamba),
                transformer=score(attention),
                published=published,
                parameters=mamba["parameters"],
                time=_time(mamba),
            )
        )
        commands += [_recall_command(mamba), _recall_command(attention)]
    return Task(
        "Recall of what was marked",
        "drawn at random",
        rows,
        "Accuracy of two blocks on selective copying, and on induction heads "
        f"that were trained at 256 tokens and are tested at {int(longest):,}: "
        f"{TRIED}. Published: [Gu and Dao, 2023]"
        "(https://arxiv.org/abs/2312.00752), tables 1 and 2, with longer "
        "sequences to copy (4,096) and to search (up to 1,048,576). "
        "[recall.py](recall.py) is the example.",
        commands,
    )


def _time(run) -> str:
    return f"{run['seconds']:.0f} s on a GPU" if "seconds" in run else ""


def association() -> Task:
    found = _recalled("association")
    width, pairs = 32, 64
    hybrid, mamba, attention = (
        found[model, width, pairs] for model in ("hybrid", "mamba", "attention")
    )
    return Task(
        "Recall by association",
        "drawn at random",
        [
            Row(
                model="Mamba, then attention",
                score=percent(hybrid["accuracy"]),
                transformer=percent(attention["accuracy"]),
                simplest=f"{percent(mamba['accuracy'])} (Mamba twice)",
                parameters=hybrid["parameters"],
                time=_time(hybrid),
            )
        ],
        f"Accuracy on associative recall of {pairs} pairs, two blocks of width "
        f"{width}: {TRIED}. Where everything must be kept, Mamba alone is not "
        "enough, and neither are two blocks of attention of this size in this "
        "time; both together are.",
        [_recall_command(run) for run in (hybrid, mamba, attention)],
    )


def language() -> Task:
    patterns = {}
    for run in load("language.json")["runs"]:
        patterns.setdefault(tuple(run["pattern"]), []).append(run)

    def score(pattern):
        bits = [run["bits_per_byte"] for run in patterns[pattern]]
        return f"{sum(bits) / len(bits):.3f} bits"

    mamba, attention = ("mamba",) * 4, ("attention",) * 3
    hybrid = ("mamba", "mamba", "attention", "mamba", "mamba")
    nano = [f"{nats / math.log(2):.2f} bits" for nats in (1.88, 1.4697)]
    rows = [
        Row(
            model=title,
            score=score(pattern),
            parameters=patterns[pattern][0]["parameters"],
            time=f"{patterns[pattern][0]['options']['seconds'] / 60:.0f} min "
            "of a core",
        )
        for title, pattern in (("Mamba", mamba), ("hybrid", hybrid))
    ]
    rows[0] = dataclasses.replace(
        rows[0],
        transformer=score(attention),
        published=f"{nano[0]} (nanoGPT, CPU), {nano[1]} (GPU)",
    )
    [machine] = {run["machine"] for runs in patterns.values() for run in runs}
    return Task(
        "Language, byte by byte",
        "tiny Shakespeare",
        rows,
        "Bits per byte, the fewer the better, of the last tenth of tiny "
        "Shakespeare, mean over three seeds, in equal time and with nearly as "
        f"many parameters ({machine}). Published: [nanoGPT]"
        "(https://github.com/karpathy/nanoGPT) reports 1.88 nats after three "
        "minutes on a CPU and 1.4697 after three minutes on an A100, with a "
        "larger model, on the same tenth, by characters, which are bytes here. "
        "[language_model.py](language_model.py) is the example.",
        [
            program(
                "language_model",
                run["backend"],
                {"pattern": run["pattern"], "seed": run["seed"]}
                | run["options"],
            )
            for runs in patterns.values()
            for run in runs
        ],
    )


TASKS = (
    *(texts, documents, tutorial_tasks.forecasts, pixels, audio),
    *(recall, association, language, tutorial_tasks.notebooks),
)
