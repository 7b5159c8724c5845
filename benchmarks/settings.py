"""What a run of the benchmark measures, by the name of the setting."""

import dataclasses

# The case of the figures that the project has set itself, at width 384.
MAIN = "mamba_small_b2_l1024"
SIZES = ("130m", "370m", "790m", "1_4b", "2_8b")
SHAPES = ("b1_l256", "b8_l256", "b8_l2048", "b1_l8192")
# Python loops over time, and gradients that take minutes to trace.
SLOW = ("transformers", "keras.ops.associative_scan")


@dataclasses.dataclass(frozen=True)
class Settings:
    """What to measure, and for how long.

    Args:
        timed: `(part, case)`; all its candidates are timed in turn.
        alone: `(part, case)` out of them whose candidates also run in a
            process of their own, for their peak memory.
        lengths: The lengths of the comparison of Mamba, LSTM and attention.
        length_case: What else that comparison has: channels and batch.
        rounds: How often the backends take turns.
        most_seconds: A candidate that has been timed for so long in a case
            sits out the other rounds.
        length_seconds: A length that would take a candidate longer is left
            out.
        left_out: Names of candidates not to run.
        dtype: Dtype of the tensors.
    """

    timed: tuple[tuple[str, str], ...]
    alone: tuple[tuple[str, str], ...] = ()
    lengths: tuple[int, ...] = ()
    length_case: str = "mamba_small_b1_l256"
    rounds: int = 5
    most_seconds: float = 5.0
    length_seconds: float = 15.0
    left_out: tuple[str, ...] = SLOW
    dtype: str = "float32"


def _each(parts, sizes, shapes):
    return tuple(
        (part, f"mamba_{size}_{shape}")
        for size in sizes
        for shape in shapes
        for part in parts
    )


OPS = ("selective_scan", "causal_conv1d")

SETTINGS = {
    # Whether everything runs, in a minute or two.
    "tiny": Settings(
        timed=(
            ("recurrence", "mamba_small_b1_l256"),
            *_each((*OPS, "layer", "step"), ("small",), ("b1_l256",)),
        ),
        alone=(("layer", "mamba_small_b1_l256"),),
        lengths=(64, 256),
        rounds=2,
        most_seconds=0.5,
        length_seconds=2.0,
        left_out=(*SLOW, "keras LSTM", "mambapy"),
    ),
    # What has a target, and the smallest real model.
    "quick": Settings(
        timed=(
            ("recurrence", MAIN),
            ("layer", MAIN),
            *_each(OPS, ("small",), ("b2_l1024",)),
            ("layer", "mamba_130m_b1_l256"),
            ("step", "mamba_130m_b1_l256"),
        ),
        alone=(("layer", MAIN),),
        lengths=(256, 1024, 4096, 16384, 65536),
    ),
    "full": Settings(
        timed=(
            ("recurrence", MAIN),
            ("layer", MAIN),
            *_each(OPS, ("small",), ("b2_l1024",)),
            *_each((*OPS, "layer"), SIZES, SHAPES),
            *_each(("step",), SIZES, ("b1_l256", "b8_l256")),
        ),
        alone=(
            ("recurrence", MAIN),
            ("layer", MAIN),
            *_each(("layer",), SIZES, ("b8_l256", "b1_l8192")),
        ),
        lengths=tuple(2**i for i in range(8, 17)),
        rounds=7,
        most_seconds=20.0,
        length_seconds=120.0,
        left_out=(),
    ),
    # Shapes of training on one GPU, very short and very long ones.
    "gpu": Settings(
        timed=(
            *_each(OPS, ("130m", "370m", "790m", "2_8b"), ("b8_l2048",)),
            *_each(OPS, ("130m",), ("b64_l256",)),
            *_each(
                ("selective_scan",), ("130m",), ("b1_l65536", "b1_l1048576")
            ),
            *_each(("layer",), ("130m", "2_8b"), ("b8_l2048",)),
            *_each(("step",), ("130m", "2_8b"), ("b1_l256",)),
        ),
        lengths=tuple(4**i for i in range(5, 9)),
        length_case="mamba_130m_b1_l256",
        most_seconds=1.0,
        length_seconds=5.0,
        left_out=(*SLOW, "keras LSTM", "torch.nn.LSTM"),
        dtype="bfloat16",
    ),
}
