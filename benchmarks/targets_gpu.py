"""What the project wants to reach on a GPU, and whether it has."""

from rows import BOTH, FORWARD, Rows, ratio
from targets import Target

PEER = "mamba_ssm"
TRAINING = ("b8_l2048",)
SHORT = ("b64_l256",)
LONG = ("b1_l65536", "b1_l1048576")
BOUNDS = {**dict.fromkeys(TRAINING, 1.0), **dict.fromkeys(SHORT, 3.0)}
BOUNDS |= dict.fromkeys(LONG, 1.5)


def targets(record) -> list[Target]:
    """All of them, for a record of `bench.py` with a GPU."""
    rows = Rows(record)
    return [*_against_mamba_ssm(rows), *_against_limits(rows), *_jax(rows)]


def _cases(rows):
    found = rows.where(part="selective_scan")
    return list(dict.fromkeys(row["case"] for row in found))


def _against_mamba_ssm(rows):
    for case in _cases(rows):
        bound = next(
            (b for shape, b in BOUNDS.items() if case.endswith(shape)), 1.0
        )
        where = dict(part="selective_scan", case=case, backend="torch")
        ours, peer = (
            {what: find(what=what, **where) for what in (FORWARD, BOTH)}
            for find in (
                rows.ours,
                lambda **values: rows.one(name=PEER, **values),
            )
        )
        title = f"{case}, {PEER} / ours"
        forward = ratio(peer[FORWARD], ours[FORWARD])
        yield Target(f"{title}, forward", forward, bound, True)
        backward = _backward_ratio(peer, ours)
        yield Target(f"{title}, backward", backward, bound, True)


def _backward_ratio(first, second):
    if None in (*first.values(), *second.values()):
        return None
    times = [v[BOTH]["min_ms"] - v[FORWARD]["min_ms"] for v in (first, second)]
    return times[0] / times[1]


def _against_limits(rows):
    for case in _cases(rows):
        for backend in ("torch", "jax"):
            where = dict(part="selective_scan", case=case, backend=backend)
            where["what"] = FORWARD
            limits = [
                row
                for row in rows.where(**where)
                if row["name"].startswith("limit:")
            ]
            limit = max(limits, key=lambda row: row["min_ms"], default=None)
            yield Target(
                f"{case}, {backend} forward / its limit",
                ratio(rows.ours(**where), limit),
                1.5,
            )


def _jax(rows):
    for case in _cases(rows):
        for what in (FORWARD, BOTH):
            where = dict(part="selective_scan", case=case, what=what)
            pallas = rows.one(backend="jax", name="keras_ssm pallas", **where)
            triton = rows.one(backend="torch", name="keras_ssm triton", **where)
            yield Target(
                f"{case} {what}, Pallas / Triton", ratio(pallas, triton), 1.3
            )
