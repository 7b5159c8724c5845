"""What the project wants to reach on a CPU, and whether it has.

Each target is a figure out of a record and a bound. Times are the fastest of
their samples: what neighbours on the machine add is never negative.
"""

import dataclasses

from rows import (
    BOTH,
    FORWARD,
    OURS,
    Rows,
    form,
    forms,
    growth,
    main_case,
    ratio,
)
from settings import LINEAR, MAMBA2


@dataclasses.dataclass
class Target:
    """A figure and what it has to be.

    Args:
        what: What the figure is.
        figure: The figure, or `None` where it was not measured.
        bound: What to reach.
        at_least: Whether the figure has to be as large, not as small.
    """

    what: str
    figure: float | None
    bound: float
    at_least: bool = False

    @property
    def reached(self):
        """True, False, or `None` where it was not measured."""
        if self.figure is None:
            return None
        if self.at_least:
            return self.figure >= self.bound
        return self.figure <= self.bound


def targets(record) -> list[Target]:
    """All of them, for a record of `bench.py`."""
    rows = Rows(record)
    return [
        *_numba_on_torch(rows),
        *_layer_on_torch(rows),
        *_jax(rows),
        *_tensorflow(rows),
        *_recurrent_layers(rows),
        *_long_sequences(rows),
        *_steps(rows),
        *_linear_scans(rows),
        *_linear_systems(rows),
        *_mamba2(rows),
    ]


def _numba_on_torch(rows):
    forward = rows.one(
        **main_case("recurrence", "torch", FORWARD), name="keras_ssm numba"
    )
    both = rows.one(**main_case("recurrence", "torch"), name="keras_ssm numba")
    limit = rows.one(
        **main_case("recurrence", "torch", FORWARD), name="C limit"
    )
    return [
        Target("PyTorch scan, numba / C", ratio(forward, limit), 3),
        Target(
            "PyTorch scan, numba forward+backward / its forward",
            ratio(both, forward),
            4.5,
        ),
    ]


def _layer_on_torch(rows):
    case = main_case("layer", "torch")
    mamba = rows.ours(**case)
    found = [
        Target(
            "PyTorch Mamba / its matrix products",
            ratio(mamba, rows.one(**case, name="matrix products")),
            1.5,
        )
    ]
    for name, bound in (
        ("mambapy", 7),
        ("torch.nn.LSTM", 1.7),
        ("torch.nn.TransformerEncoderLayer", 1.5),
    ):
        peer = rows.one(**case, name=name)
        found.append(
            Target(f"PyTorch {name} / Mamba", ratio(peer, mamba), bound, True)
        )
    return [*found, _gap_to_attention(rows)]


def _gap_to_attention(rows):
    """How often the ratio to attention grows, out of how often it could."""
    mamba = {r["length"]: r for r in _by_length(rows, "torch")}
    gaps = [
        ratio(row, mamba[row["length"]])
        for row in rows.where(part="length", backend="torch", name="attention")
        if row["length"] in mamba
    ]
    gap = gaps[-1] / gaps[0] if len(gaps) > 1 else None
    return Target(
        "PyTorch attention / Mamba, at the longest length they share over at "
        "the shortest",
        gap,
        1.0,
        True,
    )


def _jax(rows):
    forward = main_case("recurrence", "jax", FORWARD)
    both = main_case("recurrence", "jax")
    ours, ours_both = rows.ours(**forward), rows.ours(**both)
    autodiff = rows.one(**both, name="jax.lax.scan")
    associative = rows.one(**forward, name="jax.lax.associative_scan")
    numba = rows.one(**forward, name="keras_ssm numba")
    return [
        Target(
            "JAX scan, numba / C",
            ratio(numba, rows.one(**forward, name="C limit")),
            3.5,
        ),
        Target(
            "JAX scan forward+backward, autodiff of lax.scan / ours",
            ratio(autodiff, ours_both),
            10,
            True,
        ),
        Target(
            "JAX scan, lax.associative_scan / ours",
            ratio(associative, ours),
            15,
            True,
        ),
        Target(
            "JAX scan forward+backward, autodiff of lax.scan / lax",
            ratio(autodiff, rows.one(**both, name="keras_ssm lax")),
            3,
            True,
        ),
    ]


