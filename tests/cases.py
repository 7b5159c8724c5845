"""Named cases for tests and benchmarks: what the ops are called with.

One list serves every op. A case is a size and a choice of arguments, named
after the situation it stands for; `make_inputs` turns it into NumPy arrays.
Chunks of the implementations have 32 or 64 steps, hence the odd lengths.
"""

import dataclasses

import numpy as np

# Arguments with an axis of time, `(b, l, ...)`.
PER_STEP = ("x", "dt", "a", "B", "C", "z", "mask", "segment_ids")

# Steps of a chunk of `ssd`: fewer than its default, for several in most cases.
SSD_CHUNK = 32


@dataclasses.dataclass(frozen=True)
class Case:
    """A call of an op.

    Args:
        name: What it stands for.
        b: Batch.
        l: Length.
        d: Channels; of `ssd`, heads.
        n: State.
        g: Groups of B and C; `None` for B and C without an axis of groups.
        k: Width of the convolution.
        p: Channels of a head of `ssd`.
        D: Whether there is a skip; in a linear scan, whether x is complex.
        z: Whether there is a gate; in a linear scan, whether each step has an
            `a` of its own.
        bias: Whether there is a `dt_bias`, in a convolution a `bias`; in a
            linear scan, whether `a` is complex if x is.
        nonlinear: Whether step sizes pass through softplus, the output of a
            convolution through silu.
        initial_state: Whether there is one.
        mask: `None`, "right" or "left" (the side of the padding), "holes" or
            "row" (a row without any unmasked step).
        segments: `None`, "runs" or "alternating" (ids 0, 1, 0, 1, ...).
        reverse: Whether to run from the end.
        use: "test", "slow" (part of the long test run) or "benchmark".
    """

    name: str
    b: int = 2
    l: int = 32
    d: int = 6
    n: int = 4
    g: int | None = None
    k: int = 4
    p: int = 2
    D: bool = False
    z: bool = False
    bias: bool = False
    nonlinear: bool = False
    initial_state: bool = False
    mask: str | None = None
    segments: str | None = None
    reverse: bool = False
    use: str = "test"


# The arguments that a Mamba layer gives.
MAMBA = dict(D=True, z=True, bias=True, nonlinear=True)

