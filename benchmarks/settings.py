"""What a run of the benchmark measures, by the name of the setting."""

import dataclasses

# The case of the figures that the project has set itself, at width 384.
MAIN = "mamba_small_b2_l1024"
# Linear scans of as many real numbers, `a` another at each step. Where a
# complex one is the same at all, who composes maps misses the tolerance of the
# tests: the rounding errors of its powers add up.
LINEAR = {"real": "real_scan_b2_l1024", "complex": "complex_scan_b2_l1024"}
# `ssd` and Mamba-2 at the same width, by the size of the state.
DUAL = {n: f"mamba2_n{n}_b2_l1024" for n in (16, 32, 64, 128, 256)}
MAMBA2 = DUAL[128]
SIZES = ("130m", "370m", "790m", "1_4b", "2_8b")
SHAPES = ("b1_l256", "b8_l256", "b8_l2048", "b1_l8192")
GPU_SHAPES = ("b64_l256", "b1_l65536", "b1_l1048576")
# Python loops over time, and maps of every step composed by `keras.ops`.
SLOW = ("transformers", ("recurrence", "keras.ops.associative_scan"))
# Ours for a GPU: on a CPU they do more work, and take long to compile.
ASSOCIATIVE = tuple(
    (part, f"keras_ssm {name}")
    for part in ("recurrence", "selective_scan", "layer")
    for name in ("lax_associative", "xla_associative")
)
# A loop over single steps is bound by launches there.
SLOW_ON_GPU = (
    *("keras.ops.associative_scan", "keras LSTM", "torch.nn.LSTM"),
    *("keras_ssm torch", "keras_ssm lax"),
)


@dataclasses.dataclass(frozen=True)
class Settings:
    """What to measure, and for how long.

    Args:
        timed: `(part, case)`; all its candidates are timed in turn.
        alone: `(part, case)` out of them whose candidates also run forward
            and backward in a process of their own, for their peak memory.
        lengths: The lengths of the comparison of Mamba, LSTM and attention.
        length_case: What else that comparison has: channels and batch.
        rounds: How often the backends take turns.
        most_seconds: A candidate that has been timed for so long in a case
            sits out the other rounds.
        length_seconds: A length that would take a peer longer is left out;
            ours may take four times as long.
        left_out: Names of candidates not to run, or `(part, name)`.
        dtype: Dtype of the tensors.
        turns: Whether the backends take turns in each case. They cannot where
            each needs all memory of a GPU: then they follow one another.
    """

    timed: tuple[tuple[str, str], ...]
    alone: tuple[tuple[str, str], ...] = ()
    lengths: tuple[int, ...] = ()
    length_case: str = "mamba_small_b1_l256"
    rounds: int = 5
    most_seconds: float = 5.0
    length_seconds: float = 15.0
    left_out: tuple[str | tuple[str, str], ...] = SLOW
    dtype: str = "float32"
    turns: bool = True

    def leaves_out(self, part: str, name: str) -> bool:
        """Whether a candidate is not to run."""
        return name in self.left_out or (part, name) in self.left_out


def _each(parts, sizes, shapes):
    return tuple(
        (part, f"mamba_{size}_{shape}")
        for size in sizes
        for shape in shapes
        for part in parts
    )


def _linear(names, lengths):
    """Linear scans, and a linear system at several lengths."""
    return (
        *(("linear_scan", LINEAR[name]) for name in names),
        *(("system", f"s4d_b2_l{length}") for length in lengths),
    )


OPS = ("selective_scan", "causal_conv1d")
MAMBA2_PARTS = (*(("ssd", case) for case in DUAL.values()), ("mamba2", MAMBA2))

SETTINGS = {
    # Whether everything runs, in a minute or two.
    "tiny": Settings(
        timed=(
            ("recurrence", "mamba_small_b1_l256"),
            *_each((*OPS, "layer", "step"), ("small",), ("b1_l256",)),
            *_linear(("complex",), (256,)),
            *((part, "mamba2_n16_b1_l256") for part in ("ssd", "mamba2")),
        ),
        alone=(("layer", "mamba_small_b1_l256"),),
        lengths=(64, 256),
        rounds=2,
        most_seconds=0.5,
        length_seconds=2.0,
        left_out=(
            *(*SLOW, *ASSOCIATIVE, "keras LSTM", "mambapy"),
            "keras.ops.associative_scan",
        ),
    ),
    # What has a target.
    "quick": Settings(
        timed=(
            ("recurrence", MAIN),
            ("layer", MAIN),
            *_each(OPS, ("small",), ("b2_l1024",)),
            ("step", "mamba_130m_b1_l256"),
            *_linear(LINEAR, (256, 1024, 4096, 16384)),
            *MAMBA2_PARTS,
        ),
        alone=(
            ("layer", MAIN),
            ("mamba2", MAMBA2),
            *_linear((), (1024, 4096, 16384)),
        ),
        lengths=(256, 1024, 4096, 16384, 65536),
        left_out=(*SLOW, *ASSOCIATIVE),
    ),
    "full": Settings(
        timed=(
            ("recurrence", MAIN),
            ("layer", MAIN),
            *_each(OPS, ("small",), ("b2_l1024",)),
            *_each((*OPS, "layer"), SIZES, SHAPES),
            *_each(("step",), SIZES, ("b1_l256", "b8_l256")),
            *_linear(LINEAR, (2**i for i in range(8, 17))),
            *MAMBA2_PARTS,
        ),
        alone=(
            ("recurrence", MAIN),
            ("layer", MAIN),
            ("mamba2", MAMBA2),
            *_linear(LINEAR, (2**i for i in range(8, 17))),
            *_each(("layer",), SIZES, ("b8_l256", "b1_l8192")),
        ),
        lengths=tuple(2**i for i in range(8, 17)),
        rounds=7,
        most_seconds=20.0,
        length_seconds=120.0,
        left_out=(),
    ),
    # Shapes of training on one GPU, very short and very long ones: what fits
    # into a few minutes.
    "gpu": Settings(
        timed=(
            *_each(("selective_scan",), ("130m", "2_8b"), ("b8_l2048",)),
            *_each(("selective_scan",), ("130m",), GPU_SHAPES),
            *_each(("layer",), ("130m",), ("b8_l2048",)),
            *_each(("causal_conv1d",), ("130m",), ("b8_l2048",)),
            *_each(("step",), ("130m",), ("b1_l256",)),
        ),
        lengths=tuple(4**i for i in range(5, 9)),
        length_case="mamba_130m_b1_l256",
        most_seconds=1.0,
        length_seconds=5.0,
        left_out=SLOW_ON_GPU,
        dtype="bfloat16",
        turns=False,
    ),
    "gpu_full": Settings(
        timed=(
            *_each(OPS, SIZES, ("b8_l2048", "b64_l256")),
            *_each(OPS, ("130m",), GPU_SHAPES[1:]),
            *_each(("layer",), SIZES, ("b8_l2048", "b1_l65536")),
            *_each(("step",), SIZES, ("b1_l256", "b8_l256")),
        ),
        lengths=tuple(2**i for i in range(8, 21)),
        length_case="mamba_130m_b1_l256",
        most_seconds=2.0,
        length_seconds=20.0,
        left_out=SLOW_ON_GPU,
        dtype="bfloat16",
        turns=False,
    ),
}
