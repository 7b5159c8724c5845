"""Keras' `Dense` inside the layers, where `quantize` and LoRA reach it."""

import keras
from keras import initializers, ops


def build_dense(layer, name, width, units, **options):
    """A `Dense` from `width` to `units`, under the dtype policy of the layer.

    Args:
        layer: The layer whose `kernel_initializer` and `kernel_regularizer`
            it takes, unless they are among the options.
        name: Its name, which files, LoRA and layout maps rely on.
        width: Size of its input.
        units: Size of its output.
        **options: Other arguments of `Dense`.
    """
    options.setdefault("kernel_initializer", _another(layer.kernel_initializer))
    options.setdefault("kernel_regularizer", layer.kernel_regularizer)
    dense = keras.layers.Dense(
        units, dtype=layer.dtype_policy, name=name, **options
    )
    dense.build((None, None, width))
    return dense


def project(dense, x):
    """`dense(x)` in the compute dtype."""
    # On PyTorch, Keras multiplies float64 matrices in float32.
    return ops.cast(dense(x), dense.compute_dtype)


def contract(subscripts, x, matrix):
    """`einsum` of a sequence `(b, l, ...)` or a step `(b, ...)`.

    Args:
        subscripts: Those of `einsum`, with `...` for the batch and the length.
        x: The sequence, or the step.
        matrix: The other factor, in the dtype of `x`.
    """
    # Not `ops.matmul`: on PyTorch, Keras multiplies float64 matrices in
    # float32. Not "..." either: TensorFlow multiplies float16 wrongly then.
    axes = len(subscripts.split(",")[0].removeprefix("..."))
    steps = "bt"[: len(x.shape) - axes]
    return ops.einsum(subscripts.replace("...", steps), x, matrix)


def fan_in_uniform():
    """U(±1/sqrt(fan_in)): how the papers' code leaves linear layers."""
    return initializers.VarianceScaling(1 / 3, "fan_in", "uniform")


def _another(initializer):
    """A copy: an initializer draws the same numbers whenever it is called."""
    if isinstance(initializer, initializers.Initializer):
        return initializer.clone()
    return initializer