CASES = [
    Case("one_number", b=1, l=1, d=1, n=1, k=1),
    Case("two_steps_behind_a_state", l=2, d=3, n=3, D=True, initial_state=True),
    Case("three_steps_from_the_end", l=3, d=5, k=7, z=True, reverse=True),
    Case("bare_recurrence", b=3, l=31, d=7, n=3, k=2),
    Case("mamba", l=64, d=8, n=16, **MAMBA),
    Case("mamba_goes_on", l=65, d=5, n=16, initial_state=True, **MAMBA),
    Case("mamba_backwards", l=63, n=16, reverse=True, **MAMBA),
    Case("right_padding", b=4, l=33, mask="right", **MAMBA),
    Case(
        "left_padding",
        b=4,
        l=32,
        mask="left",
        k=7,
        initial_state=True,
        **MAMBA,
    ),
    Case(
        "right_padding_backwards",
        b=3,
        l=65,
        g=1,
        mask="right",
        initial_state=True,
        reverse=True,
        **MAMBA,
    ),
    Case("holes", l=64, g=3, bias=True, mask="holes", initial_state=True),
    Case("masked_row", l=5, D=True, mask="row", initial_state=True),
    Case("groups", l=33, d=9, n=16, g=3, z=True, nonlinear=True, reverse=True),
    Case(
        "packed_documents",
        b=2,
        l=100,
        n=16,
        segments="runs",
        initial_state=True,
        **MAMBA,
    ),
    Case(
        "packed_and_padded_backwards",
        b=3,
        l=65,
        g=2,
        mask="holes",
        segments="alternating",
        initial_state=True,
        reverse=True,
        **MAMBA,
    ),
    Case(
        "wide_window",
        b=2,
        l=31,
        k=20,
        bias=True,
        D=True,
        mask="left",
        segments="alternating",
    ),
    Case("wide_state", b=1, l=33, d=3, n=256, D=True, initial_state=True),
    Case("long_text", b=2, l=1000, d=5, n=16, initial_state=True, **MAMBA),
    *(
        Case(
            f"mamba_{size}_b{b}_l{l}",
            b=b,
            l=l,
            d=d,
            n=16,
            use="benchmark",
            **MAMBA,
        )
        for size, d in (
            ("small", 768),
            ("130m", 1536),
            ("370m", 2048),
            ("790m", 3072),
            ("1_4b", 4096),
            ("2_8b", 5120),
        )
        for b, l in (
            *((1, 256), (8, 256), (64, 256)),
            *((2, 1024), (8, 2048), (1, 8192)),
            *((1, 2**16), (1, 2**20)),
        )
    ),
    Case("real_scan_b2_l1024", l=1024, d=768, z=True, use="benchmark"),
    Case(
        "complex_scan_b2_l1024",
        l=1024,
        d=384,
        z=True,
        D=True,
        bias=True,
        use="benchmark",
    ),
    *(
        Case(
            f"mamba2_n{n}_b{b}_l{l}",
            b=b,
            l=l,
            d=12,
            n=n,
            p=64,
            use="benchmark",
            **MAMBA,
        )
        for n in (16, 32, 64, 128, 256)
        for b, l in ((1, 256), (2, 1024))
    ),
    *(
        Case(f"s4d_b2_l{l}", l=l, d=32, n=32, use="benchmark")
        for l in (2**i for i in range(8, 17))
    ),
    *(
        Case(f"sweep_l{l}_k{k}_{name}", l=l, k=k, use="slow", **flags)
        for l, k in (
            *((1, 4), (2, 1), (3, 20), (31, 7), (32, 2), (33, 4)),
            *((63, 20), (64, 4), (65, 7), (100, 1), (1000, 4)),
        )
        for name, flags in {
            "plain": dict(d=1, n=1),
            "state": dict(d=7, n=3, initial_state=True, **MAMBA),
            "grouped": dict(g=2, n=16, D=True, reverse=True, mask="left"),
            "padded": dict(mask="right", initial_state=True, **MAMBA),
            "packed": dict(mask="holes", segments="runs", z=True),
            "alternating": dict(
                segments="alternating", reverse=True, initial_state=True
            ),
        }.items()
    ),
]


def select(use: str) -> list[Case]:
    """The cases for "test", "slow" or "benchmark"."""
    return [case for case in CASES if case.use == use]


def named(name: str) -> Case:
    """The case of that name."""
    return next(case for case in CASES if case.name == name)


def make_inputs(op: str, case: Case, seed: int = 0):
    """The arguments of a call.

    Masked steps hold NaN, and ids of segments that do not exist.

    Args:
        op: "selective_scan", "causal_conv1d", "linear_scan" or "ssd".
        case: The case.
        seed: Seed of the random numbers.

    Returns:
        `(arrays, options)`: a dictionary of the arguments that are arrays,
        floating ones in float64 but exact in float32, and one of the plain
        arguments. Of a linear scan, "complex" names the arrays that are
        complex numbers, real and imaginary parts side by side, and
        `constant_a` is an `a` that is the same at all steps.
    """
    random = np.random.default_rng(seed)
    make = {
        "selective_scan": _scan_arrays,
        "causal_conv1d": _conv_arrays,
        "linear_scan": _linear_arrays,
        "ssd": _ssd_arrays,
    }[op]
    arrays = {
        name: array.astype(np.float32).astype(np.float64)
        for name, array in make(case, random).items()
        if array is not None
    }
    mask = _make_mask(case, random)
    if mask is not None:
        for name in PER_STEP:
            if name in arrays:
                arrays[name][~mask] = np.nan
        arrays["mask"] = mask
    if case.segments is not None:
        arrays["segment_ids"] = _make_segments(case, random, mask)
    options = {"reverse": case.reverse}
    if op in ("selective_scan", "ssd"):
        options["dt_softplus"] = case.nonlinear
        if op == "ssd":
            options["chunk_size"] = SSD_CHUNK
    elif op == "linear_scan":
        options["complex"] = complex_of(case)
    else:
        options["activation"] = "silu" if case.nonlinear else None
    return arrays, options


