"""Tables of a record, in Markdown.

python benchmarks/report.py [results/bench.json]
"""

import json
import pathlib
import sys

import targets
import targets_gpu
from rows import (
    BOTH,
    FORWARD,
    OURS,
    Rows,
    crossover,
    decode_crossover,
    form,
    forms,
    is_limit,
    ratio,
)
from settings import DUAL

HERE = pathlib.Path(__file__).resolve().parent
WORDS = {True: "yes", False: "no", None: "not measured"}


def summary(record) -> str:
    """What a run has to say: all tables, that of targets last."""
    tables = (cases_table, steps_table, lengths_table, forms_table, dual_table)
    parts = [table(record) for table in (*tables, crossovers, targets_table)]
    return "\n\n".join(part for part in parts if part)


def short(record) -> str:
    """What decides, on one screen: ours against the best peer and the limit."""
    rows = Rows(record)
    lines = [
        row("case", "backend", "what", "ours", "ms", "best peer", "limit"),
        row("---", "---", "---", "---", "---:", "---:", "---:"),
    ]
    keys = ("part", "case", "backend", "what")
    for values in dict.fromkeys(
        tuple(found[key] for key in keys)
        for found in rows.where()
        if found["part"] not in ("length", "step")
    ):
        where = dict(zip(keys, values, strict=True))
        ours = rows.ours(**where)
        if ours is not None:
            lines.append(_short_row(where, ours, rows.where(**where)))
    tables = ["\n".join(lines), steps_table(record), lengths_table(record)]
    tables += [forms_table(record), dual_table(record), crossovers(record)]
    tables += [targets_table(record)]
    return "\n\n".join(table for table in tables if table)


def _short_row(where, ours, found):
    def against(rows):
        if not rows:
            return ""
        best = min(rows, key=lambda row: row["min_ms"])
        return f"{best['name']} x{best['min_ms'] / ours['min_ms']:.2f}"

    limits = [row for row in found if is_limit(row["name"])]
    peers = [
        row
        for row in found
        if not is_limit(row["name"]) and not row["name"].startswith(OURS)
    ]
    if limits:
        # Several limits: the highest is the one to hold it against.
        limits = [max(limits, key=lambda row: row["min_ms"])]
    return row(
        *(f"{where['part']}, {where['case']}", where["backend"]),
        *(where["what"], ours["name"], milliseconds(ours["min_ms"])),
        *(against(peers), against(limits)),
    )


def crossovers(record) -> str:
    """From where on Mamba is faster than attention, in sentences."""
    rows, lines = Rows(record), []
    for backend in record["devices"]:
        length = crossover(rows, backend)
        if length is not None:
            lines.append(
                f"{backend}: a layer trains faster than attention from length "
                f"{length:,.0f} on."
            )
        for case in dict.fromkeys(r["case"] for r in rows.where(part="step")):
            tokens = decode_crossover(rows, case, backend)
            if tokens is not None:
                lines.append(
                    f"{backend}, {case}: a step is faster than attention's "
                    f"after {tokens:,.0f} tokens."
                )
    return "\n".join(lines)


def targets_table(record, measured_only=False) -> str:
    """Every target, its figure, and whether it is reached.

    Args:
        record: A record of `bench.py`.
        measured_only: Whether to leave out those without a figure. A record
            may be of some parts only.
    """
    on_cpu = set(record["devices"].values()) == {"cpu"}
    module = targets if on_cpu else targets_gpu
    lines = [row("what", "is", "should be", "reached")]
    lines.append(row("---", "---:", "---:", "---"))
    for target in module.targets(record):
        if measured_only and target.figure is None:
            continue
        figure = "" if target.figure is None else f"{target.figure:.2f}"
        sign = "≥" if target.at_least else "≤"
        bound = f"{sign} {target.bound:g}"
        lines.append(row(target.what, figure, bound, WORDS[target.reached]))
    return "\n".join(lines)


def cases_table(record, cases=None) -> str:
    """Every candidate with its time, and how it compares with ours.

    Args:
        record: A record of `bench.py`.
        cases: Names of the cases to show. All if `None`.
    """
    rows = Rows(record)
    lines = [
        row("case", "backend", "what", "who", "ms", "/ ours", "peak MB"),
        row("---", "---", "---", "---", "---:", "---:", "---:"),
    ]
    for found in rows.rows:
        if found["part"] in ("length", "step") or (
            cases is not None and found["case"] not in cases
        ):
            continue
        keys = ("part", "case", "backend", "what")
        ours = rows.ours(**{key: found[key] for key in keys})
        lines.append(_case_row(found, ours))
    return "\n".join(lines)


