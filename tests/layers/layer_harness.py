"""What tests of layers need: small layers, their inputs and gradients."""

import typing

import compare
import keras
import numpy as np
import pytest
from compare import as_array, assert_same
from harness import BACKEND, compiled, gradients, needs_gradients, tensor

from keras_ssm.layers import (
    LRU,
    RGLRU,
    S4,
    S4D,
    S5,
    Attention,
    GatedMLP,
    Griffin,
    GriffinBlock,
    HybridBlock,
    LRUBlock,
    Mamba,
    Mamba2,
    Mamba2Block,
    Mamba3,
    Mamba3Block,
    MambaBlock,
    RGLRUBlock,
    S4Block,
    S4DBlock,
    S5Block,
)

__all__ = ["BACKEND", "as_array", "needs_gradients"]

BATCH, LENGTH, WIDTH = 3, 9, 6


class Traits(typing.NamedTuple):
    """In what mixers differ, and their blocks with them.

    Attributes:
        block: The residual block around the mixer.
        options: What makes it small, for every test that does not say more.
        states: The shapes of its states then, without the batch.
        float32: Its parameters that are float32 under every dtype policy.
        of_block: What makes the block small, if the options do not.
        state_dtypes: Those of its states if they are not float32: names, and
            `None` for the compute dtype.
    """

    block: type
    options: dict
    states: tuple
    float32: tuple
    of_block: dict | None = None
    state_dtypes: tuple | None = None


# Attention without a window needs the size of its state, and has a file of
# tests of its own.
ATTENTION = {
    "heads": 4,
    "kv_heads": 2,
    "head_dim": 4,
    "window": 4,
    "rotary_base": 100.0,
}
COMPLEX_MAPS = ("B_real", "B_imag", "C_real", "C_imag", "D")

MIXERS = {
    Mamba: Traits(
        MambaBlock,
        {"state_dim": 4},
        ((3, 12), (12, 4)),
        ("A_log", "D", "dt_bias"),
    ),
    Mamba2: Traits(
        Mamba2Block,
        {"state_dim": 4, "head_dim": 2, "groups": 2},
        ((3, 28), (6, 2, 4)),
        ("A_log", "D", "dt_bias", "norm_scale"),
    ),
    Mamba3: Traits(
        Mamba3Block,
        {"state_dim": 4, "head_dim": 2, "groups": 2, "rank": 2},
        ((6, 2, 4), (2, 6, 2), (2, 6, 4)),
        (
            *("B_norm_scale", "C_norm_scale", "B_bias", "C_bias", "dt_bias"),
            *("D", "mimo_x", "mimo_z", "mimo_out"),
        ),
    ),
    S4D: Traits(
        S4DBlock,
        {"state_dim": 4},
        ((WIDTH, 4),),
        ("log_dt", "A_log", "A_imag", "C_real", "C_imag", "D"),
    ),
    S4: Traits(
        S4Block,
        {"state_dim": 4},
        ((WIDTH, 4),),
        ("log_dt", "A_log", "A_imag", "P_real", "P_imag", *COMPLEX_MAPS),
    ),
    S5: Traits(
        S5Block,
        {"state_dim": 4, "blocks": 2},
        ((2,), (2,)),
        ("A_log", "A_imag", "log_dt", *COMPLEX_MAPS),
    ),
    LRU: Traits(
        LRUBlock,
        {"state_dim": 4},
        ((4,), (4,)),
        ("nu_log", "theta_log", "gamma_log", *COMPLEX_MAPS),
    ),
    RGLRU: Traits(RGLRUBlock, {"heads": 2}, ((WIDTH,),), ("decay",)),
    Griffin: Traits(GriffinBlock, {"state_dim": 4}, ((3, 4), (4,)), ("decay",)),
    Attention: Traits(
        HybridBlock,
        ATTENTION,
        ((4, 2, 4), (4, 2, 4), (1,)),
        (),
        {"mixer": Attention(**ATTENTION), "feed_forward": GatedMLP(4)},
        (None, None, "int32"),
    ),
}
BLOCKS = {traits.block: mixer for mixer, traits in MIXERS.items()}
LAYERS = (*MIXERS, *BLOCKS)

# PyTorch runs all of them. JAX and TensorFlow compile what a test calls: there,
# one of each kind has to do but for `make test-all`. The parity test compares
# all of them between the backends.
SOME = (Mamba, MambaBlock, S5)


def slow_unless(some):
    """Marks of a case: but for some, only PyTorch's tests have time for it."""
    return () if some or BACKEND == "torch" else pytest.mark.slow


def each(name, layers):
    """Runs a test for layers, as an argument of that name."""
    marked = [
        pytest.param(layer, marks=slow_unless(layer in SOME))
        for layer in layers
    ]
    return pytest.mark.parametrize(name, marked, ids=lambda c: c.__name__)


