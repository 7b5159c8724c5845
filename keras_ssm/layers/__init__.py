"""Layers: parameters, and one call to an op."""

from keras_ssm.layers.initializers import LogUniformDt, S4DReal
from keras_ssm.layers.mamba import Mamba
from keras_ssm.layers.mamba_block import MambaBlock
from keras_ssm.layers.step_cell import StepCell

__all__ = ["LogUniformDt", "Mamba", "MambaBlock", "S4DReal", "StepCell"]
