"""`ssd`, a `selective_scan` of the same function, and its matrix products."""

import functools

from keras import ops
from problem import Problem

import keras_ssm
from candidates import implementations, products
from candidates.op_peers import Peer
from candidates.ops import PASSES, ours, preparations


def make(part, case, dtype, checked=True):
    """Candidates for the recurrence of x, dt, A, B, C of a case.

    Args:
        part: "ssd".
        case: A case of `tests/cases.py`; its channels are heads.
        dtype: Dtype of the tensors.
        checked: Whether to compare with the float64 reference.
    """
    problem = Problem("ssd", case, dtype, bare=True, checked=checked)
    scan = implementations("selective_scan")[0]
    same = Peer(functools.partial(as_scan, implementation=scan))
    found = preparations(
        problem, ours(problem) | {f"selective_scan {scan}": same}
    )
    for what in PASSES:
        found[what, "matrix products"] = functools.partial(
            products.prepare, products.of_ssd(case), what, dtype
        )
    return found


def as_scan(x, dt, A, B, C, implementation=None):
    """The same with a decay rate for each number of the state."""
    shape, p, n = ops.shape(x), x.shape[-1], B.shape[-1]
    y = keras_ssm.ops.selective_scan(
        ops.reshape(x, (*shape[:2], -1)),
        ops.repeat(dt, p, axis=-1),
        ops.tile(ops.repeat(A, p)[:, None], (1, n)),
        *(B, C),
        implementation=implementation,
    )
    return ops.reshape(y, shape)
