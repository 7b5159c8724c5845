"""One frame and its contents: Mamba, a hybrid, S4, LSTM, Transformer, nothing.

Every model embeds the tokens, mixes them over time (or does not), averages
over the text and classifies:

    tokens -> Embedding -> Dropout -> [mixers] -> LayerNormalization
           -> average over the text -> Dropout -> Dense(softmax)

A mixer is a residual block around pre-normalised layers, and all mixers have
the same number of parameters: the LSTM's units, the Transformer's feed-forward
width, the hybrid's heads and the states of Mamba-2, Mamba-3, S4D and S4 are
chosen so.
`pooling` leaves the mixer out and so shows what the others add.
"""

import math

import keras
from keras import layers

from keras_ssm.layers import (
    Attention,
    HybridBlock,
    Mamba2Block,
    Mamba3Block,
    MambaBlock,
    S4Block,
    S4DBlock,
)

# From short trials on the embedded reviews.
LEARNING_RATES = {
    "mamba": 4e-3,
    "mamba2": 4e-3,
    "mamba3": 4e-3,
    "hybrid": 4e-3,
    "s4d": 4e-3,
    "s4": 4e-3,
    "lstm": 4e-3,
    "transformer": 2e-3,
    "pooling": 2e-3,
}
NEURAL = tuple(LEARNING_RATES)
HYBRID_HEADS = 2


def build_model(name: str, vocabulary_size: int, classes: int, options):
    """Builds the classifier called `name`, at the size of the Mamba one.

    Returns:
        An uncompiled `keras.Model` from token numbers `(b, l)` to class
        probabilities `(b, classes)`.
    """
    inputs = keras.Input((None,), dtype="int32", name="tokens")
    x = layers.Embedding(
        vocabulary_size, options.width, mask_zero=True, name="embedding"
    )(inputs)  # (b, l, d)
    x = layers.Dropout(options.embedding_dropout)(x)
    if name == "transformer":
        x = SinePositions()(x)
    for _ in range(options.blocks):
        x = mix(name, x, options)
    # Unlike RMSNormalization, this layer hands the mask on to the average.
    x = layers.LayerNormalization(epsilon=1e-5, name="final_norm")(x)
    x = layers.GlobalAveragePooling1D()(x)  # (b, d)
    x = layers.Dropout(options.dropout)(x)
    outputs = layers.Dense(classes, activation="softmax", dtype="float32")(x)
    return keras.Model(inputs, outputs, name=name)


def mix(name: str, x, options):
    """Applies the mixer called `name` to embedded tokens `(b, l, d)`."""
    if name == "pooling":
        return x
    if name == "mamba":
        return mamba(x, options)
    if name == "mamba2":
        return in_the_place_of_mamba(Mamba2Block, mamba2_parameters, x, options)
    if name == "mamba3":
        return in_the_place_of_mamba(Mamba3Block, mamba3_parameters, x, options)
    if name == "hybrid":
        return hybrid(x, options)
    if name == "s4d":
        return s4(S4DBlock, x, match(s4d_parameters, options))
    if name == "s4":
        return s4(S4Block, x, match(s4_parameters, options))
    if name == "lstm":
        return lstm(x, match(lstm_parameters, options))
    if name == "transformer":
        return transformer(x, match(transformer_parameters, options))
    raise ValueError(
        f"`name` must be one of {', '.join(NEURAL)}. Received: name={name!r}."
    )


def mamba(x, options):
    """One Mamba block, or one per direction and their average."""
    return in_directions(MambaBlock(state_dim=options.state_dim), x, options)


def in_the_place_of_mamba(block, count, x, options):
    """The same of Mamba-2 or Mamba-3, whose parameters `count` counts."""

    def parameters(width, state_dim):
        return options.directions * count(width, state_dim)

    state_dim = match(parameters, options)
    return in_directions(block(state_dim=state_dim), x, options)


def hybrid(x, options):
    """Mamba of half as many channels, then attention, without positions."""
    inputs = keras.Input((None, x.shape[-1]))
    half = keras.Model(inputs, half_mamba(inputs, options)).count_params()

    def parameters(width, head_dim):
        return half + width + 4 * width * HYBRID_HEADS * head_dim

    attention = Attention(HYBRID_HEADS, head_dim=match(parameters, options))
    return HybridBlock(attention, name="attention")(half_mamba(x, options))


def half_mamba(x, options):
    """Mamba of half as many channels."""
    block = MambaBlock(state_dim=options.state_dim, expand=1)
    return in_directions(block, x, options)


