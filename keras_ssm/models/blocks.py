"""The blocks that a pattern describes."""

from keras_ssm.layers.attention import Attention
from keras_ssm.layers.gated_mlp import GatedMLP
from keras_ssm.layers.griffin import Griffin
from keras_ssm.layers.hybrid_block import HybridBlock
from keras_ssm.layers.mamba import Mamba
from keras_ssm.layers.mamba2 import Mamba2
from keras_ssm.layers.mamba3 import Mamba3
from keras_ssm.layers.mixture_of_experts import MixtureOfExperts

# What a pattern calls them.
MIXERS = {
    "attention": Attention,
    "griffin": Griffin,
    "mamba": Mamba,
    "mamba2": Mamba2,
    "mamba3": Mamba3,
}


def make_blocks(
    pattern,
    *,
    mixers,
    feed_forward,
    moe,
    moe_every,
    moe_offset,
    seed,
    **options,
) -> list[HybridBlock]:
    """A block for each entry of a pattern, see `HybridBackbone`.

    Args:
        **options: Further arguments of each block.

    Raises:
        ValueError: If the pattern is empty or names an unknown mixer, or an
            argument does not fit it.
    """
    _check(pattern, mixers, moe_every, moe_offset)
    mixers = {
        name: _make(name, MIXERS.get(name), mixers.get(name, {}))
        for name in dict.fromkeys(pattern)
    }
    feed_forward = _make("feed_forward", GatedMLP, feed_forward)
    moe = _make("moe", MixtureOfExperts, moe)
    return [
        HybridBlock(
            mixers[name],
            moe
            if moe is not None and index % moe_every == moe_offset
            else feed_forward,
            # Two dropouts a block, each with a seed of its own.
            seed=None if seed is None else seed + 2 * index,
            name=f"{name}_{index}",
            **options,
        )
        for index, name in enumerate(pattern)
    ]


def _check(pattern, mixers, moe_every, moe_offset):
    if isinstance(pattern, str) or not pattern:
        raise ValueError(
            "`HybridBackbone`: `pattern` must be a list with the name of at "
            f"least one mixer. Received: pattern={pattern!r}."
        )
    known = {*MIXERS, *mixers}
    unknown = [name for name in pattern if name not in known]
    if unknown:
        raise ValueError(
            f"`HybridBackbone`: `pattern` must hold names of {sorted(known)}. "
            "Another mixer gets its name in `mixers`. "
            f"Received: {unknown[0]!r} in the pattern."
        )
    unused = [name for name in mixers if name not in pattern]
    if unused:
        raise ValueError(
            "`HybridBackbone`: the names in `mixers` must be in the pattern. "
            f"Received: {unused[0]!r} in `mixers`, and pattern={pattern}."
        )
    if moe_offset not in range(moe_every):
        raise ValueError(
            "`HybridBackbone`: `moe_offset` must be at least 0 and less than "
            f"`moe_every`. Received: moe_offset={moe_offset!r}, "
            f"moe_every={moe_every}."
        )


def _make(name, kind, options):
    """The layer for the blocks to copy, from arguments or as it was given."""
    if not isinstance(options, dict):
        return options
    if kind is None:
        raise ValueError(
            f"`HybridBackbone`: `mixers[{name!r}]` must be a sequence layer, "
            f"as {name!r} is none of {sorted(MIXERS)}. "
            f"Received: {options}."
        )
    try:
        return kind(**options)
    except TypeError as error:
        raise ValueError(
            f"`HybridBackbone`: {name!r} must have arguments of "
            f"`{kind.__name__}`: {error}. Received: {options}."
        ) from error
