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


def forms(rows, **values):
    """Rows of a linear system in its forms: lists by length, fastest first."""
    found = {}
    for row in rows.where(part="system", **values):
        found.setdefault(row["length"], []).append(row)
    for of_length in found.values():
        of_length.sort(key=lambda row: row["min_ms"])
    return found


def form(row):
    """Which form of a linear system a row is about."""
    return row["name"].removeprefix(f"{OURS} ")


def crossover(rows, backend):
    """The length from which ours trains faster than attention, or `None`."""
    found = rows.where(part="length", backend=backend)
    attention = {r["length"]: r for r in found if r["name"] == "attention"}
    return _crossing(
        (r["length"], ratio(attention[r["length"]], r))
        for r in found
        if r["name"].startswith(OURS) and r["length"] in attention
    )


def decode_crossover(rows, case, backend):
    """The tokens after which our step is faster than attention's, or `None`.

    Both in the framework's fastest way to run a step.
    """
    found = rows.where(part="step", case=case, backend=backend)
    after = {OURS: {}, "attention": {}}
    for row in found:
        who, *_, last = row["name"].split(", ")
        if last.startswith("after "):
            after[who][int(last.split()[1])] = row
    if not after[OURS]:
        return None
    ours = after[OURS][max(after[OURS])]
    return _crossing(
        (tokens, ratio(row, ours))
        for tokens, row in sorted(after["attention"].items())
    )


def _crossing(ratios):
    """Where a ratio becomes 1 and stays above, or `None`.

    On a straight line, in logarithms, between the two lengths around it; the
    shortest length if it is above from there on.
    """
    points = [(math.log(length), math.log(v)) for length, v in ratios]
    if not points or points[-1][1] < 0:
        return None
    below = [at for at, (_, v) in enumerate(points) if v < 0]
    if not below:
        return math.exp(points[0][0])
    (l0, v0), (l1, v1) = points[below[-1]], points[below[-1] + 1]
    return math.exp(l0 - v0 * (l1 - l0) / (v1 - v0))


def is_limit(name):
    """Whether a name is that of a limit, which nobody can beat."""
    return name in ("C limit", "matrix products") or name.startswith("limit:")


def main_case(part, backend, what=BOTH):
    """The values of the rows that the project's own figures are about."""
    return dict(part=part, case=MAIN, backend=backend, what=what)