def make_cotangents(op: str, case: Case, seed: int = 1):
    """Random gradients with respect to y and the state."""
    b, l, d = case.b, case.l, case.d
    if op == "linear_scan" and case.D:
        d = 2 * d
    channels = (d, case.p) if op == "ssd" else (d,)
    tail = {
        "selective_scan": (d, case.n),
        "causal_conv1d": (case.k - 1, d),
        "linear_scan": (d,),
        "ssd": (d, case.p, case.n),
    }
    random = np.random.default_rng(seed)
    shapes = ((b, l, *channels), (b, *tail[op]))
    return tuple(
        random.normal(size=shape).astype(np.float32).astype(np.float64)
        for shape in shapes
    )


def _scan_arrays(case, random):
    b, l, d, n = case.b, case.l, case.d, case.n
    maps = (b, l, n) if case.g is None else (b, l, case.g, n)
    sizes = np.exp(random.uniform(np.log(1e-2), 0, (b, l, d)))
    return {
        "x": random.normal(size=(b, l, d)),
        "dt": np.log(np.expm1(sizes)) if case.nonlinear else sizes,
        "A": -np.exp(random.uniform(np.log(0.1), np.log(n + 1), (d, n))),
        "B": random.normal(size=maps),
        "C": random.normal(size=maps),
        "D": random.normal(size=d) if case.D else None,
        "z": random.normal(size=(b, l, d)) if case.z else None,
        "dt_bias": random.uniform(0, 0.1, d) if case.bias else None,
        "initial_state": (
            random.normal(size=(b, d, n)) if case.initial_state else None
        ),
    }


def _ssd_arrays(case, random):
    """Those of a scan, with a decay for each head and no gate."""
    b, l, h, p, n = case.b, case.l, case.d, case.p, case.n
    arrays = _scan_arrays(dataclasses.replace(case, z=False), random)
    arrays["x"] = random.normal(size=(b, l, h, p))
    arrays["A"] = arrays["A"][:, 0]
    if case.initial_state:
        arrays["initial_state"] = random.normal(size=(b, h, p, n))
    return arrays


def _conv_arrays(case, random):
    b, l, d, k = case.b, case.l, case.d, case.k
    return {
        "x": random.normal(size=(b, l, d)),
        "weight": random.normal(size=(k, d)),
        "bias": random.normal(size=d) if case.bias else None,
        "initial_state": (
            random.normal(size=(b, k - 1, d)) if case.initial_state else None
        ),
    }


def _linear_arrays(case, random):
    b, l, d, pairs = case.b, case.l, case.d, complex_of(case)
    name, shape = ("a", (b, l, d)) if case.z else ("constant_a", (d,))
    a = np.exp(-np.exp(random.uniform(np.log(1e-3), 0, shape)))
    angle = random.uniform(-np.pi, np.pi, shape)
    if name in pairs:
        a = np.concatenate([a * np.cos(angle), a * np.sin(angle)], axis=-1)
    else:
        a = a * np.sign(angle)
    width = 2 * d if "x" in pairs else d
    return {
        "x": random.normal(size=(b, l, width)),
        name: a,
        "initial_state": (
            random.normal(size=(b, width)) if case.initial_state else None
        ),
    }


def complex_of(case):
    """Names of the arrays of a linear scan that are complex numbers."""
    names = ("x",) if case.D else ()
    names += ("initial_state",) if case.D and case.initial_state else ()
    name = "a" if case.z else "constant_a"
    return (*names, name) if case.D and case.bias else names


def _make_mask(case, random):
    b, l = case.b, case.l
    step = np.arange(l)
    length = np.linspace(l, 1, b).astype(int)[:, None]
    if case.mask == "right":
        return step < length
    if case.mask == "left":
        return step >= l - length
    if case.mask == "holes":
        return random.uniform(size=(b, l)) < 0.7
    if case.mask == "row":
        return np.arange(b)[:, None] + 0 * step > 0
    return None


def _make_segments(case, random, mask):
    """Runs of one to nine steps, at other places in every row."""
    ids = np.zeros((case.b, case.l), np.int32)
    for row in ids:
        ends = np.cumsum(random.integers(1, 10, size=case.l))
        row[:] = np.searchsorted(ends, np.arange(case.l), side="right")
    if case.segments == "alternating":
        ids %= 2
    if mask is not None:
        ids[~mask] = 99
    return ids
