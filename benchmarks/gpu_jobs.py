"""The processes that `gpu.py` runs, and what becomes of them."""

import dataclasses
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time

from processes import environment

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent
FOLDERS = ("tests/ops", "tests/layers", "tests/kernels")
# A process for that many tests: its start costs several seconds, and with
# more the last ones run alone.
TESTS = 50
# Counts in the last line of pytest.
COUNTS = ("passed", "failed", "error", "skipped")
# Many processes share the cores.
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
# Every tensor by itself, so that an access beyond its end is seen.
UNPOOLED = {
    "PYTORCH_NO_CUDA_MEMORY_CACHING": "1",
    "XLA_PYTHON_CLIENT_ALLOCATOR": "platform",
}


@dataclasses.dataclass
class Job:
    """A process.

    Args:
        part: The part that it belongs to.
        backend: The Keras backend.
        command: The command.
        seconds: Its time limit.
        title: What tells it from others of the part.
        environment: Variables beside `ENVIRONMENT`.
        counts_tests: Whether it is pytest; otherwise it prints JSON last.
    """

    part: str
    backend: str
    command: list[str]
    seconds: float
    title: str = ""
    environment: dict = dataclasses.field(default_factory=dict)
    counts_tests: bool = False

    def run(self, end):
        """Runs it to its end, or to its limit.

        Args:
            end: The time at which all have to have ended.

        Returns:
            A row: `part`, `backend`, `title`, `ok`, `detail`, `seconds`,
            `output`, and what the process said.
        """
        start = time.monotonic()
        row = dict(part=self.part, backend=self.backend, title=self.title)
        limit = min(self.seconds, end - start)
        if limit <= 1:
            detail = "no time was left for it"
            return dict(row, ok=False, detail=detail, seconds=0, output="")
        output, code = self._execute(limit)
        seconds = round(time.monotonic() - start, 1)
        found = self._read(output, code)
        return {**row, **found, "seconds": seconds, "output": output}

    def _execute(self, limit):
        variables = {**ENVIRONMENT, **self.environment}
        process = subprocess.Popen(
            self.command,
            env=environment(self.backend, **variables),
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        try:
            return process.communicate(timeout=limit)[0], process.returncode
        except subprocess.TimeoutExpired:
            # Its own children, too.
            os.killpg(process.pid, signal.SIGKILL)
            output = process.communicate()[0]
            return f"{output}\nstopped after {limit:.0f} s", None

    def _read(self, output, code):
        lines = [line for line in output.splitlines() if line.strip()] or [""]
        if self.counts_tests:
            counts = _counts(lines[-1])
            # 5: all of them are about another backend.
            ok = code in (0, 5) and not counts["failed"] + counts["error"]
            failed = [line for line in lines if line.startswith("FAILED ")]
            detail = lines[-1].strip("= ")[:150]
            return dict(ok=ok, detail=detail, counts=counts, failed=failed)
        if code != 0:
            errors = [line for line in lines if re.match(r"\S*Error\b", line)]
            return dict(ok=False, detail=[*lines, *errors][-1][:300])
        if not lines[-1].startswith("{"):
            return dict(ok=True, detail="done")
        return json.loads(lines[-1])


def outcome(rows):
    """What became of the jobs of a part and backend, in a few words."""
    failed = [row for row in rows if not row["ok"]]
    mark = "**FAILED** " if failed else "ok, "
    if "counts" in rows[0]:
        total = {
            name: sum(row.get("counts", {}).get(name, 0) for row in rows)
            for name in COUNTS
        }
        said = ", ".join(f"{n} {name}" for name, n in total.items() if n)
        return f"{mark}{said}; {len(failed)} of {len(rows)} processes failed"
    return mark + "; ".join(row["detail"] for row in failed or rows)


def _counts(line):
    return {
        name: int(found[1])
        if (found := re.search(rf"(\d+) {name}", line))
        else 0
        for name in COUNTS
    }


def _tests(options):
    """Test by test, cut into processes."""
    folders = FOLDERS[:1] if options.dry_run else FOLDERS
    only = ["-k", "errors or dispatch"] if options.dry_run else []
    pytest = [sys.executable, "-m", "pytest", "-m", "not slow"]
    for backend in options.backends:
        found = subprocess.run(
            [*pytest, "--collect-only", *only, *folders],
            env=environment(backend, **ENVIRONMENT),
            cwd=ROOT,
            capture_output=True,
            text=True,
        )
        names = [v for v in found.stdout.splitlines() if "::" in v]
        for start in range(0, len(names), TESTS):
            some = names[start : start + TESTS]
            yield Job(
                "tests",
                backend,
                # No output of tests that pass, no cache that others write.
                [*pytest, "--tb=short", "-rf", "-p", "no:cacheprovider", *some],
                240,
                title=some[0].split("[")[0],
                counts_tests=True,
            )


def _check(part, seconds, only=None, **more):
    """Makes the jobs of a check of `gpu_checks.py`."""

    def make(options):
        command = [sys.executable, str(HERE / "gpu_checks.py"), part]
        command += ["--small"] if options.dry_run else []
        for backend in options.backends:
            if only in (None, backend):
                yield Job(part, backend, command, seconds, **more)

    return make


def _sanitizer(options):
    """The same small runs, watched for accesses out of bounds."""
    sanitizer = shutil.which("compute-sanitizer")
    for job in _check("sanitized", 200, environment=UNPOOLED)(options):
        if sanitizer is not None:
            watch = [sanitizer, "--tool", "memcheck", "--error-exitcode", "9"]
            job.command = [*watch, *job.command]
        job.title = "compute-sanitizer" if sanitizer else "without a sanitizer"
        yield job


def _speed(options):
    setting = "tiny" if options.dry_run else "gpu"
    command = [sys.executable, str(HERE / "bench.py"), "--setting", setting]
    command += ["--output", str(options.output / "bench.json")]
    command += ["--backends", *options.backends]
    yield Job("speed", "+".join(options.backends), command, 400)


# Part -> what makes its jobs; in the order in which they are run.
TOGETHER = {
    "sanitized": _sanitizer,
    "bits": _check("bits", 200),
    "compile": _check("compile", 200, only="torch"),
    "graphs": _check("graphs", 200, only="torch"),
    "classifier": _check("classifier", 200),
    "tests": _tests,
}
ALONE = {
    "offsets": _check("offsets", 90),
    "million": _check("million", 90),
    "dual": _check("dual", 200),
    "speed": _speed,
}