def _case_row(found, ours):
    title = f"{found['part']}, {found['case']}"
    cells = [title, found["backend"], found["what"], found["name"]]
    if "min_ms" not in found:
        return row(*cells, "", "", found.get("refused", ""))
    against = "" if ours is None else f"{found['min_ms'] / ours['min_ms']:.2f}"
    memory = found.get("peak_mb")
    memory = "" if memory is None else f"{memory:.0f}"
    return row(*cells, milliseconds(found["min_ms"]), against, memory)


def steps_table(record) -> str:
    """What one token takes, and what that is made of."""
    rows = Rows(record).where(part="step")
    if not rows:
        return ""
    columns = list(dict.fromkeys((r["case"], r["backend"]) for r in rows))
    lines = [
        row("step, ms", *(f"{case}, {backend}" for case, backend in columns)),
        row("---", *["---:"] * len(columns)),
    ]
    for name in dict.fromkeys(found["name"] for found in rows):
        of_column = {
            (found["case"], found["backend"]): milliseconds(found["min_ms"])
            for found in rows
            if found["name"] == name
        }
        lines.append(row(name, *(of_column.get(c, "") for c in columns)))
    return "\n".join(lines)


def lengths_table(record) -> str:
    """Time and memory against length."""
    rows = Rows(record).where(part="length")
    if not rows:
        return ""
    every = sorted({found["length"] for found in rows})
    lines = [
        row("ms (peak MB)", *(f"{length:,}" for length in every)),
        row("---", *["---:"] * len(every)),
    ]
    for backend, name in dict.fromkeys((r["backend"], r["name"]) for r in rows):
        of_length = {
            r[
                "length"
            ]: f"{milliseconds(r['min_ms'])} ({r['peak_mb'] or 0:.0f})"
            for r in rows
            if (r["backend"], r["name"]) == (backend, name)
        }
        cells = (of_length.get(length, "") for length in every)
        lines.append(row(f"{backend} {name}", *cells))
    return "\n".join(lines)


def forms_table(record) -> str:
    """Which form of a linear system is the fastest at which length."""
    rows = Rows(record)
    every = sorted({found["length"] for found in rows.where(part="system")})
    if not every:
        return ""
    lines = [
        row("S4D's system at length", *(f"{length:,}" for length in every)),
        row("---", *["---"] * len(every)),
    ]
    for backend in record["devices"]:
        for what in (FORWARD, BOTH):
            found = forms(rows, backend=backend, what=what)
            cells = (_ranking(found.get(length, ())) for length in every)
            lines.append(row(f"{backend}, {what}", *cells))
    return "\n".join(lines)


def _ranking(found):
    """The fastest with its time, and how many times as long others take."""
    if not found:
        return ""
    best, *others = found
    times = [f"{form(best)} {milliseconds(best['min_ms'])} ms"]
    times += [
        f"{form(other)} x{milliseconds(other['min_ms'] / best['min_ms'])}"
        for other in others
    ]
    return ", ".join(times)


def dual_table(record) -> str:
    """From which state on `ssd` is faster than a `selective_scan`."""
    rows = Rows(record)
    if not rows.where(part="ssd"):
        return ""
    lines = [
        row("`selective_scan` / `ssd`", *(f"n = {n}" for n in DUAL)),
        row("---", *["---:"] * len(DUAL)),
    ]
    for backend in record["devices"]:
        for what in (FORWARD, BOTH):
            cells = (
                _against_scan(
                    rows,
                    dict(part="ssd", case=case, backend=backend, what=what),
                )
                for case in DUAL.values()
            )
            lines.append(row(f"{backend}, {what}", *cells))
    return "\n".join(lines)


def _against_scan(rows, where):
    """How many times the time of `ssd` the scan takes, and both times."""
    ours = rows.ours(**where)
    scan = next(
        (r for r in rows.where(**where) if r["name"].startswith("selective")),
        None,
    )
    if ours is None or scan is None:
        return ""
    times = (milliseconds(found["min_ms"]) for found in (scan, ours))
    return f"{ratio(scan, ours):.2f} ({' / '.join(times)} ms)"


def milliseconds(value) -> str:
    """Three digits."""
    return f"{value:.3g}" if value < 100 else f"{value:,.0f}"


def row(*cells) -> str:
    """A row of a table."""
    return "| " + " | ".join(str(cell) for cell in cells) + " |"


if __name__ == "__main__":
    path = sys.argv[1] if len(sys.argv) > 1 else HERE / "results" / "bench.json"
    print(summary(json.loads(pathlib.Path(path).read_text())))
