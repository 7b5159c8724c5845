"""What becomes of each kind of layer when a model runs as a stream."""

import keras
from keras import layers, ops

from keras_ssm.layers.gated_mlp import GatedMLP
from keras_ssm.layers.mixture_of_experts import MixtureOfExperts
from keras_ssm.layers.rms_normalization import MaskedRMSNormalization
from keras_ssm.layers.sequence_layer import grows
from keras_ssm.layers.token_embedding import TokenEmbedding
from keras_ssm.ops.steps import take_steps

# Each output step is a function of the same input step alone. Layers that
# have an axis must have the last one.
STEPWISE = (
    layers.Activation,
    layers.ActivityRegularization,
    layers.Add,
    layers.AlphaDropout,
    layers.Average,
    layers.BatchNormalization,
    layers.Concatenate,
    layers.Dense,
    layers.Dropout,
    layers.ELU,
    layers.Embedding,
    GatedMLP,
    layers.GaussianDropout,
    layers.GaussianNoise,
    layers.Identity,
    layers.LayerNormalization,
    layers.LeakyReLU,
    layers.Masking,
    layers.Maximum,
    layers.Minimum,
    MixtureOfExperts,
    layers.Multiply,
    layers.RMSNormalization,
    layers.ReLU,
    layers.Rescaling,
    layers.Softmax,
    layers.SpatialDropout1D,
    layers.Subtract,
    layers.UnitNormalization,
    MaskedRMSNormalization,
    TokenEmbedding,
)
# Functions of `keras.ops` in a functional model, such as the `+` of a residual
# and the `!=` of a mask.
STEPWISE_OPS = (
    *("Absolute", "Add", "Any", "Cast", "Divide", "Equal", "Exp", "Gelu"),
    *("Greater", "GreaterEqual", "Less", "LessEqual", "Log", "LogicalAnd"),
    *("LogicalNot", "LogicalOr", "Maximum", "Minimum", "Multiply", "Negative"),
    *("NotEqual", "Power", "Relu", "Sigmoid", "Silu", "Softplus", "Sqrt"),
    *("Square", "Subtract", "Tanh", "TrueDivide", "Where"),
)
INSTEAD = {
    layers.Bidirectional: "Use its forward layer alone: the other one begins "
    "at the end of a sequence, which a stream does not know.",
    layers.RNN: "Use a layer of keras_ssm, such as `MambaBlock`.",
    layers.GlobalMaxPooling1D: "Use `GlobalAveragePooling1D`, or "
    "`return_sequences=False` in the last sequence layer.",
    layers.Conv1D: "Use a layer of keras_ssm, such as `MambaBlock`, which "
    "holds a causal convolution.",
    layers.MultiHeadAttention: "Use a layer of keras_ssm, such as `MambaBlock`:"
    " attention looks at every step.",
}

# Options of sequence layers that no stream can have.
REASONS = {
    "go_backwards": "it begins at the end of a sequence",
    "bidirectional": "it looks at the end of a sequence",
    "stateful": "it keeps its state to itself",
    "return_state": "its state is that of the stream",
}


class CarriedLayer(layers.Layer):
    """A sequence layer that continues from states, one step or several.

    Args:
        layer: The sequence layer, built.

    Raises:
        NotImplementedError: If the layer needs the future, or a state that
            grows.
    """

    def __init__(self, layer):
        super().__init__(autocast=False, dtype=layer.dtype_policy)
        for option, reason in REASONS.items():
            if getattr(layer, option, False):
                raise refusal(layer, reason, f"Set `{option}=False`.")
        self.layer = layer
        self.supports_masking = True
        width = layer.width
        shapes = layer.state_shapes(width)
        if grows(shapes):
            reason = "its state grows with the sequence"
            raise refusal(layer, reason, "Give its attention a `window`.")
        feed_forward = getattr(layer, "feed_forward", None)
        if feed_forward is not None:
            check(feed_forward)
        self.state_shapes = list(zip(shapes, layer.state_dtypes, strict=True))
        if not layer.return_sequences:
            self.state_shapes.append(((width,), layer.output_dtype))

    def call(self, sequences, states, mask=None, sequences_mask=None):
        mask = sequences_mask if mask is None else mask
        states = list(states)
        last = None if self.layer.return_sequences else states.pop()
        if sequences.shape[1] == 1:
            live = None if mask is None else ops.cast(mask[:, 0], "bool")
            y, states = self.layer.step(sequences[:, 0], states, live)
            y = ops.expand_dims(y, 1)
        else:
            y, states = self.layer.steps(sequences, states, mask)
        if last is None:
            return y, *states
        last = _last_step(last, y, mask)
        return last, *states, last

    def compute_mask(self, inputs, previous_mask):
        mask, *_ = keras.tree.flatten(previous_mask)
        if not self.layer.return_sequences:
            mask = None
        return [mask] + [None for _ in self.state_shapes]


