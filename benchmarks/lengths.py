"""Mamba, LSTM and attention against length: time and peak memory.

Each runs forward and backward in a process of its own for each length, one
after the other, until a length would take too long or too much memory.
"""

import bench
import machine
from rows import BOTH, OURS

PART = "length"
# How much longer than the others ours may take: it goes on to the end.
PATIENCE = 4
# What the next length may take, of what is free.
SHARE = 0.7


def compare(run):
    """Adds a row for each backend, model and length to a run."""
    settings = run.settings
    for backend, worker in run.workers.items():
        for name in _models(run, worker, backend):
            if run.record["devices"][backend] != "cpu":
                # Its memory may be all taken, and JAX never forgets a peak.
                worker.restart()
            rows = []
            for length in settings.lengths:
                reason = _too_much(rows, length, settings.length_seconds)
                if reason is not None:
                    run.say(f"  {backend} {name}: no {length}: {reason}")
                    break
                row = _measure(run, worker, backend, name, length)
                rows.append(row)
                if "refused" in row:
                    break
            run.rows.extend(rows)


def _models(run, worker, backend):
    """Ours, the backend's best LSTM, and attention."""
    keys = worker.ask(
        "candidates",
        part="layer",
        case=run.settings.length_case,
        dtype=run.settings.dtype,
    ).get("keys", ())
    names = list(dict.fromkeys(name for what, name in keys if what == BOTH))
    ours = [n for n in names if n.startswith(OURS)]
    lstm = [n for n in names if n.endswith("LSTM")]
    chosen = [*ours[:1], *lstm[-1:], "attention"]
    return [
        name
        for name in chosen
        if name in names and not run.settings.leaves_out("layer", name)
    ]


def _measure(run, worker, backend, name, length):
    row = dict(part=PART, case=run.settings.length_case, backend=backend)
    row |= dict(what=BOTH, name=name, length=length)
    answer = {}
    for seconds in (None, run.settings.length_seconds / 5):
        if "refused" not in answer:
            answer |= worker.ask(
                "alone",
                part="layer",
                case=run.settings.length_case,
                dtype=run.settings.dtype,
                key=(BOTH, name),
                seconds=seconds,
                length=length,
            )
    if "refused" in answer:
        row["refused"] = answer["refused"]
        run.say(f"  {backend} {name}, {length}: {answer['refused']}")
    else:
        row |= bench.summarise(answer["samples"])
        row["peak_mb"] = bench.megabytes(answer["peak_bytes"])
        run.say(
            f"  {backend} {name}, {length}: {row['min_ms']:.1f} ms, "
            f"{row['peak_mb']} MB"
        )
    return row


def _too_much(rows, length, most_seconds):
    """Why not to try the next length, going by the ones before."""
    if not rows:
        return None
    if rows[0]["name"].startswith(OURS):
        most_seconds *= PATIENCE
    seconds = _next([row["min_ms"] for row in rows], rows, length) / 1e3
    if seconds > most_seconds:
        return f"it would take {seconds:.0f} s"
    memory = _next([row["peak_mb"] or 0 for row in rows], rows, length)
    if memory * 2**20 > SHARE * machine.free_memory():
        return f"it would take {memory / 1024:.0f} GiB"
    return None


def _next(values, rows, length):
    """The next value, if it grows as it did, or in proportion if faster."""
    by = length / rows[-1]["length"]
    grown = values[-1] / values[-2] if len(values) > 1 and values[-2] else 0
    return values[-1] * max(by, grown)