def _tensorflow(rows):
    case = main_case("layer", "tensorflow")
    products = rows.one(**case, name="matrix products")
    found = [
        Target(
            "TensorFlow Mamba / its matrix products",
            ratio(rows.ours(**case), products),
            2,
        )
    ]
    for what in (FORWARD, BOTH):
        xla = rows.one(
            **main_case("recurrence", "tensorflow", what), name="keras_ssm xla"
        )
        lax = rows.one(
            **main_case("recurrence", "jax", what), name="keras_ssm lax"
        )
        found.append(
            Target(
                f"scan {what}, TensorFlow xla / JAX lax", ratio(xla, lax), 1.3
            )
        )
    return found


def _recurrent_layers(rows):
    found = []
    for backend in ("torch", "jax", "tensorflow"):
        case = main_case("layer", backend)
        lstm = rows.one(**case, name="keras LSTM")
        found.append(
            Target(
                f"{backend}, keras LSTM of as many units / Mamba",
                ratio(lstm, rows.ours(**case)),
                10,
                True,
            )
        )
    return found


def _by_length(rows, backend):
    return [
        row
        for row in rows.where(part="length", backend=backend)
        if row["name"].startswith("keras_ssm")
    ]


def _long_sequences(rows):
    """Growth with the length; a tenth more than linear is called linear."""
    return [
        Target(
            f"{backend}, power of the length that the {title} of Mamba "
            "grows with",
            growth(_by_length(rows, backend), field),
            1.1,
        )
        for backend in ("torch", "jax", "tensorflow")
        for field, title in (("min_ms", "time"), ("peak_mb", "memory"))
    ]


def _steps(rows):
    found = []
    for backend in ("torch", "jax", "tensorflow"):
        late, early = (
            next(
                (
                    row
                    for row in rows.where(part="step", backend=backend)
                    if row["name"].startswith("keras_ssm")
                    and row["name"].endswith(f"after {tokens} tokens")
                ),
                None,
            )
            for tokens in (100_000, 10)
        )
        found.append(
            Target(
                f"{backend}, step after 100,000 tokens / after 10",
                ratio(late, early),
                1.1,
            )
        )
    return found


def _linear_scans(rows):
    """Ours against the fastest that others write."""
    found = []
    for backend in ("torch", "jax", "tensorflow"):
        for kind, case in LINEAR.items():
            where = dict(part="linear_scan", case=case, backend=backend)
            where["what"] = BOTH
            others = [
                row
                for row in rows.where(**where)
                if not row["name"].startswith(OURS)
            ]
            best = min(others, key=lambda row: row["min_ms"], default=None)
            name = "the best other" if best is None else best["name"]
            found.append(
                Target(
                    f"{backend}, {kind} linear scan, {name} / ours",
                    ratio(best, rows.ours(**where)),
                    1,
                    True,
                )
            )
    return found


def _linear_systems(rows):
    """The form whose memory grows most; a tenth more is called linear."""
    found = []
    for backend in ("torch", "jax", "tensorflow"):
        by_form = {}
        for of_length in forms(rows, backend=backend, what=BOTH).values():
            for row in of_length:
                by_form.setdefault(form(row), []).append(row)
        powers = {n: growth(v, "peak_mb") for n, v in by_form.items()}
        powers = {n: v for n, v in powers.items() if v is not None}
        most = max(powers, key=powers.get, default=None)
        title = "a form" if most is None else most
        found.append(
            Target(
                f"{backend}, power of the length that the memory of S4D's "
                f"system grows with, at most ({title})",
                powers.get(most),
                1.1,
            )
        )
    return found


def _mamba2(rows):
    """`ssd` and its layer against their own matrix products."""
    found = []
    for part, what, title, bound in (
        ("ssd", FORWARD, "`ssd` forward", 2.5),
        ("mamba2", BOTH, "Mamba-2 layer", 1.6),
    ):
        for backend in ("torch", "jax", "tensorflow"):
            where = dict(part=part, case=MAMBA2, backend=backend, what=what)
            products = rows.one(**where, name="matrix products")
            found.append(
                Target(
                    f"{backend}, {title} / its matrix products",
                    ratio(rows.ours(**where), products),
                    bound,
                )
            )
    where = dict(part="mamba2", case=MAMBA2, backend="torch", what=BOTH)
    peer = rows.one(**where, name="transformers Mamba2")
    figure = ratio(peer, rows.ours(**where))
    title = "PyTorch transformers' Mamba-2 mixer / Mamba-2 layer"
    return [*found, Target(title, figure, 2, True)]
