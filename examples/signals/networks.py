"""A stack of blocks of one kind, and an LSTM stack of the same size.

signal -> Masking -> Dense -> [block] * depth -> LayerNormalization
       -> average over the steps -> Dense(softmax)
"""

import keras
from keras import layers

from keras_ssm.layers import (
    LRUBlock,
    MambaBlock,
    RGLRUBlock,
    S4Block,
    S4DBlock,
    S5Block,
)

BLOCKS = {
    "s4": S4Block,
    "s4d": S4DBlock,
    "s5": S5Block,
    "lru": LRUBlock,
    "rglru": RGLRUBlock,
    "mamba": MambaBlock,
}
LAYERS = (*BLOCKS, "lstm")
# Those that run at other sampling rates than they were trained at.
RATED = ("s4", "s4d", "s5")
# Of each channel; S5 and LRU have one for all of them.
STATE_DIMS = {"s4": 32, "s4d": 32, "mamba": 16, "s5": 64, "lru": 64}


def build(layer: str, classes: int, options, padding=None, **of_blocks):
    """Builds the classifier of signals `(b, l, 1)`, not compiled yet.

    Args:
        layer: one of `LAYERS`.
        classes: how many classes there are.
        options: with `width`, `depth`, `dropout`, and `state_dim` or `None`.
        padding: what stands behind the end of a signal, if anything does.
        **of_blocks: Arguments of the blocks, such as `rate`.
    """
    inputs = keras.Input((None, 1), name="signal")
    x = inputs
    if padding is not None:
        x = layers.Masking(padding)(x)
    x = layers.Dense(options.width, name="encoder")(x)
    units = match(options) if layer == "lstm" else None
    for number in range(options.depth):
        if layer == "lstm":
            x = lstm(x, units, options.dropout)
        else:
            name = f"block_{number}"
            x = block(layer, options, name=name, **of_blocks)(x)
    x = layers.LayerNormalization(epsilon=1e-5, name="final_norm")(x)
    x = layers.GlobalAveragePooling1D()(x)
    outputs = layers.Dense(classes, activation="softmax", dtype="float32")(x)
    return keras.Model(inputs, outputs, name=layer)


def block(layer: str, options, **more):
    """A block; the RG-LRU's state is as large as its width."""
    if layer in STATE_DIMS:
        more["state_dim"] = options.state_dim or STATE_DIMS[layer]
    return BLOCKS[layer](dropout=options.dropout, **more)


def lstm(x, units: int, dropout: float):
    """`x + dropout(Dense(LSTM(norm(x))))`."""
    y = layers.LayerNormalization(epsilon=1e-5)(x)
    y = layers.LSTM(units, return_sequences=True)(y)
    y = layers.Dense(x.shape[-1])(y)
    return layers.Add()([x, layers.Dropout(dropout)(y)])


def match(options) -> int:
    """The units with which an LSTM block is as large as an S4D block."""
    width = options.width
    s4d = block("s4d", options)
    s4d.build((None, None, width))

    def parameters(units):
        gates = 4 * units * (width + units + 1)
        return 2 * width + gates + (units + 1) * width

    return min(
        range(1, 8 * width + 64),
        key=lambda units: abs(parameters(units) - s4d.count_params()),
    )
