"""Finds figures in the rows of a record."""

import math

from settings import MAIN

FORWARD, BOTH = "forward", "forward+backward"
OURS = "keras_ssm"


class Rows:
    """The rows of a record.

    Args:
        record: What `bench.py` writes.
    """

    def __init__(self, record):
        self.rows = record["rows"]

    def where(self, **values):
        """The rows that have been measured, with these values, in order."""
        return [
            row
            for row in self.rows
            if "min_ms" in row
            and all(row.get(key) == value for key, value in values.items())
        ]

    def ours(self, **values):
        """The default implementation's row, or `None`.

        Ours come in the order of preference, and the usual way to run it
        before others.
        """
        found = [r for r in self.where(**values) if r["name"].startswith(OURS)]
        return found[0] if found else None

    def one(self, **values):
        """The row with these values, or `None`."""
        found = self.where(**values)
        return found[0] if found else None


def ratio(first, second):
    """How many times the second's time the first takes, or `None`."""
    if first is None or second is None:
        return None
    return first["min_ms"] / second["min_ms"]


def growth(rows, field, shortest=4096):
    """The power of the length with which a field grows, or `None`.

    From the shortest length whose cost is that of the sequence, not of calls,
    to the longest; 1 is linear, 2 quadratic.
    """
    rows = [r for r in rows if r["length"] >= shortest and r.get(field)]
    if len(rows) < 2:
        return None
    first, last = rows[0], rows[-1]
    return math.log(last[field] / first[field]) / math.log(
        last["length"] / first["length"]
    )


def crossover(rows, backend):
    """The length from which ours is faster than attention, or `None`.

    On a straight line, in logarithms, between the two lengths around it; the
    shortest length if it is faster from there.
    """
    found = rows.where(part="length", backend=backend)
    attention = {r["length"]: r for r in found if r["name"] == "attention"}
    gaps = [
        (math.log(r["length"]), math.log(ratio(attention[r["length"]], r)))
        for r in found
        if r["name"].startswith(OURS) and r["length"] in attention
    ]
    if not gaps or gaps[-1][1] < 0:
        return None
    below = [at for at, gap in enumerate(gaps) if gap[1] < 0]
    if not below:
        return math.exp(gaps[0][0])
    (l0, g0), (l1, g1) = gaps[below[-1]], gaps[below[-1] + 1]
    return math.exp(l0 - g0 * (l1 - l0) / (g1 - g0))


def is_limit(name):
    """Whether a name is that of a limit, which nobody can beat."""
    return name in ("C limit", "matrix products") or name.startswith("limit:")


def main_case(part, backend, what=BOTH):
    """The values of the rows that the project's own figures are about."""
    return dict(part=part, case=MAIN, backend=backend, what=what)
