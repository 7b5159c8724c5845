"""Models: a stack of blocks, and what it is good for."""

from keras_ssm.models.causal_lm import BitsPerToken, CausalLM
from keras_ssm.models.hybrid_backbone import HybridBackbone
from keras_ssm.models.presets import (
    griffin_config,
    jamba_config,
    mamba2_config,
    mamba3_config,
    mamba_config,
)
from keras_ssm.models.samplers import (
    GreedySampler,
    RandomSampler,
    Sampler,
    TopKSampler,
    TopPSampler,
)
from keras_ssm.models.text_classifier import TextClassifier

__all__ = [
    "BitsPerToken",
    "CausalLM",
    "GreedySampler",
    "HybridBackbone",
    "RandomSampler",
    "Sampler",
    "TextClassifier",
    "TopKSampler",
    "TopPSampler",
    "griffin_config",
    "jamba_config",
    "mamba2_config",
    "mamba3_config",
    "mamba_config",
]