def in_directions(block, x, options):
    """A block, or one per direction and their average."""
    if options.directions == 2:
        block = layers.Bidirectional(block, merge_mode="ave")
    return block(x)


def s4(block, x, numbers: int):
    """A block with a kernel for each direction, of `numbers` poles."""
    return block(state_dim=2 * numbers, bidirectional=True)(x)


def lstm(x, units: int):
    """`x + Dense(BiLSTM(norm(x)))`."""
    y = layers.LayerNormalization(epsilon=1e-5)(x)
    cell = layers.LSTM(units, return_sequences=True)
    y = layers.Bidirectional(cell)(y)  # (b, l, 2 units)
    y = layers.Dense(x.shape[-1])(y)
    return layers.Add()([x, y])


def transformer(x, feed_forward: int, heads: int = 4):
    """A pre-norm encoder block: attention, then a feed-forward network."""
    width = x.shape[-1]
    y = layers.LayerNormalization(epsilon=1e-5)(x)
    attention = layers.MultiHeadAttention(heads, width // heads)
    x = layers.Add()([x, attention(y, y)])  # padding is masked by the layer
    y = layers.LayerNormalization(epsilon=1e-5)(x)
    y = layers.Dense(feed_forward, activation="gelu")(y)
    y = layers.Dense(width)(y)
    return layers.Add()([x, y])


@keras.saving.register_keras_serializable(package="text_classification")
class SinePositions(layers.Layer):
    """Adds sines and cosines of the position, times a learned loudness.

    Embeddings start small, and at full volume the positions would drown
    them.
    """

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.supports_masking = True

    def build(self, input_shape):
        self.loudness = self.add_weight(
            shape=(), initializer=keras.initializers.Constant(0.02)
        )

    def call(self, x):
        half = x.shape[-1] // 2
        ones = keras.ops.ones_like(x[..., :1])
        positions = keras.ops.cumsum(ones, axis=1)  # (b, l, 1)
        exponents = keras.ops.arange(half, dtype=x.dtype) / half
        angles = positions * keras.ops.power(1e-4, exponents)
        sines = [keras.ops.sin(angles), keras.ops.cos(angles)]
        return x + self.loudness * keras.ops.concatenate(sines, axis=-1)


def s4d_parameters(width: int, numbers: int) -> int:
    """Norm, steps and skips, complex A and two C, and the way out."""
    return 4 * width + 6 * width * numbers + 2 * width * (width + 1)


def s4_parameters(width: int, numbers: int) -> int:
    """Those of S4D, and complex P and B."""
    return s4d_parameters(width, numbers) + 4 * width * numbers


def lstm_parameters(width: int, units: int) -> int:
    """Two directions of four gates, the norm and the way back to `width`."""
    gates = 2 * 4 * units * (width + units + 1)
    return 2 * width + gates + (2 * units + 1) * width


def mamba2_parameters(width: int, state_dim: int) -> int:
    """Two norms, two projections, a convolution, and three of each head."""
    channels = 2 * width
    heads = channels // math.gcd(channels, 64)
    mapped = channels + 2 * state_dim
    projections = width * (channels + mapped + heads) + channels * width
    return width + channels + projections + 5 * mapped + 3 * heads


def mamba3_parameters(width: int, state_dim: int) -> int:
    """Three norms, two projections, and of each head two and its biases."""
    channels = 2 * width
    heads = channels // math.gcd(channels, 64)
    angles = max(1, state_dim // 4)
    inner = 2 * channels + 2 * state_dim + 3 * heads + angles
    projections = width * inner + channels * width
    return width + projections + 2 * (state_dim + heads + heads * state_dim)


def transformer_parameters(width: int, feed_forward: int) -> int:
    """Two norms, four projections and two layers."""
    attention = 4 * width * (width + 1)
    return 4 * width + attention + feed_forward * (2 * width + 1) + width


def match(parameters, options) -> int:
    """Finds the size that gives a mixer as many parameters as Mamba has."""
    width = options.width
    inputs = keras.Input((None, width))
    wanted = keras.Model(inputs, mamba(inputs, options)).count_params()
    return min(
        range(1, 8 * width + 64),
        key=lambda size: abs(parameters(width, size) - wanted),
    )


def count_parameters(model) -> dict:
    """Returns the parameters `inside` and `outside` the embedding."""
    inside = model.get_layer("embedding").count_params()
    return {"inside": inside, "outside": model.count_params() - inside}
