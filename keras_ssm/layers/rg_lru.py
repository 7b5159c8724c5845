"""The real-gated linear recurrent unit."""

import math

import keras
from keras import initializers, ops

from keras_ssm.layers.arguments import check_positive
from keras_ssm.layers.dense import contract
from keras_ssm.layers.initializers import RGLRURing
from keras_ssm.layers.sequence_layer import SequenceLayer
from keras_ssm.ops import linear_scan, linear_scan_step

# The paper's c, and its bound for the derivative of the square root.
DECAY_SCALE = 8.0
LARGEST_SLOPE = 1000.0


@keras.saving.register_keras_serializable(package="keras_ssm")
class RGLRU(SequenceLayer):
    """Mixes time with a gated linear recurrence, channel by channel.

        r, i = sigmoid(gate_kernel x + gate_bias)
        a[t] = exp(-8 r[t] softplus(decay))
        h[t] = a[t] h[t-1] + sqrt(1 - a[t]^2) (i[t] x[t])
        outputs[t] = h[t]

    The matrix of the gates is block-diagonal. Where the recurrence gate `r` is
    closed, the state stays and the input is ignored. Time and memory are
    linear in the length, and a step of generation costs the same at any
    position.

    Parameters, with `d` the width, in `heads` blocks of width `w`:

    | name | shape | start |
    |---|---|---|
    | `gate_kernel` | (heads, w, 2w), of r and then of i | N(0, 1 / w) |
    | `gate_bias` | (heads, 2w) | 0 |
    | `decay` | (d,) | exp(-8 softplus) of it on the ring [0.9, 0.999] |

    `decay` and the state stay float32 under every dtype policy. Exclude
    `decay` from weight decay:
    `optimizer.exclude_from_weight_decay(var_names=["decay"])`.

    Args:
        heads: Number of blocks of the gates. `None` for the paper's 16, or
            the largest power of two below it that divides the width.
        decay_initializer: For `decay`; `RGLRURing(r_min, r_max)` sets how much
            remains of the state in a step.
        return_sequences: Whether to return the output of every step, or only
            that of the last unmasked one.
        return_state: Whether to return `(outputs, state)`.
        go_backwards: Whether to process the sequence from its end and return
            the output in that order.
        stateful: Whether the states after a batch are the initial states of
            the next one. Needs a fixed batch size.
        **kwargs: Arguments of `keras.layers.Layer`: `name`, `dtype`,
            `trainable`.

    Call arguments:
        sequences: `(batch, length, width)`.
        initial_state: The state before the first step, `(batch, width)`.
            Zeros if `None`.
        mask: Boolean, `(batch, length)`. Masked steps are skipped, whatever
            they hold, and give 0.

    Raises:
        ValueError: If an argument is out of its range, a shape does not fit,
            or the width is not a multiple of `heads`.

    Example:

    ```python
    x = keras.random.normal((2, 100, 64))
    layer = keras_ssm.layers.RGLRU(return_state=True)
    y, state = layer(x)
    y, state = layer(x, initial_state=state)
    y_next, (state,) = layer.step(x[:, 0], state)
    ```

    Reference:
        [De et al., 2024](https://arxiv.org/abs/2402.19427), section 2.4.
    """

    def __init__(
        self, *, heads: int | None = None, decay_initializer=None, **kwargs
    ):
        super().__init__(**kwargs)
        check_heads("RGLRU", heads)
        self.heads = heads
        self.decay_initializer = initializers.get(
            decay_initializer or RGLRURing()
        )

    def build_mixer(self, width):
        blocks = self.heads or math.gcd(width, 16)
        if width % blocks:
            raise ValueError(
                f"{self.name}: the width of the recurrence must be a multiple "
                f"of `heads`. Received: width={width}, heads={blocks}."
            )
        size = width // blocks
        # Fan-in counts the blocks as well.
        kernel = initializers.VarianceScaling(
            blocks, "fan_in", "untruncated_normal"
        )
        self.gate_kernel = self.add_weight(
            shape=(blocks, size, 2 * size),
            initializer=kernel,
            autocast=False,
            name="gate_kernel",
        )
        self.gate_bias = self.add_weight(
            shape=(blocks, 2 * size),
            initializer="zeros",
            autocast=False,
            name="gate_bias",
        )
        self.decay = self.add_weight(
            shape=(width,),
            initializer=self.decay_initializer,
            dtype=self.state_dtype,
            autocast=False,
            name="decay",
        )

    def state_shapes(self, width):
        return ((width,),)

    def mix(self, x, states, mask, reverse, training):
        y, state = linear_scan(
            *self._scan_inputs(x),
            initial_state=None if states is None else states[0],
            mask=mask,
            reverse=reverse,
            return_state=True,
        )
        return y, (state,)

    def mix_step(self, x, states, mask):
        y, state = linear_scan_step(*self._scan_inputs(x), *states, mask=mask)
        return y, (state,)

    def _scan_inputs(self, x):
        """`a, x` for the scan, of a sequence or of a step."""
        r, i = self._gates(x)
        decay = ops.softplus(ops.convert_to_tensor(self.decay))
        log_a = -DECAY_SCALE * r * decay
        # Not 1 - a^2, which has no digits left where a is close to 1.
        scale = _bounded_sqrt(-ops.expm1(2 * log_a))
        u = scale * i * ops.cast(x, log_a.dtype)
        return ops.exp(log_a), ops.cast(u, x.dtype)

    def _gates(self, x):
        """The recurrence gate and the input gate, float32, like `x`."""
        blocks, size, _ = self.gate_kernel.shape
        shape = ops.shape(x)
        x = ops.reshape(x, (*shape[:-1], blocks, size))
        kernel = ops.cast(self.gate_kernel, x.dtype)
        gates = contract("...hi,hij->...hj", x, kernel)
        gates = ops.cast(gates, self.state_dtype)
        gates = gates + ops.cast(self.gate_bias, self.state_dtype)
        gates = ops.sigmoid(gates)
        return (
            ops.reshape(gates[..., :size], shape),
            ops.reshape(gates[..., size:], shape),
        )

    def get_config(self):
        return {
            **super().get_config(),
            "heads": self.heads,
            "decay_initializer": initializers.serialize(self.decay_initializer),
        }


def check_heads(layer, heads):
    """Raises a `ValueError` unless it is `None` or a positive integer."""
    if heads is not None:
        check_positive(layer, heads=heads)


def _bounded_sqrt(x):
    """The square root, with a slope that is finite at 0."""
    root = ops.stop_gradient(ops.sqrt(x))
    slope = ops.minimum(0.5 / root, LARGEST_SLOPE)
    # The value is that of the root, the gradient that of the line.
    line = x * slope
    return line + ops.stop_gradient(root - line)