def _last_step(last, y, mask):
    """The output of the last unmasked step, or the one before them all."""
    y = ops.concatenate([ops.expand_dims(last, 1), y], axis=1)
    if mask is None:
        return y[:, -1]
    mask = ops.cast(mask, "int32")
    steps = ops.cumsum(ops.ones_like(mask), axis=1)
    return take_steps(y, ops.max(steps * mask, axis=1, keepdims=True))[:, 0]


class RunningAverage(layers.Layer):
    """The average over all unmasked steps so far, 0 before the first.

    Args:
        layer: The `keras.layers.GlobalAveragePooling1D` in whose place it is.
        width: Of the sequences.

    Raises:
        NotImplementedError: If the layer has options that change its axes.
    """

    def __init__(self, layer, width):
        super().__init__(autocast=False, dtype=layer.dtype_policy)
        if layer.keepdims or layer.data_format != "channels_last":
            raise refusal(
                layer,
                "it averages over time, and its output keeps other axes",
                "Leave `keepdims` and `data_format` as they are by default.",
            )
        self.supports_masking = True
        self.state_shapes = [((width,), "float32"), ((1,), "float32")]

    def call(self, sequences, states, mask=None, sequences_mask=None):
        mask = sequences_mask if mask is None else mask
        total, count = states
        x = ops.cast(sequences, "float32")
        live = ops.ones_like(x[..., :1])
        if mask is not None:
            mask = ops.expand_dims(ops.cast(mask, "bool"), -1)
            x = ops.where(mask, x, 0.0)
            live = ops.cast(mask, "float32")
        total = total + ops.sum(x, axis=1)
        count = count + ops.sum(live, axis=1)
        average = total / ops.maximum(count, 1.0)
        return ops.cast(average, self.compute_dtype), total, count

    def compute_mask(self, inputs, previous_mask):
        return [None, None, None]


class Marked(layers.Layer):
    """Hands on a tensor together with the mask that it is called with."""

    def __init__(self):
        super().__init__(autocast=False)
        self.supports_masking = True

    def call(self, x, mask=None):
        return x


def check(operation) -> None:
    """Raises unless an operation treats every step alike and by itself.

    Raises:
        NotImplementedError: If it does not.
    """
    if isinstance(operation, layers.Layer):
        stepwise = type(operation) in STEPWISE
        hints = (
            h for kind, h in INSTEAD.items() if isinstance(operation, kind)
        )
        instead = next(hints, "Use layers such as `Dense` and `Add`.")
    else:
        stepwise = type(operation).__name__ in STEPWISE_OPS
        instead = (
            "Use layers, and for the last step `return_sequences=False` in the "
            "last sequence layer."
        )
    axes = keras.tree.flatten(getattr(operation, "axis", -1))
    if any(axis != -1 and axis < 2 for axis in axes):
        stepwise, instead = False, "Set `axis=-1`."
    if not stepwise:
        reason = "it may look at several steps at once"
        raise refusal(operation, reason, instead)


def check_arguments(layer, args, kwargs) -> None:
    """Raises unless a sequence layer is called on a sequence and a mask.

    Raises:
        NotImplementedError: If it is called with an initial state.
    """
    if len(args) > 1 or not set(kwargs) <= {"mask", "training"}:
        raise refusal(
            layer,
            "it continues from a state of the model's own",
            "Call it on the sequence and a mask alone.",
        )


def refusal(operation, reason, instead):
    """The error for an operation that cannot run as a stream."""
    return NotImplementedError(
        f"The {type(operation).__name__} {operation.name!r} cannot run as a "
        f"stream: {reason}. {instead}"
    )