each_layer = each("layer_class", LAYERS)
each_mixer = each("mixer", MIXERS)
both_directions = pytest.mark.parametrize(
    "go_backwards", [False, True], ids=["forwards", "backwards"]
)
each_mask = pytest.mark.parametrize("padding", ["right", "left", "holes"])


def traits(layer_class) -> Traits:
    """Those of a mixer, or of the mixer of a block."""
    return MIXERS[BLOCKS.get(layer_class, layer_class)]


def small(layer_class, **options):
    """A small layer, not built."""
    given = traits(layer_class)
    of_layer = given.options
    if layer_class in BLOCKS and given.of_block is not None:
        of_layer = given.of_block
    return layer_class(**{**of_layer, **options})


def state_dtypes(layer_class, policy="float32"):
    """Those of its states under a dtype policy."""
    wide = "float64" if policy == "float64" else "float32"
    given = traits(layer_class)
    own = given.state_dtypes or [wide] * len(given.states)
    compute = keras.DTypePolicy(policy).compute_dtype
    return [dtype or compute for dtype in own]


def assert_close(actual, expected, dtype, kind="forward", name="result"):
    """`compare.assert_close`; integers, such as counts, must be equal."""
    if keras.backend.standardize_dtype(actual.dtype).startswith("int"):
        assert_same(as_array(actual), as_array(expected), name)
    else:
        compare.assert_close(actual, expected, dtype, kind, name)


def make(layer_class, width=WIDTH, batch=None, **options):
    """A small layer, built, every weight of it random."""
    layer = small(layer_class, **options)
    layer.build((batch, None, width))
    randomize(layer)
    return layer


def randomize(layer, seed: int = 0):
    """Moves every trainable weight, so that none is zero, one or equal."""
    rng = np.random.default_rng(seed)
    for variable in layer.trainable_variables:
        moved = value(variable) + rng.uniform(-0.3, 0.3, variable.shape)
        variable.assign(moved.astype("float32"))


def twin(layer, batch=None, **options):
    """A layer with the same weights and other options."""
    config = {**layer.get_config(), **options}
    copy = type(layer).from_config(config)
    copy.build((batch, None, layer.width))
    for variable, of_copy in zip(
        layer.trainable_variables, copy.trainable_variables, strict=True
    ):
        of_copy.assign(value(variable))
    return copy


def value(variable):
    """A copy of the value of a variable, as an array."""
    return np.array(as_array(variable.value))


def sequences(length: int = LENGTH, batch: int = BATCH, seed: int = 1):
    """Random inputs, `(b, l, d)`."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=(batch, length, WIDTH)).astype("float32")


def random_states(layer, batch: int = BATCH, seed: int = 2):
    """Random states of a layer."""
    rng = np.random.default_rng(seed)
    return tuple(
        rng.integers(1, 9, state.shape).astype("int32")
        if dtype == "int32"
        else rng.normal(size=state.shape).astype("float32")
        for state, dtype in zip(
            layer.get_initial_state(batch), layer.state_dtypes, strict=True
        )
    )


def mask_of(padding: str, length: int = LENGTH):
    """A mask of three rows, the first without padding."""
    position = np.arange(length)
    short = np.array([length, length - 4, 2])[:, None]
    if padding == "right":
        return position < short
    if padding == "left":
        return position >= length - short
    return np.stack([position >= 0, position % 3 != 1, position == 4])


def layer_gradients(function, x, cotangent, of=None, **call):
    """Runs a layer and its adjoint.

    Args:
        function: A layer that returns one tensor, or a function of `x` that
            uses one.
        x: Input, an array.
        cotangent: Gradient with respect to the output, an array.
        of: The layer that a function uses.
        **call: Other arguments of the call.

    Returns:
        The output, and the gradients by the paths of the weights; that of
        the input is called "x".
    """
    variables = (of or function).trainable_variables
    inputs = {v.path: tensor(value(v), v.dtype) for v in variables}
    inputs["x"] = tensor(x, x.dtype.name)

    def outputs(inputs):
        values = [(v, inputs[v.path]) for v in variables]
        with keras.StatelessScope(state_mapping=values):
            return (function(inputs["x"], **call),)

    def both(inputs, cotangent):
        return gradients(outputs, inputs, (cotangent,))

    cotangent = tensor(cotangent, x.dtype.name)
    (y,), found = compiled(both)(inputs, cotangent)
    return as_array(y), {name: as_array(v) for name, v in found.items()}


class MaskProbe(keras.layers.Layer):
    """Returns the mask that reaches it, as zeros and ones."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.supports_masking = True

    def call(self, inputs, mask=None):
        if mask is None:
            return keras.ops.zeros_like(inputs[..., 0]) - 1
        return keras.ops.cast(mask, "float32")
