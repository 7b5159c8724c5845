"""Small models for the tests of models, and tokens for them."""

import keras
import numpy as np
import pytest
from compare import as_array
from harness import BACKEND

from keras_ssm.layers import Attention
from keras_ssm.models import (
    CausalLM,
    HybridBackbone,
    griffin_config,
    jamba_config,
    mamba2_config,
    mamba3_config,
    mamba_config,
)

VOCABULARY, LENGTH = 20, 11
# What makes each a small model of its kind, with padding.
SMALL = {"vocabulary_size": VOCABULARY, "width": 8, "padding_id": 0}
CONFIGS = {
    "mamba": mamba_config("tiny", **SMALL),
    "mamba2": mamba2_config(
        "tiny",
        **SMALL,
        mixers={"mamba2": {"state_dim": 4, "head_dim": 4}},
    ),
    "mamba3": mamba3_config(
        "tiny",
        **SMALL,
        mixers={"mamba3": {"state_dim": 4, "head_dim": 4, "rank": 2}},
    ),
    "jamba": jamba_config("tiny", **SMALL, pattern=["mamba", "attention"]),
    "griffin": griffin_config(
        "tiny",
        **SMALL,
        pattern=["griffin", "local"],
        mixers={
            "griffin": {"heads": 2},
            "local": Attention(2, kv_heads=1, window=4, rotary_base=100.0),
        },
    ),
}


def each_config(quick="jamba"):
    """Parametrizes a test over all models.

    PyTorch runs all of them. JAX and TensorFlow compile what they run: there
    one has to do, but for `make test-all`.
    """
    return pytest.mark.parametrize(
        "name",
        [
            pytest.param(
                name,
                marks=()
                if BACKEND == "torch" or name == quick
                else pytest.mark.slow,
            )
            for name in CONFIGS
        ],
    )


def backbone(name="mamba", **changes):
    """A small backbone, every weight of it random, and always the same."""
    keras.utils.set_random_seed(0)
    return randomize(HybridBackbone(**{**CONFIGS[name], **changes}))


def causal_lm(kind="mamba", **options):
    """A small language model, every weight of it random, and the same."""
    keras.utils.set_random_seed(0)
    return randomize(CausalLM(HybridBackbone(**CONFIGS[kind]), **options))


def randomize(model, seed: int = 0):
    """Moves every weight, so that none is zero, one or equal."""
    rng = np.random.default_rng(seed)
    for v in model.trainable_variables:
        noise = rng.uniform(-0.3, 0.3, v.shape).astype("float32")
        v.assign(as_array(v.value) + noise)
    return model


def padded_tokens(length: int = LENGTH, seed: int = 1):
    """Three rows of tokens: whole, padded on the right and on the left."""
    rng = np.random.default_rng(seed)
    tokens = rng.integers(1, VOCABULARY, (3, length)).astype("int32")
    tokens[1, length - 4 :] = 0
    tokens[2, :3] = 0
    return tokens


def flat(state):
    """The tensors of a state as arrays."""
    return [as_array(v) for v in keras.tree.flatten(state)]
