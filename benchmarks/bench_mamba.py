"""Times selective_scan and the Mamba layer on every backend, and peers.

    python benchmarks/bench_mamba.py [--rounds 3] [--backends jax torch ...]

Each backend runs in a process of its own, the processes take turns, and
within one the candidates take turns, so that all of them see the same machine.
Figures are medians in milliseconds; what counts is their ratios. A candidate
whose output or gradients miss the float64 reference is not reported.

Writes `results/bench_mamba.json` with versions and machine, and prints the
table that README quotes.
"""

import argparse
import json
import os
import pathlib
import platform
import resource
import statistics
import subprocess
import sys
import time
from importlib import metadata

HERE = pathlib.Path(__file__).parent
RESULTS = HERE / "results" / "bench_mamba.json"
CASE = "mamba_small_l1024"
WIDTH = 384  # of the layer, whose recurrence then has 768 channels
PACKAGES = (
    "jax",
    "keras",
    "mambapy",
    "numba",
    "numpy",
    "tensorflow-cpu",
    "torch",
)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument(
        "--backends", nargs="+", default=["jax", "tensorflow", "torch"]
    )
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        measure(options.worker, options.repeats)
        return
    seconds = {}
    memory = {}
    for round_index in range(options.rounds):
        for backend in options.backends:
            print(f"round {round_index + 1}: {backend}", file=sys.stderr)
            report = run_worker(backend, options.repeats)
            memory[backend] = report["peak_memory_mb"]
            for name, times in report["seconds"].items():
                seconds.setdefault(name, []).extend(times)
    write(seconds, memory)


def run_worker(backend, repeats):
    worker = subprocess.run(
        [
            *(sys.executable, __file__),
            *("--worker", backend, "--repeats", str(repeats)),
        ],
        env={**os.environ, "KERAS_BACKEND": backend},
        stdout=subprocess.PIPE,
        check=True,
    )
    return json.loads(worker.stdout.splitlines()[-1])


def measure(backend, repeats):
    """Checks and times the candidates of one backend, and prints JSON."""
    sys.path[:0] = [str(HERE), str(HERE.parent / "tests")]
    import bench_candidates

    candidates = bench_candidates.make(backend, CASE, WIDTH)
    for run in candidates.values():
        run()
    seconds = {name: [] for name in candidates}
    for _ in range(repeats):
        for name, run in candidates.items():
            start = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"seconds": seconds, "peak_memory_mb": round(peak)}))


def write(seconds, memory):
    rows = {
        name: {
            "median_ms": round(1e3 * statistics.median(times), 2),
            "min_ms": round(1e3 * min(times), 2),
            "runs": len(times),
        }
        for name, times in seconds.items()
    }
    record = {
        "case": CASE,
        "layer_width": WIDTH,
        "machine": {
            "processor": _processor(),
            "cores": os.cpu_count(),
            "python": platform.python_version(),
        },
        "versions": {name: _version(name) for name in PACKAGES},
        "commit": _commit(),
        "date": time.strftime("%Y-%m-%d"),
        "peak_memory_mb": memory,
        "rows": rows,
    }
    RESULTS.parent.mkdir(exist_ok=True)
    temporary = RESULTS.with_suffix(".tmp")
    temporary.write_text(json.dumps(record, indent=2) + "\n")
    temporary.replace(RESULTS)
    print("| what | median ms | min ms |\n|---|---|---|")
    for name, row in rows.items():
        print(f"| {name} | {row['median_ms']} | {row['min_ms']} |")


def _processor():
    for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor()


def _version(package):
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _commit():
    command = ["git", "-C", str(HERE), "describe", "--always", "--dirty"]
    found = subprocess.run(command, capture_output=True, text=True)
    return found.stdout.strip() or None


if __name__ == "__main__":
    main()
