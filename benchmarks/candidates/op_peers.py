"""Other people's ways to compute what our ops compute."""

import dataclasses
import importlib
from collections.abc import Callable

import keras

from candidates import BOTH, FORWARD

# `keras.ops.associative_scan` does not compile there from some length on.
COMPILES = keras.config.backend() != "tensorflow"


@dataclasses.dataclass
class Peer:
    """A way to compute an op.

    Args:
        function: Takes the op's arguments by name, and returns y.
        passes: What it can do.
        wide: In which of them it holds the state of every step.
        xla: Whether it compiles under XLA.
        layout: Turns a dictionary of tensors into its own layout, and back.
    """

    function: Callable
    passes: tuple[str, ...] = (FORWARD, BOTH)
    wide: tuple[str, ...] = ()
    xla: bool = True
    layout: Callable = dict


def peers(problem) -> dict[str, Peer]:
    """Those that can compute a problem with this backend, by name."""
    found = {}
    if problem.bare:
        found["keras.ops.associative_scan"] = Peer(
            associative_scan,
            wide=(FORWARD, BOTH),
            xla=COMPILES,
        )
    if problem.op == "linear_scan":
        found["keras.ops.associative_scan"] = Peer(
            associative_linear_scan, xla=COMPILES
        )
    module = f"candidates.op_peers_{keras.config.backend()}"
    if importlib.util.find_spec(module):
        found |= importlib.import_module(module).peers(problem)
    return found


def maps(x, dt, A, B):
    """`h[t] = a[t] h[t-1] + u[t]`: a and u, `(b, l, d, n)` each."""
    a = keras.ops.exp(dt[..., None] * A)
    return a, (dt * x)[..., None] * B[:, :, None]


def compose(first, second):
    """The map `second` after the map `first`."""
    return first[0] * second[0], second[0] * first[1] + second[1]


def associative_scan(x, dt, A, B, C):
    """The recurrence as `keras.ops.associative_scan` over its maps."""
    _, h = keras.ops.associative_scan(compose, maps(x, dt, A, B), axis=1)
    return keras.ops.einsum("bldn,bln->bld", h, C)


def associative_linear_scan(a, x):
    """The linear scan as `keras.ops.associative_scan` over its maps.

    With the parts of complex numbers: on PyTorch it takes no complex tensors,
    but their real parts.
    """
    pair = isinstance(x, tuple)
    a, x = (v if pair else (v,) for v in (a, x))
    a = tuple(keras.ops.broadcast_to(v, x[0].shape) for v in a)
    _, y = keras.ops.associative_scan(
        _compose_pairs if pair else _compose_numbers, (a, x), axis=1
    )
    return y if pair else y[0]


def _compose_numbers(first, second):
    (a1,), (x1,) = first
    (a2,), (x2,) = second
    return (a2 * a1,), (a2 * x1 + x2,)


def _compose_pairs(first, second):
    (a1, x1), (a2, x2) = first, second
    moved = _multiply(a2, x1)
    return _multiply(a2, a1), (moved[0] + x2[0], moved[1] + x2[1])


def _multiply(v, w):
    return v[0] * w[0] - v[1] * w[1], v[0] * w[1] + v[1] * w[0]
