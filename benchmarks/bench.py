"""Times ops, layers and steps on every backend, ours and peers in one run.

    python benchmarks/bench.py [--setting tiny|quick|full|gpu]
        [--backends jax torch ...] [--parts recurrence layer length ...]
        [--output results/bench.json]

A worker process for each backend lives through the run. In each case they
prepare their candidates, which are refused if their output or gradients miss
the float64 reference, then take turns: one works while the others wait, and
within one the candidates take turns. What is measured, and on what, goes to
`--output`, from which `plots.py` and `readme.py` draw and quote; a table of
targets is printed last. See README.md beside this file.
"""

import argparse
import dataclasses
import json
import pathlib
import select
import statistics
import subprocess
import sys
import time

import lengths
import machine
import report
from processes import environment
from rows import BOTH
from settings import SETTINGS

HERE = pathlib.Path(__file__).resolve().parent
BACKENDS = ("jax", "tensorflow", "torch")
# A candidate that takes longer to answer has hung.
PATIENCE = 900


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--setting", choices=SETTINGS, default="quick")
    parser.add_argument("--backends", nargs="+", default=list(BACKENDS))
    parser.add_argument("--parts", nargs="+", help="all, if not given")
    parser.add_argument(
        "--output", type=pathlib.Path, default=HERE / "results" / "bench.json"
    )
    options = parser.parse_args()
    record = Run(options).measure()
    print(report.summary(record))
    print(f"\nWrote {options.output}")


class Run:
    """A run of the benchmark, and its record."""

    def __init__(self, options):
        self.settings = SETTINGS[options.setting]
        self._output = options.output
        self._parts = options.parts
        self._start = time.perf_counter()
        self._backends = options.backends
        self.workers, self.rows = {}, []
        self.record = {
            **machine.describe(),
            "setting": options.setting,
            "settings": dataclasses.asdict(self.settings),
            "load_before": machine.load(),
            "load_behind": {},
            "devices": {},
            "rows": self.rows,
        }

    def measure(self):
        """Everything that the setting asks for; returns the record."""
        groups = [self._backends]
        if not self.settings.turns:
            groups = [[backend] for backend in self._backends]
        for backends in groups:
            self.say("starting " + ", ".join(backends))
            self.workers = {name: Worker(name) for name in backends}
            for name, worker in self.workers.items():
                self.record["devices"][name] = worker.ask("about")["device"]
            self._measure_group()
            for worker in self.workers.values():
                worker.close()
        return self.record

    def _measure_group(self):
        timed = [
            (part, case)
            for part, case in self.settings.timed
            if self._parts is None or part in self._parts
        ]
        for number, (part, case) in enumerate(timed, 1):
            self.say(f"[{number}/{len(timed)}] {part}, {case}")
            self._time(part, case)
            self.record["load_behind"][f"{part}, {case}"] = machine.load()
            self._save()
        if self._parts is None or "length" in self._parts:
            lengths.compare(self)
            self._save()

    def _time(self, part, case):
        rows = {
            (backend, *key): row
            for backend in self.workers
            for key, row in self._prepare(backend, part, case).items()
        }
        samples = {key: [] for key in rows}
        for number in range(self.settings.rounds):
            self.say(f"  round {number + 1} of {self.settings.rounds}")
            for backend, worker in self.workers.items():
                most = self.settings.most_seconds
                answer = worker.ask("turn", most_seconds=most)
                for key, seconds in answer.get("samples", ()):
                    samples[backend, *key].append(seconds)
                if "refused" in answer:
                    self.say(f"  {backend}: {answer['refused']}")
        for key, row in rows.items():
            warm = row.pop("warm_seconds")
            slow = warm >= self.settings.most_seconds
            row |= summarise([warm] if slow else samples[key])
        if (part, case) in self.settings.alone:
            self._measure_memory(part, case, rows)

    def _prepare(self, backend, part, case):
        """Lets a worker prepare its candidates; rows of those that can run."""
        worker, ready = self.workers[backend], {}
        dtype = self.settings.dtype
        found = worker.ask("candidates", part=part, case=case, dtype=dtype)
        for what, name in found.get("keys", ()):
            if self.settings.leaves_out(part, name):
                continue
            row = dict(part=part, case=case, backend=backend)
            row |= dict(what=what, name=name, length=found["length"])
            self.rows.append(row)
            answer = worker.ask("prepare", key=(what, name))
            if "fixed" in answer:
                row |= summarise([answer["fixed"]])
            elif "refused" in answer:
                row["refused"] = answer["refused"]
            else:
                row["error"] = answer["error"]
                row["first_seconds"] = round(answer["first"], 3)
                # One that is so slow that it gets no turn has this sample.
                row["warm_seconds"] = answer["seconds"]
                ready[what, name] = row
            self.say(f"  {backend} {what}, {name}: {told(answer)}")
        return ready

    def _measure_memory(self, part, case, rows):
        for (backend, what, name), row in rows.items():
            if what != BOTH:
                continue
            answer = self.workers[backend].ask(
                "alone",
                part=part,
                case=case,
                dtype=self.settings.dtype,
                key=(what, name),
                seconds=None,
            )
            row["peak_mb"] = megabytes(answer.get("peak_bytes"))
            self.say(f"  {backend} {what}, {name}: {row['peak_mb']} MB")

    def say(self, text):
        """A line of progress, with the seconds since the start."""
        seconds = time.perf_counter() - self._start
        print(f"{seconds:6.0f} s  {text}", file=sys.stderr, flush=True)

    def _save(self):
        self.record["load_after"] = machine.load()
        self.record["seconds"] = round(time.perf_counter() - self._start)
        self._output.parent.mkdir(parents=True, exist_ok=True)
        temporary = self._output.with_suffix(".tmp")
        temporary.write_text(json.dumps(self.record, indent=1) + "\n")
        temporary.replace(self._output)


class Worker:
    """The process of a backend; a new one where the old one has died."""

    def __init__(self, backend):
        self._backend = backend
        self._start()

    def _start(self):
        self._process = subprocess.Popen(
            [sys.executable, "-W", "ignore", str(HERE / "worker.py")],
            env=environment(self._backend),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
        )

    def ask(self, request, **arguments):
        """Sends a request and waits for the answer."""
        line = json.dumps({"do": request, **arguments})
        try:
            print(line, file=self._process.stdin, flush=True)
            ready, _, _ = select.select(
                [self._process.stdout], [], [], PATIENCE
            )
            answer = self._process.stdout.readline() if ready else ""
        except BrokenPipeError:
            answer = ""
        if answer:
            return json.loads(answer)
        self.restart()
        return {"refused": "its process died, or did not answer in time"}

    def restart(self):
        """Gives back all that the process holds."""
        self.close()
        self._start()

    def close(self):
        """Ends the process, whatever it does."""
        self._process.kill()
        self._process.communicate()


def summarise(samples):
    """What a row says of its samples, in seconds."""
    if not samples:
        return {"refused": "its process died before it was timed"}
    return {
        "min_ms": round(1e3 * min(samples), 4),
        "median_ms": round(1e3 * statistics.median(samples), 4),
        "samples": len(samples),
    }


def megabytes(count):
    return None if count is None else round(count / 2**20, 1)


def told(answer):
    if "refused" in answer:
        return f"refused: {answer['refused']}"
    if "fixed" in answer:
        return f"{1e3 * answer['fixed']:.3f} ms"
    error = answer["error"]
    checked = "" if error is None else f", error {error:.0e}"
    return f"{1e3 * answer['seconds']:.2f} ms{checked}"


if __name__ == "__main__":
    main()
