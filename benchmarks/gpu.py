"""Verifies and times the kernels on a GPU, in under ten minutes.

    python benchmarks/gpu.py --output FOLDER [--parts tests bits speed ...]

It installs nothing: PyTorch or JAX, Keras, NumPy and pytest have to be there.
The op, layer and kernel tests run on the GPU, and checks that need one
(`gpu_checks.py`), several processes at a time; then what needs the GPU for
itself: tensors of more than 2^31 elements, the benchmark of `bench.py`, and a
layer over 1,048,576 tokens. Each process has a time limit, all together have
`--seconds`, and a table is printed last. `FOLDER` gets `results.json`,
`bench.json` and `log.txt`.

`--dry-run` goes through the motions at small sizes where there is no GPU.
"""

import argparse
import concurrent.futures
import importlib.util
import json
import os
import pathlib
import shutil
import sys
import time

import gpu_jobs
import report

# What the parts that run at the same time may take of all the time.
SHARE = 0.45
# Losses of a few steps of training, relative, between PyTorch and JAX.
EQUAL = 1e-4


def main():
    options = parse()
    options.output.mkdir(parents=True, exist_ok=True)
    run = Run(options)
    run.several_at_a_time()
    run.one_at_a_time()
    run.compare_losses()
    run.write()
    print(run.table())
    sys.exit(any(not row["ok"] for row in run.rows))


def parse():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=pathlib.Path, required=True)
    parts = (*gpu_jobs.TOGETHER, *gpu_jobs.ALONE)
    parser.add_argument("--parts", nargs="+", choices=parts, default=parts)
    parser.add_argument("--backends", nargs="+", default=["torch", "jax"])
    parser.add_argument("--seconds", type=int, default=570)
    parser.add_argument(
        "--processes", type=int, default=max(1, (os.cpu_count() or 2) * 3 // 4)
    )
    parser.add_argument("--dry-run", action="store_true")
    options = parser.parse_args()
    options.output = options.output.resolve()
    options.backends = [
        name for name in options.backends if importlib.util.find_spec(name)
    ]
    if not options.dry_run and shutil.which("nvidia-smi") is None:
        parser.error("there is no NVIDIA GPU here; `--dry-run` needs none")
    return options


class Run:
    """What has been run, and what came out."""

    def __init__(self, options):
        self._options = options
        self._start = time.monotonic()
        self._log = (options.output / "log.txt").open("w")
        self.rows = []

    def several_at_a_time(self):
        """Tests and checks that leave room on the GPU for others."""
        end = self._start + SHARE * self._options.seconds
        jobs = self._jobs(gpu_jobs.TOGETHER)
        count = self._options.processes
        with concurrent.futures.ThreadPoolExecutor(count) as pool:
            for row in pool.map(lambda job: job.run(end), jobs):
                self._add(row)

    def one_at_a_time(self):
        """What needs all of the GPU."""
        end = self._start + self._options.seconds
        for job in self._jobs(gpu_jobs.ALONE):
            self._add(job.run(end))

    def _jobs(self, parts):
        return [
            job
            for part, make in parts.items()
            if part in self._options.parts
            for job in make(self._options)
        ]

    def _add(self, row):
        self._log.write(
            f"== {row['part']} {row['backend']} {row['title']}\n"
            f"{row.pop('output')}\n"
        )
        self._log.flush()
        self.rows.append(row)
        passed = time.monotonic() - self._start
        print(
            f"{passed:4.0f} s  {row['part']} {row['backend']} {row['title']}: "
            f"{'ok' if row['ok'] else 'FAILED'}, {row['detail']}",
            flush=True,
        )

    def compare_losses(self):
        """Training has to go the same way on both backends."""
        losses = [row["losses"] for row in self.rows if "losses" in row]
        if len(losses) < 2:
            return
        apart = max(abs(a - b) / abs(b) for a, b in zip(*losses, strict=True))
        row = dict(part="classifier", backend="both", title="losses")
        row |= dict(ok=apart <= EQUAL, detail=f"differ by {apart:.0e}")
        self._add({**row, "seconds": 0, "output": str(losses)})

    def write(self):
        """Leaves everything in the output folder."""
        path = self._options.output / "results.json"
        path.write_text(json.dumps({"rows": self.rows}, indent=1) + "\n")
        self._log.close()

    def table(self):
        """The benchmark, then a line for each part and backend."""
        lines = [
            report.row("part", "backend", "outcome", "s"),
            report.row("---", "---", "---", "---:"),
        ]
        for part, backend in dict.fromkeys(
            (row["part"], row["backend"]) for row in self.rows
        ):
            rows = [
                row
                for row in self.rows
                if (row["part"], row["backend"]) == (part, backend)
            ]
            outcome = gpu_jobs.outcome(rows)
            seconds = sum(row["seconds"] for row in rows)
            lines.append(report.row(part, backend, outcome, f"{seconds:.0f}"))
        record = self._options.output / "bench.json"
        if "speed" in self._options.parts and record.exists():
            lines = [report.short(json.loads(record.read_text())), "", *lines]
        return "\n".join(lines)


if __name__ == "__main__":
    main()
