"""Layers: parameters, and one call to an op."""

from keras_ssm.layers.attention import Attention
from keras_ssm.layers.gated_mlp import GatedMLP
from keras_ssm.layers.griffin import Griffin
from keras_ssm.layers.griffin_block import GriffinBlock
from keras_ssm.layers.hippo import HiPPOBasis, HiPPOLegS
from keras_ssm.layers.hybrid_block import HybridBlock
from keras_ssm.layers.initializers import (
    LogUniformDt,
    LRURing,
    RGLRURing,
    S4DInv,
    S4DLin,
    S4DReal,
    UniformDecay,
)
from keras_ssm.layers.lru import LRU
from keras_ssm.layers.lru_block import LRUBlock
from keras_ssm.layers.mamba import Mamba
from keras_ssm.layers.mamba2 import Mamba2
from keras_ssm.layers.mamba2_block import Mamba2Block
from keras_ssm.layers.mamba3 import Mamba3
from keras_ssm.layers.mamba3_block import Mamba3Block
from keras_ssm.layers.mamba_block import MambaBlock
from keras_ssm.layers.mixture_of_experts import MixtureOfExperts
from keras_ssm.layers.rg_lru import RGLRU
from keras_ssm.layers.rg_lru_block import RGLRUBlock
from keras_ssm.layers.rms_normalization import MaskedRMSNormalization
from keras_ssm.layers.s4 import S4
from keras_ssm.layers.s4_block import S4Block
from keras_ssm.layers.s4d import S4D
from keras_ssm.layers.s4d_block import S4DBlock
from keras_ssm.layers.s5 import S5
from keras_ssm.layers.s5_block import S5Block
from keras_ssm.layers.step_cell import StepCell
from keras_ssm.layers.token_embedding import TokenEmbedding

__all__ = [
    "Attention",
    "GatedMLP",
    "Griffin",
    "GriffinBlock",
    "HiPPOBasis",
    "HiPPOLegS",
    "HybridBlock",
    "LRU",
    "LRUBlock",
    "LRURing",
    "LogUniformDt",
    "Mamba",
    "Mamba2",
    "Mamba2Block",
    "Mamba3",
    "Mamba3Block",
    "MambaBlock",
    "MaskedRMSNormalization",
    "MixtureOfExperts",
    "RGLRU",
    "RGLRUBlock",
    "RGLRURing",
    "S4",
    "S4Block",
    "S4D",
    "S4DBlock",
    "S4DInv",
    "S4DLin",
    "S4DReal",
    "S5",
    "S5Block",
    "StepCell",
    "TokenEmbedding",
    "UniformDecay",
]
