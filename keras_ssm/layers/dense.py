"""Keras' `Dense` inside the layers, where `quantize` and LoRA reach it."""

import keras
import numpy as np
from keras import initializers, ops


class ProjectionLayer(keras.layers.Layer):
    """Base of layers whose projections are those of `build_dense`.

    What was quantized has other variables than what was not. So that a file
    loads again, the build config says how each of those was.

    Args:
        **kwargs: Arguments of `keras.layers.Layer`.
    """

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.projections = ()  # names of the sublayers of `build_dense`
        self.quantized = {}  # see `quantized_arguments`

    def projection_layers(self) -> dict:
        """The projections by name, those of sublayers too."""
        return {name: getattr(self, name) for name in self.projections}

    def get_build_config(self):
        config = super().get_build_config()
        quantized = quantized_arguments(self.projection_layers())
        if not config or not quantized:
            return config
        return {**config, "quantized": quantized}

    def build_from_config(self, config):
        config = dict(config)
        self.quantized = keras.saving.deserialize_keras_object(
            config.pop("quantized", {})
        )
        super().build_from_config(config)


def quantized_arguments(layers: dict) -> dict:
    """How layers of Keras are quantized: arguments that make them so again.

    Args:
        layers: Layers by name. Those that are not quantized are left out.

    Returns:
        By name, `dtype` and `quantization_config`, serialized.
    """
    serialize = keras.saving.serialize_keras_object
    return {
        name: {
            "dtype": serialize(layer.dtype_policy),
            "quantization_config": serialize(layer.quantization_config),
        }
        for name, layer in layers.items()
        if layer.dtype_policy.quantization_mode is not None
    }


class FloatDense(keras.layers.Dense):
    """A `Dense` that stays as it is when a model is quantized.

    For projections to the parameters of a recurrence, whose errors add up
    over time, and which are small.
    """

    def quantize(self, *arguments, **options):
        """Does nothing."""


def build_dense(layer, name, width, units, kind=keras.layers.Dense, **options):
    """A `Dense` from `width` to `units`, under the dtype policy of the layer.

    Args:
        layer: The layer whose `kernel_initializer` and `kernel_regularizer`
            it takes, unless they are among the options.
        name: Its name, which files, LoRA and layout maps rely on.
        width: Size of its input.
        units: Size of its output.
        kind: Class of the projection.
        **options: Other arguments of `Dense`.
    """
    options.setdefault("kernel_initializer", another(layer.kernel_initializer))
    options.setdefault("kernel_regularizer", layer.kernel_regularizer)
    options |= layer.quantized.get(name, {"dtype": layer.dtype_policy})
    dense = kind(units, name=name, **options)
    dense.build((None, None, width))
    layer.projections += (name,)
    return dense


def project(dense, x):
    """`dense(x)` in the compute dtype."""
    dtype = dense.compute_dtype
    if not _is_product(dense):
        # On PyTorch, Keras multiplies float64 matrices in float32.
        return ops.cast(dense(x), dtype)
    y = ops.cast(x, dtype) @ ops.cast(dense.kernel, dtype)
    return y if dense.bias is None else y + ops.cast(dense.bias, dtype)


def _is_product(dense):
    """Whether a call comes to a product, which PyTorch does faster alone.

    Eagerly, a call of a layer of Keras takes as long as a kernel. Layers that
    are quantized or watched, by a quantizer or by hooks, are called.
    """
    return (
        keras.config.backend() == "torch"
        and type(dense) in (keras.layers.Dense, FloatDense)
        and dense.quantization_mode is None
        # Which Keras multiplies in float32 on a CPU.
        and dense.compute_dtype != "float16"
        and "call" not in vars(dense)
        and not dense._forward_hooks
        and not dense._forward_pre_hooks
    )


def split(x, *sizes):
    """Consecutive parts of the channels, so many in each."""
    if keras.config.backend() == "torch":
        # A slice has a gradient as large as all of `x`, and `ops.split` would
        # stop the compiler.
        return x.split(sizes, dim=-1)
    if len(set(sizes)) == 1:
        return ops.split(x, len(sizes), axis=-1)
    # LiteRT knows no parts of several sizes.
    ends = np.cumsum(sizes).tolist()
    return [
        x[..., end - size : end] for size, end in zip(sizes, ends, strict=True)
    ]


def halves(x):
    """The first and the second half of the channels."""
    return split(x, *[x.shape[-1] // 2] * 2)


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


def another(initializer, number: int = 0):
    """A copy: an initializer draws the same numbers whenever it is called.

    Args:
        initializer: An initializer, or any function, which stays as it is.
        number: What is added to its seed, if it was given one.
    """
    if not isinstance(initializer, initializers.Initializer):
        return initializer
    config = initializer.get_config()
    if isinstance(config.get("seed"), int):
        config["seed"] += number
    return type(initializer).from_config(config)
