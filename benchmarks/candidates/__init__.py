"""What is timed: ours and peers, a module for each part of the benchmark.

Each has `make(part, case, dtype, checked)`, which returns
`{(what, name): prepare}`: what a call does ("forward", "forward+backward",
"step"), who does it, and a function that prepares it and returns a
`Candidate`. Preparing raises `NotImplementedError` where a candidate cannot
run, and `ArithmeticError` where its result is wrong.
"""

import dataclasses
import importlib.util
from collections.abc import Callable

import harness

import keras_ssm

OURS = "keras_ssm"
FORWARD, BOTH, STEP = "forward", "forward+backward", "step"


@dataclasses.dataclass
class Candidate:
    """Something to time.

    Args:
        run: Runs it, without arguments, and returns tensors to wait for.
            `None` for a limit that follows from the hardware.
        error: How far its result was from the float64 reference, if it has
            been compared.
        seconds: What the hardware needs at least, for a limit.
    """

    run: Callable | None = None
    error: float | None = None
    seconds: float | None = None


def implementations(op: str) -> list[str]:
    """Those of an op on this machine that have gradients, preferred first."""
    return harness.implementations(op, gradients=True)


def installed(package: str) -> bool:
    """Whether a package can be imported."""
    return importlib.util.find_spec(package) is not None


def pinned(run, implementation):
    """The function with the implementation of every op pinned."""

    def pinned_run(*arguments):
        with keras_ssm.ops.use_implementation(implementation):
            return run(*arguments)

    return pinned_run
