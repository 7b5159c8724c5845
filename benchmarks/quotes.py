"""The tables that guides quote, each from a file of `results/`."""

import json

import document_runs
import generation
import language_runs
import recall_runs
import report
import signal_runs
import text_classification
from figures import HERE
from rows import BOTH, OURS, Rows

TITLES = {"torch": "PyTorch", "jax": "JAX", "tensorflow": "TensorFlow"}
# What is set against ours in training, by backend.
PEERS = {
    "torch": ("torch.nn.LSTM", "attention"),
    "jax": ("keras LSTM", "attention"),
}
NAMES = {
    OURS: "Mamba",
    "attention": "attention",
    "keras LSTM": "Keras' LSTM",
    "torch.nn.LSTM": "`torch.nn.LSTM`",
}
STEPS = (10, 1000, 10000, 100000)
NOTHING = "–"
MODELS = {
    "mamba": "Mamba",
    "hybrid": "Mamba and attention",
    "attention": "attention",
}


def lengths():
    """Milliseconds of both passes, by length."""
    return _lengths(PEERS, lambda row: f"{row['min_ms']:,.0f}")


def memory():
    """The same of ours and of attention, with the memory at its peak."""
    peers = {backend: ("attention",) for backend in PEERS}
    return _lengths(
        peers, lambda row: f"{row['min_ms']:,.0f} ms, {row['peak_mb']:,.0f} MB"
    )


def _lengths(peers, cell):
    rows = _bench().where(part="length", what=BOTH)
    columns = [(b, name) for b in peers for name in (OURS, *peers[b])]
    titles = [f"{NAMES[name]}, {TITLES[backend]}" for backend, name in columns]
    found = {}
    for row in rows:
        name = OURS if row["name"].startswith(OURS) else row["name"]
        found[row["backend"], name, row["length"]] = cell(row)
    body = [
        [f"{length:,}"]
        + [found.get((*column, length), NOTHING) for column in columns]
        for length in sorted({row["length"] for row in rows})
    ]
    return _table(["steps", *titles], body)


def steps():
    """Milliseconds of a compiled step, by what was read before."""
    body = []
    for backend, title in TITLES.items():
        rows = _bench().where(part="step", backend=backend)
        for name, text in ((OURS, "Mamba"), ("attention", "attention")):
            found = {
                int(row["name"].split()[-2]): f"{row['min_ms']:.2f}"
                for row in rows
                if row["name"].startswith(name) and "after" in row["name"]
            }
            cells = [found.get(count, NOTHING) for count in STEPS]
            body.append([f"{text}, {title}", *cells])
    return _table(["", *(f"after {count:,} tokens" for count in STEPS)], body)


def compiled():
    """Milliseconds of a step called from Python, eagerly and compiled."""
    body = []
    for backend, how in {
        "jax": ("jit", "JAX, `jax.jit`"),
        "tensorflow": ("jit", "TensorFlow, `tf.function(jit_compile=True)`"),
        "torch": ("compile", "PyTorch, `torch.compile`"),
    }.items():
        cells = [
            _bench().one(part="step", backend=backend, name=f"{OURS}, {way}")
            for way in ("eager", how[0])
        ]
        body.append([how[1], *(f"{row['min_ms']:.2f} ms" for row in cells)])
    return _table(["", "eagerly", "compiled"], body)


def recall():
    """Two blocks of width 64 on what Mamba was made for, and on pairs."""
    runs = recall_runs.best(json.loads(recall_runs.RECORD.read_text()))
    runs = [run for run in runs if run["width"] == 64]
    body = []
    for title, task, pairs, length in (
        ("selective copying", "copying", 0, None),
        ("induction heads, at 256 as in training", "induction", 0, "256"),
        ("induction heads at 16,384", "induction", 0, "16384"),
        ("16 pairs looked up", "association", 16, None),
        ("128 pairs looked up", "association", 128, None),
    ):
        found = {
            run["model"]: run["by_length"][length]
            if length
            else run["accuracy"]
            for run in runs
            if (run["task"], run["pairs"]) == (task, pairs)
        }
        body.append([title, *(f"{found[name]:.2%}" for name in MODELS)])
    return _table(["", *MODELS.values()], body)


def generated():
    """Tokens a second of one row on JAX, and bytes, at both ends."""
    found = {}
    for row in json.loads(generation.RECORD.read_text())["rows"]:
        if (row["backend"], row["batch"]) == ("jax", 1):
            found.setdefault(row["model"], {})[row["context"]] = row
    body, ends = [], (256, 16384)
    for model, rows in found.items():
        speeds = [f"{rows[end]['tokens_a_second']:,.0f}" for end in ends]
        sizes = [f"{rows[end]['state_bytes']:,}" for end in ends]
        body.append([model, f"{rows[256]['parameters']:,}", *speeds, *sizes])
    titles = ["parameters", "after 256 tokens", "after 16,384"]
    titles += ["bytes at 256", "bytes at 16,384"]
    return _table(["", *titles], body)


def texts():
    record = json.loads((HERE / "results/text_classification.json").read_text())
    return text_classification.markdown(record["summary"]) + "\n"


def documents():
    record = json.loads(document_runs.RECORD.read_text())
    return document_runs.table(record) + "\n"


def signals():
    return signal_runs.table(json.loads(signal_runs.RECORD.read_text())) + "\n"


def language():
    record = json.loads(language_runs.RECORD.read_text())
    return language_runs.table(record) + "\n"


def _bench():
    return Rows(json.loads((HERE / "results" / "bench.json").read_text()))


def _table(titles, body):
    """The first column to the left, the others, of figures, to the right."""
    lines = [titles, ["---"] + ["---:"] * (len(titles) - 1), *body]
    return "\n".join(report.row(*cells) for cells in lines) + "\n"
