"""The process of one backend: prepares candidates, and times them in turn.

`bench.py` starts one for each backend (`KERAS_BACKEND` says which) and sends it
requests, a line of JSON each; the answers come the same way. While one worker
works the others wait.
"""

import dataclasses
import importlib
import json
import multiprocessing
import os
import pathlib
import sys
import time

import cases
import frameworks
import measure

PARTS = {
    **dict.fromkeys(("recurrence", "selective_scan", "causal_conv1d"), "ops"),
    "linear_scan": "ops",
    "system": "systems",
    "ssd": "dual",
    **dict.fromkeys(("layer", "mamba2"), "layers"),
    "step": "steps",
}


def main():
    # Frameworks print to the standard output; the answers have their own.
    channel = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    worker = Worker()
    for line in sys.stdin:
        request = json.loads(line)
        answer = getattr(worker, request.pop("do"))(**request)
        print(json.dumps(answer), file=channel, flush=True)


class Worker:
    """Answers requests, one method each."""

    def __init__(self):
        self._framework = frameworks.load()
        self._framework.configure()
        self._preparations, self._timed = {}, {}

    def about(self):
        """What the backend runs on."""
        return {"device": self._framework.device()}

    def candidates(self, part, case, dtype):
        """Names what there is to time in a case, and forgets the last."""
        self._timed = {}
        self._preparations = make(part, case, dtype)
        return {
            "keys": list(self._preparations),
            "length": cases.named(case).l,
        }

    def prepare(self, key):
        """Builds, checks and warms up a candidate."""
        key = tuple(key)
        start = time.perf_counter()
        try:
            candidate = self._preparations[key]()
            if candidate.run is None:
                return {"fixed": candidate.seconds}
            self._timed[key] = _Timed(self._framework, candidate.run)
        except Exception as reason:
            return {"refused": _first_line(reason)}
        return {
            "error": candidate.error,
            "first": time.perf_counter() - start,
            "seconds": self._timed[key].warm,
        }

    def turn(self, most_seconds):
        """One sample of every candidate that has not yet had its time."""
        samples = []
        for key, timed in self._timed.items():
            if timed.spent < most_seconds:
                samples.append((key, timed.sample()))
        return {"samples": samples}

    def alone(self, part, case, dtype, key, seconds, length=None):
        """Runs a candidate by itself, for its time or for its memory.

        On a CPU in a process of its own.

        Args:
            part: The part that it is a candidate of.
            case: Name of the case.
            dtype: Dtype of the tensors.
            key: Which candidate.
            seconds: For how long to time it; `None` to measure its memory.
            length: Another length than the case's.
        """
        request = (part, case, dtype, tuple(key), seconds, length)
        if self._framework.device() != "cpu":
            # The framework counts the device's memory itself.
            self._timed, self._preparations = {}, {}
            return _measure(*request)
        # TensorFlow's allocator with oneDNN keeps what it was given: nothing
        # that runs a second time would show. XLA's programs do not use it.
        os.environ["TF_ENABLE_ONEDNN_OPTS"] = "0"
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["keras_ssm"])
        here, there = context.Pipe()
        process = context.Process(target=_child, args=(there, *request))
        process.start()
        there.close()
        try:
            answer = here.recv()
        except EOFError:
            answer = {"refused": "its process was killed, out of memory"}
        process.join()
        return answer


class _Timed:
    """A candidate that is warm."""

    def __init__(self, framework, run):
        self._framework, self._run = framework, run
        framework.wait(run())  # compiles
        self.warm = self.spent = framework.seconds(run, 1)
        self._calls = measure.calls_in_a_row(self.warm)

    def sample(self):
        # Threads of the candidate before may still spin for work.
        time.sleep(0.002)
        start = time.perf_counter()
        seconds = self._framework.seconds(self._run, self._calls)
        self.spent += time.perf_counter() - start
        return seconds


def make(part, case, dtype, checked=True, length=None):
    """The candidates of a part; see `candidates/__init__.py`.

    Args:
        part: One of `PARTS`.
        case: Name of a case.
        dtype: Dtype of the tensors.
        checked: Whether results are compared with the float64 reference.
        length: Another length than the case's.
    """
    case = cases.named(case)
    if length is not None:
        case = dataclasses.replace(case, l=length)
    module = importlib.import_module(f"candidates.{PARTS[part]}")
    return module.make(part, case, dtype, checked)


def _child(channel, *request):
    _be_the_first_to_go()
    *_, seconds, _ = request
    if seconds is None:
        measure.keep_no_freed_memory()
    frameworks.load().configure()
    channel.send(_measure(*request))


def _measure(part, case, dtype, key, seconds, length):
    """Peak memory or samples of a candidate, or why there are none."""
    framework = frameworks.load()
    try:
        run = make(part, case, dtype, False, length)[key]().run
        framework.wait(run())
        if seconds is None:
            return {"peak_bytes": measure.peak_memory(run)}
        start = time.perf_counter()
        framework.wait(run())
        calls = measure.calls_in_a_row(time.perf_counter() - start)
        samples = [framework.seconds(run, calls)]
        while time.perf_counter() - start < seconds and len(samples) < 9:
            samples.append(framework.seconds(run, calls))
    except Exception as reason:
        return {"refused": _first_line(reason)}
    return {"samples": samples}


def _be_the_first_to_go():
    """Where memory runs out, this process is ended and not another."""
    path = pathlib.Path("/proc/self/oom_score_adj")
    if path.exists():
        path.write_text("1000")


def _first_line(reason):
    text = str(reason).strip() or type(reason).__name__
    return text.splitlines()[0][:300]


if __name__ == "__main__":
    main()
