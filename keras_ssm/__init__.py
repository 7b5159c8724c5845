"""State space layers for Keras 3 on PyTorch, JAX and TensorFlow."""

from keras_ssm import layers, models, ops, optimizers, visualize
from keras_ssm.ops import show_implementations, use_implementation
from keras_ssm.serving import Stream, export

__version__ = "0.1.0.dev0"

__all__ = [
    "Stream",
    "export",
    "layers",
    "models",
    "ops",
    "optimizers",
    "show_implementations",
    "use_implementation",
    "visualize",
]
