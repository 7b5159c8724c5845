"""Matrix products alone: what is left if all the rest takes no time."""

import math

import frameworks
import harness
import numpy as np

from candidates import FORWARD, Candidate

CHUNK = 64  # steps of a chunk of `ssd`


def prepare(shapes, what, dtype):
    """A candidate that multiplies random matrices.

    Args:
        shapes: Those of both factors, by the names of the products.
        what: Whether it also computes all gradients.
        dtype: Dtype of the matrices.
    """
    random = np.random.default_rng(3)

    def draw(shape):
        array = random.standard_normal(shape, "float32")
        return harness.tensor(array, dtype)

    factors = {}
    for name, (left, right) in shapes.items():
        factors[f"{name} left"] = draw(left)
        factors[f"{name} right"] = draw(right)

    def multiply(factors):
        return tuple(
            factors[f"{name} left"] @ factors[f"{name} right"]
            for name in shapes
        )

    # TensorFlow's own products are faster than those of XLA.
    if what == FORWARD:
        run = frameworks.load().inferring(multiply, xla=False)
        return Candidate(lambda: run(factors))
    cotangents = tuple(
        draw((*left[:-1], right[-1])) for left, right in shapes.values()
    )
    run = frameworks.load().compiled(
        lambda factors, cotangents: harness.gradients(
            multiply, factors, cotangents
        ),
        xla=False,
    )
    return Candidate(lambda: run(factors, cotangents))


def of_mamba(case):
    """The four of a Mamba layer, on as many rows as there are steps."""
    rows, width, channels = case.b * case.l, case.d // 2, case.d
    rank = math.ceil(width / 16)
    kernels = {
        "in_proj": (width, 2 * channels),
        "x_proj": (channels, rank + 2 * case.n),
        "dt_proj": (rank, channels),
        "out_proj": (channels, width),
    }
    return {name: ((rows, m), (m, k)) for name, (m, k) in kernels.items()}


def of_ssd(case):
    """The four of `ssd`, for all its chunks."""
    chunks, q = -(-case.b * case.l // CHUNK), CHUNK
    heads, p, n = case.d, case.p, case.n
    return {
        "C B'": ((chunks, q, n), (chunks, n, q)),
        "scores x": ((chunks * heads, q, q), (chunks * heads, q, p)),
        "B' x": ((chunks, n, q), (chunks, q, heads * p)),
        "C state": ((chunks, q, n), (chunks, n, heads * p)),
    }


def of_mamba2(case):
    """Those of a Mamba-2 layer: its projections, and those of `ssd`."""
    rows, channels = case.b * case.l, case.d * case.p
    width, inner = channels // 2, 2 * channels + 2 * case.n + case.d
    return {
        "in_proj": ((rows, width), (width, inner)),
        "out_proj": ((rows, channels), (channels, width)),
        **of_ssd(case),
    }
