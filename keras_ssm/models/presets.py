"""The arguments of `HybridBackbone` that make published models of it.

Each function takes the size of a model and arguments to change, and returns
keyword arguments:

    HybridBackbone(**mamba_config("130m", vocabulary_size=256))
"""

import keras


@keras.saving.register_keras_serializable(package="keras_ssm")
def gelu_tanh(x):
    """The GELU as Gemma's family approximates it, with a tanh."""
    return keras.activations.gelu(x, approximate=True)


# Width and number of blocks.
MAMBA_SIZES = {
    "130m": (768, 24),
    "370m": (1024, 48),
    "790m": (1536, 48),
    "1.4b": (2048, 48),
    "2.8b": (2560, 64),
}
MAMBA2_SIZES = {
    "130m": (768, 24),
    "370m": (1024, 48),
    "780m": (1536, 48),
    "1.3b": (2048, 48),
    "2.7b": (2560, 64),
}
# Width, number of blocks, units of the MLPs, and rank.
MAMBA3_SIZES = {
    "187m": (768, 12, 1536, 1),
    "1.5b": (2048, 24, 4096, 1),
    "mimo-187m": (768, 12, 1280, 4),
    "mimo-1.5b": (2048, 24, 3840, 4),
}


def mamba_config(size: str = "130m", **changes) -> dict:
    """Mamba: nothing but Mamba, without feed-forward.

    Args:
        size: `"130m"`, `"370m"`, `"790m"`, `"1.4b"`, `"2.8b"`, or `"tiny"` to
            try things.
        **changes: Arguments of `HybridBackbone` that shall be others.

    Raises:
        ValueError: If there is no such size.

    Reference:
        [Gu & Dao, 2023](https://arxiv.org/abs/2312.00752).
    """
    if size == "tiny":
        config = _stack("mamba", 256, 32, 2, mixer={"state_dim": 4})
    else:
        width, blocks = _choose("mamba_config", size, MAMBA_SIZES)
        config = _stack("mamba", 50280, width, blocks)
    return {**config, **changes}


def mamba2_config(size: str = "130m", **changes) -> dict:
    """Mamba-2: nothing but Mamba-2, without feed-forward.

    Args:
        size: `"130m"`, `"370m"`, `"780m"`, `"1.3b"`, `"2.7b"`, or `"tiny"` to
            try things.
        **changes: Arguments of `HybridBackbone` that shall be others.

    Raises:
        ValueError: If there is no such size.

    Reference:
        [Dao & Gu, 2024](https://arxiv.org/abs/2405.21060).
    """
    if size == "tiny":
        small = {"state_dim": 8, "head_dim": 16}
        config = _stack("mamba2", 256, 32, 2, mixer=small)
    else:
        width, blocks = _choose("mamba2_config", size, MAMBA2_SIZES)
        config = _stack("mamba2", 50288, width, blocks)
    return {**config, **changes}


def mamba3_config(size: str = "187m", **changes) -> dict:
    """Mamba-3: each followed by an MLP, with one input at a time or with four.

    Args:
        size: `"187m"`, `"1.5b"`, `"mimo-187m"`, `"mimo-1.5b"`, or `"tiny"` to
            try things.
        **changes: Arguments of `HybridBackbone` that shall be others.

    Raises:
        ValueError: If there is no such size.

    Reference:
        [Lahoti et al., 2026](https://arxiv.org/abs/2603.15569), and the
        models that its authors released.
    """
    if size == "tiny":
        small = {"state_dim": 8, "head_dim": 16, "rank": 2}
        config, units = _stack("mamba3", 256, 32, 2, mixer=small), 48
    else:
        chosen = _choose("mamba3_config", size, MAMBA3_SIZES)
        width, blocks, units, rank = chosen
        mixer = {"rank": rank}
        config = _stack("mamba3", 128256, width, blocks, mixer=mixer)
    return {**config, "feed_forward": {"units": units}, **changes}


