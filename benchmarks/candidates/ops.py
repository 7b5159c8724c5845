"""An op by itself: its implementations, peers, and the limit."""

import os

import frameworks
import harness
import keras
from limits import c_scan, gpu
from problem import Problem

import keras_ssm
from candidates import BOTH, FORWARD, OURS, Candidate, implementations
from candidates.op_peers import Peer, peers

PASSES = (FORWARD, BOTH)
# What a peer that holds the state of every step holds at its peak, in arrays
# of `(b, l, d, n)`: maps, their composites and gradients.
WIDE_ARRAYS = 8


def make(part, case, dtype, checked=True):
    """Candidates for an op in a case.

    Args:
        part: "selective_scan" or "causal_conv1d", with the arguments that a
            Mamba layer gives; "recurrence" is the scan without skip, gate,
            bias and softplus, which more peers can compute; "linear_scan".
        case: A case of `tests/cases.py`.
        dtype: Dtype of the tensors.
        checked: Whether to compare with the float64 reference.
    """
    bare = part == "recurrence"
    op = "selective_scan" if bare else part
    problem = Problem(op, case, dtype, bare, checked)
    found = preparations(problem, ours(problem) | peers(problem))
    if bare and dtype == "float32" and frameworks.load().device() == "cpu":
        found[FORWARD, "C limit"] = lambda: _c_limit(problem)
    for what in PASSES:
        for name, seconds in gpu.limits(op, what, case, dtype).items():
            found[what, name] = lambda seconds=seconds: Candidate(
                seconds=seconds
            )
    return found


def ours(problem) -> dict[str, Peer]:
    """Our implementations by name, the default first."""
    names = implementations(problem.op)
    found = {f"{OURS} {name}": _ours(problem, name) for name in names}
    if keras.config.backend() == "tensorflow":
        graph = _ours(problem, names[0])
        graph.xla = False
        found[f"{OURS} {names[0]}, without XLA"] = graph
    return found


def _ours(problem, implementation):
    def function(**arguments):
        return getattr(keras_ssm.ops, problem.op)(
            **arguments, **problem.options, implementation=implementation
        )

    return Peer(function)


def preparations(problem, peer_of):
    """Functions that prepare candidates, for every pass that they can do."""
    return {
        (what, name): preparation(problem, peer, what)
        for name, peer in peer_of.items()
        for what in peer.passes
    }


def preparation(problem, peer, what):
    """A function that prepares a candidate for a pass over a problem."""

    def prepare():
        if what in peer.wide:
            _check_memory(problem.case)
        return (_forward if what == FORWARD else _both)(problem, peer)

    return prepare


def _forward(problem, peer):
    arguments = peer.layout(problem.arguments)
    run = frameworks.load().inferring(
        lambda arguments: peer.function(**arguments), peer.xla
    )
    y = peer.layout({"y": run(arguments)})["y"]
    return Candidate(lambda: run(arguments), problem.error(y))


def _both(problem, peer):
    def both(arguments, dy):
        return harness.gradients(
            lambda arguments: (peer.function(**arguments),), arguments, (dy,)
        )

    arguments = peer.layout(problem.arguments)
    dy = peer.layout({"dy": problem.sampled_dy()})["dy"]
    run = frameworks.load().compiled(both, peer.xla)
    (y,), gradients = run(arguments, dy)
    y, gradients = peer.layout({"y": y})["y"], peer.layout(gradients)
    error = problem.error(y, gradients)
    del y, gradients
    dy = peer.layout({"dy": problem.dy})["dy"]
    return Candidate(lambda: run(arguments, dy), error)


def _c_limit(problem):
    arrays = [keras.ops.convert_to_numpy(v) for v in problem.arguments.values()]
    run = c_scan.prepare(*arrays)
    return Candidate(run, problem.error(run()))


def _check_memory(case):
    needed = WIDE_ARRAYS * 4 * case.b * case.l * case.d * case.n
    there = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if needed > there:
        raise NotImplementedError(
            f"it holds (b, l, d, n), about {needed / 2**30:.0f} GiB here"
        )
