"""The recurrent block of Griffin and Hawk."""

import keras
from keras import initializers, ops, regularizers

from keras_ssm.layers.arguments import check_positive
from keras_ssm.layers.convolution import convolve
from keras_ssm.layers.dense import build_dense, project
from keras_ssm.layers.rg_lru import RGLRU, check_heads
from keras_ssm.layers.sequence_layer import SequenceLayer
from keras_ssm.ops import causal_conv1d_step


@keras.saving.register_keras_serializable(package="keras_ssm")
class Griffin(SequenceLayer):
    """Mixes time with a convolution, an RG-LRU and a gate.

        x, z = in_proj(inputs)
        y = rg_lru(conv1d(x))
        outputs = out_proj(y * gelu(z))

    It is the recurrent block of Griffin, and of Hawk. Time and memory are
    linear in the length, and a step of generation costs the same at any
    position.

    Parameters, with `m` the width and `d = state_dim`:

    | name | shape | start |
    |---|---|---|
    | `in_proj/kernel`, `in_proj/bias` | (m, 2d), (2d,) | by fan-in, 0 |
    | `conv_kernel`, `conv_bias` | (k, d), (d,) | N(0, 0.01 / k), 0 |
    | `rg_lru/...` | see `RGLRU`, of width d | |
    | `out_proj/kernel`, `out_proj/bias` | (d, m), (m,) | by fan-in, 0 |

    Args:
        state_dim: Width d of the recurrence, and the size of its state.
            `None` for that of the input; the paper's is 4/3 of it.
        conv_kernel_size: Width k of the causal convolution.
        heads: Number of blocks of the gates of the RG-LRU. `None` for the
            paper's 16, or the largest power of two below it that divides d.
        use_bias: Whether the projections have biases.
        kernel_initializer: For the kernels of `in_proj` and `out_proj`.
        kernel_regularizer: For the kernels of `in_proj` and `out_proj`.
        return_sequences: Whether to return the output of every step, or only
            that of the last unmasked one.
        return_state: Whether to return `(outputs, conv_state, lru_state)`.
        go_backwards: Whether to process the sequence from its end and return
            the output in that order.
        stateful: Whether the states after a batch are the initial states of
            the next one. Needs a fixed batch size.
        **kwargs: Arguments of `keras.layers.Layer`: `name`, `dtype`,
            `trainable`.

    Call arguments:
        sequences: `(batch, length, width)`.
        initial_state: The states before the first step: `(batch, k-1, d)` and
            `(batch, d)`. Zeros if `None`.
        mask: Boolean, `(batch, length)`. Masked steps are skipped, whatever
            they hold, and give 0.

    Raises:
        ValueError: If an argument is out of its range, a shape does not fit,
            or `state_dim` is not a multiple of `heads`.

    Example:

    ```python
    x = keras.random.normal((2, 100, 64))
    layer = keras_ssm.layers.Griffin(return_state=True)
    y, *state = layer(x)
    y, *state = layer(x, initial_state=state)
    y_next, state = layer.step(x[:, 0], state)
    ```

    Reference:
        [De et al., 2024](https://arxiv.org/abs/2402.19427), section 2.3.
    """

    def __init__(
        self,
        *,
        state_dim: int | None = None,
        conv_kernel_size: int = 4,
        heads: int | None = None,
        use_bias: bool = True,
        kernel_initializer="lecun_normal",
        kernel_regularizer=None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        check_positive(
            "Griffin",
            conv_kernel_size=conv_kernel_size,
            **({} if state_dim is None else {"state_dim": state_dim}),
        )
        check_heads("Griffin", heads)
        self.state_dim = state_dim
        self.conv_kernel_size = conv_kernel_size
        self.heads = heads
        self.use_bias = use_bias
        self.kernel_initializer = initializers.get(kernel_initializer)
        self.kernel_regularizer = regularizers.get(kernel_regularizer)

    def build_mixer(self, width):
        self.channels = self.state_dim or width
        bias = {"use_bias": self.use_bias}
        self.in_proj = build_dense(
            self, "in_proj", width, 2 * self.channels, **bias
        )
        self.conv_kernel = self.add_weight(
            shape=(self.conv_kernel_size, self.channels),
            initializer=initializers.VarianceScaling(
                0.01, "fan_in", "untruncated_normal"
            ),
            autocast=False,
            name="conv_kernel",
        )
        self.conv_bias = self.add_weight(
            shape=(self.channels,),
            initializer="zeros",
            autocast=False,
            name="conv_bias",
        )
        self.rg_lru = RGLRU(
            heads=self.heads, dtype=self.dtype_policy, name="rg_lru"
        )
        self.rg_lru.build((None, None, self.channels))
        self.out_proj = build_dense(
            self, "out_proj", self.channels, width, **bias
        )

    def state_shapes(self, width):
        channels = self.state_dim or width
        return ((self.conv_kernel_size - 1, channels), (channels,))

    def mix(self, x, states, mask, reverse, training):
        conv_state, *lru_states = states or (None,)
        x, z = self._inputs(x)  # (b, l, d) each
        x, conv_state = convolve(self, x, conv_state, mask, reverse)
        y, lru_states = self.rg_lru.mix(
            x, lru_states or None, mask, reverse, training
        )
        return self._outputs(y, z), (conv_state, *lru_states)

    def mix_step(self, x, states, mask):
        conv_state, *lru_states = states
        x, z = self._inputs(x)  # (b, d) each
        x, conv_state = causal_conv1d_step(
            x, self.conv_kernel, self.conv_bias, state=conv_state, mask=mask
        )
        y, lru_states = self.rg_lru.mix_step(x, lru_states, mask)
        return self._outputs(y, z), (conv_state, *lru_states)

    def _inputs(self, x):
        """What goes through the recurrence, and the gate."""
        xz = project(self.in_proj, x)
        return xz[..., : self.channels], xz[..., self.channels :]

    def _outputs(self, y, z):
        return project(self.out_proj, y * ops.gelu(z))

    def get_config(self):
        return {
            **super().get_config(),
            "state_dim": self.state_dim,
            "conv_kernel_size": self.conv_kernel_size,
            "heads": self.heads,
            "use_bias": self.use_bias,
            "kernel_initializer": initializers.serialize(
                self.kernel_initializer
            ),
            "kernel_regularizer": regularizers.serialize(
                self.kernel_regularizer
            ),
        }