def jamba_config(size: str = "v0.1", **changes) -> dict:
    """Jamba: one attention in eight blocks, experts in every other one.

    Its language model has a kernel of its own for logits:
    `CausalLM(backbone, tie_embeddings=False)`.

    Args:
        size: `"v0.1"`, with 52 billion parameters, or `"tiny"` to try things.
        **changes: Arguments of `HybridBackbone` that shall be others.

    Raises:
        ValueError: If there is no such size.

    Reference:
        [Lieber et al., 2024](https://arxiv.org/abs/2403.19887), section 3.
    """
    sizes = {"v0.1": (4096, 32, 14336, 16), "tiny": (32, 8, 48, 4)}
    width, blocks, units, experts = _choose("jamba_config", size, sizes)
    tiny = size == "tiny"
    epsilon = 1e-6
    config = {
        "vocabulary_size": 256 if tiny else 65536,
        "width": width,
        "pattern": (["mamba"] * 4 + ["attention"] + ["mamba"] * 3)
        * (blocks // 8),
        "mixers": {
            "mamba": {
                "state_dim": 4 if tiny else 16,
                "use_inner_norm": True,
                "epsilon": epsilon,
            },
            "attention": {
                "heads": 4 if tiny else 32,
                "kv_heads": 2 if tiny else 8,
            },
        },
        "feed_forward": {"units": units},
        "moe": {
            "experts": experts,
            "units": units,
            "top_k": 2,
            "balance_loss": 0.001,
        },
        "moe_every": 2,
        "moe_offset": 1,
        "epsilon": epsilon,
    }
    return {**config, **changes}


def griffin_config(size: str = "2b", **changes) -> dict:
    """Griffin, as RecurrentGemma is: two recurrent blocks, then attention.

    The attention sees a window, so that the state has a fixed size. Its
    language model bounds logits: `CausalLM(backbone, logit_soft_cap=30.0)`.
    Queries, keys and values have biases here, which RecurrentGemma leaves out;
    and it leaves out the scale of an input at position 0.

    Args:
        size: `"2b"`, or `"tiny"` to try things.
        **changes: Arguments of `HybridBackbone` that shall be others.

    Raises:
        ValueError: If there is no such size.

    Reference:
        [De et al., 2024](https://arxiv.org/abs/2402.19427), section 2;
        [Botev et al., 2024](https://arxiv.org/abs/2404.07839).
    """
    # Scales are rounded to bfloat16.
    sizes = {
        "2b": (2560, 26, 10, 2048, 50.5),
        "tiny": (32, 3, 2, 8, 5.65625),
    }
    width, blocks, heads, window, scale = _choose("griffin_config", size, sizes)
    pattern = ["griffin", "griffin", "attention"] * blocks
    config = {
        "vocabulary_size": 256 if size == "tiny" else 256000,
        "width": width,
        "pattern": pattern[:blocks],
        "mixers": {
            "griffin": {"heads": heads},
            "attention": {
                "heads": heads,
                "kv_heads": 1,
                "window": window,
                "rotary_base": 10000.0,
                "rotary_dim": width // heads // 2,
                "use_bias": True,
            },
        },
        "feed_forward": {
            "units": 3 * width,
            "activation": gelu_tanh,
            "use_bias": True,
        },
        "embedding_scale": scale,
        "epsilon": 1e-6,
    }
    return {**config, **changes}


def _stack(kind, vocabulary_size, width, blocks, mixer=None):
    config = {
        "vocabulary_size": vocabulary_size,
        "width": width,
        "pattern": [kind] * blocks,
        "padding_id": None,
    }
    return config if mixer is None else {**config, "mixers": {kind: mixer}}


def _choose(function, size, sizes):
    if size not in sizes:
        known = sorted({*sizes, "tiny"})
        raise ValueError(
            f"`{function}`: `size` must be one of {known}. "
            f"Received: size={size!r}."
        )
    return sizes[size]
