"""The mixer of Mamba-2."""

import math

import keras
from keras import initializers, ops, regularizers

from keras_ssm.layers.arguments import check_positive
from keras_ssm.layers.convolution import build_convolution, convolve
from keras_ssm.layers.dense import build_dense, fan_in_uniform, project, split
from keras_ssm.layers.initializers import LogUniformDt, UniformDecay
from keras_ssm.layers.sequence_layer import SequenceLayer
from keras_ssm.ops import causal_conv1d_step, ssd, ssd_step

HEAD_DIM = 64


@keras.saving.register_keras_serializable(package="keras_ssm")
class Mamba2(SequenceLayer):
    """Mixes time with a recurrence whose heads choose what to remember.

        z, x, B, C, dt = in_proj(inputs)
        x, B, C = silu(conv1d([x, B, C]))
        dt = softplus(dt + dt_bias)
        h[t] = exp(dt[t] A) h[t-1] + dt[t] x[t] B[t]',    A = -exp(A_log)
        y[t] = h[t] C[t] + D x[t]
        outputs = out_proj(norm(y * silu(z)))

    A head has one decay rate for all its channels, which makes the recurrence
    products of matrices: its state is several times that of `Mamba` in the
    same time. Time and memory are linear in the length, and a step of
    generation costs the same at any position. It has the conventions of
    `keras.layers.LSTM`, except that arguments are keywords, that sequences are
    returned by default, and that the output is as wide as the input.

    Parameters, with `m` the width, `d = expand * m`, `p = head_dim`,
    `h = d / p` heads, `n = state_dim`, `g = groups`, `c = d + 2gn`:

    | name | shape | start |
    |---|---|---|
    | `in_proj/kernel` | (m, d + c + h) | U(±1/sqrt(m)) |
    | `conv_kernel`, `conv_bias` | (k, c), (c,) | U(±1/sqrt(k)) |
    | `dt_bias` | (h,) | softplus of it log-uniform in [0.001, 0.1] |
    | `A_log` | (h,) | logarithm of U(1, 16) |
    | `D` | (h,) | 1 |
    | `norm_scale` | (d,) | 1 |
    | `out_proj/kernel` | (d, m) | U(±1/sqrt(d)) |

    `A_log`, `D`, `dt_bias` and `norm_scale` stay float32 under every dtype
    policy. Exclude the first three from weight decay:
    `optimizer.exclude_from_weight_decay(var_names=["A_log", "D", "dt_bias"])`.

    Args:
        state_dim: Size n of the state of each channel.
        head_dim: Channels p of a head; a divisor of `expand * width`. `None`
            for the paper's 64, or where that is no divisor the greatest one
            that it shares with 64.
        groups: How many B and C there are, shared by as many heads each. The
            norm is over the channels of a group.
        conv_kernel_size: Width k of the causal convolution.
        expand: The recurrence has `expand` times the width of the input.
        use_conv_bias: Whether the convolution has a bias.
        use_bias: Whether the projections have biases.
        epsilon: Of the RMS norm.
        kernel_initializer: For the kernels of `in_proj` and `out_proj`. `None`
            for the paper's.
        kernel_regularizer: For the same kernels.
        A_log_initializer: For `A_log`.
        dt_bias_initializer: For `dt_bias`; `LogUniformDt(minimum, maximum)`
            sets the range of step sizes.
        return_sequences: Whether to return the output of every step, or only
            that of the last unmasked one.
        return_state: Whether to return `(outputs, conv_state, ssm_state)`.
        go_backwards: Whether to process the sequence from its end and return
            the output in that order.
        stateful: Whether the states after a batch are the initial states of
            the next one. Needs a fixed batch size.
        **kwargs: Arguments of `keras.layers.Layer`: `name`, `dtype`,
            `trainable`.

    Call arguments:
        sequences: `(batch, length, width)`.
        initial_state: The states before the first step: `(batch, k-1, c)` and
            `(batch, h, p, n)`. Zeros if `None`.
        mask: Boolean, `(batch, length)`. Masked steps are skipped, whatever
            they hold, and give 0.

    Raises:
        ValueError: If an argument is out of its range, or a shape does not
            fit.

    Example:

    ```python
    x = keras.random.normal((2, 100, 64))
    layer = keras_ssm.layers.Mamba2(return_state=True)
    y, *state = layer(x)
    y, *state = layer(x, initial_state=state)
    y_next, state = layer.step(x[:, 0], state)
    ```

    Reference:
        [Dao & Gu, 2024](https://arxiv.org/abs/2405.21060), section 7.
    """

    def __init__(
        self,
        *,
        state_dim: int = 128,
        head_dim: int | None = None,
        groups: int = 1,
        conv_kernel_size: int = 4,
        expand: int = 2,
        use_conv_bias: bool = True,
        use_bias: bool = False,
        epsilon: float = 1e-5,
        kernel_initializer=None,
        kernel_regularizer=None,
        A_log_initializer=None,
        dt_bias_initializer=None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        check_positive(
            "Mamba2",
            state_dim=state_dim,
            groups=groups,
            conv_kernel_size=conv_kernel_size,
            expand=expand,
            **({} if head_dim is None else {"head_dim": head_dim}),
        )
        self.state_dim = state_dim
        self.head_dim = head_dim
        self.groups = groups
        self.conv_kernel_size = conv_kernel_size
        self.expand = expand
        self.use_conv_bias = use_conv_bias
        self.use_bias = use_bias
        self.epsilon = epsilon
        self.kernel_initializer = initializers.get(
            kernel_initializer or fan_in_uniform()
        )
        self.kernel_regularizer = regularizers.get(kernel_regularizer)
        self.A_log_initializer = initializers.get(
            A_log_initializer or UniformDecay()
        )
        self.dt_bias_initializer = initializers.get(
            dt_bias_initializer or LogUniformDt()
        )

    def build_mixer(self, width):
        channels, heads, _ = self._sizes(width)
        bias = {"use_bias": self.use_bias}
        inner = channels + self._conv_channels(channels) + heads
        self.in_proj = build_dense(self, "in_proj", width, inner, **bias)
        build_convolution(self, self._conv_channels(channels))
        self.A_log = self.parameter("A_log", (heads,), self.A_log_initializer)
        self.D = self.parameter("D", (heads,), "ones")
        self.dt_bias = self.parameter(
            "dt_bias", (heads,), self.dt_bias_initializer
        )
        self.norm_scale = self.parameter("norm_scale", (channels,), "ones")
        self.out_proj = build_dense(self, "out_proj", channels, width, **bias)

    def state_shapes(self, width):
        channels, heads, head_dim = self._sizes(width)
        return (
            (self.conv_kernel_size - 1, self._conv_channels(channels)),
            (heads, head_dim, self.state_dim),
        )

    def mix(self, x, states, mask, reverse, training):
        conv_state, ssm_state = states or (None, None)
        z, xBC, dt = self._inputs(x)
        xBC, conv_state = convolve(self, xBC, conv_state, mask, reverse, "silu")
        y, ssm_state = ssd(
            *self._ssd_inputs(xBC, dt),
            dt_bias=self.dt_bias,
            dt_softplus=True,
            initial_state=ssm_state,
            mask=mask,
            reverse=reverse,
            return_state=True,
        )
        return self._outputs(y, z), (conv_state, ssm_state)

    def mix_step(self, x, states, mask):
        conv_state, ssm_state = states
        z, xBC, dt = self._inputs(x)
        xBC, conv_state = causal_conv1d_step(
            xBC,
            self.conv_kernel,
            self.conv_bias,
            activation="silu",
            state=conv_state,
            mask=mask,
        )
        y, ssm_state = ssd_step(
            *self._ssd_inputs(xBC, dt),
            dt_bias=self.dt_bias,
            dt_softplus=True,
            state=ssm_state,
            mask=mask,
        )
        return self._outputs(y, z), (conv_state, ssm_state)

    def _sizes(self, width):
        """Channels, heads, and channels of a head."""
        channels = self.expand * width
        head_dim = self.head_dim or math.gcd(channels, HEAD_DIM)
        heads = channels // head_dim
        if channels % head_dim or heads % self.groups:
            raise ValueError(
                f"{self.name}: `head_dim` must divide the channels, "
                "`expand * width`, into a number of heads that is a multiple "
                f"of `groups`. Received: head_dim={self.head_dim}, "
                f"groups={self.groups}, expand={self.expand}, width={width}."
            )
        return channels, heads, head_dim

    def _conv_channels(self, channels):
        """Those of x, B and C."""
        return channels + 2 * self.groups * self.state_dim

    def _inputs(self, x):
        """The gate, what goes through the convolution, and step sizes."""
        channels, heads = self.norm_scale.shape[0], self.D.shape[0]
        sizes = channels, self._conv_channels(channels), heads
        return split(project(self.in_proj, x), *sizes)

    def _ssd_inputs(self, xBC, dt):
        """`x, dt, A, B, C, D` for `ssd`, of a sequence or of a step."""
        channels, heads = self.norm_scale.shape[0], self.D.shape[0]
        maps = self.groups * self.state_dim
        parts = split(xBC, channels, maps, maps)
        x, B, C = (
            ops.reshape(v, (*ops.shape(v)[:-1], count, v.shape[-1] // count))
            for v, count in zip(
                parts, (heads, self.groups, self.groups), strict=True
            )
        )
        A = -ops.exp(ops.convert_to_tensor(self.A_log))
        return x, dt, A, B, C, self.D

    def _outputs(self, y, z):
        """Gates, normalizes the channels of each group, and projects."""
        shape = ops.shape(z)
        y = ops.reshape(ops.cast(y, self.state_dtype), shape)
        y = y * ops.silu(ops.cast(z, self.state_dtype))
        y = ops.reshape(
            y, (*shape[:-1], self.groups, z.shape[-1] // self.groups)
        )
        mean = ops.mean(ops.square(y), axis=-1, keepdims=True)
        y = ops.reshape(y * ops.rsqrt(mean + self.epsilon), shape)
        y = ops.cast(y * self.norm_scale, self.compute_dtype)
        return project(self.out_proj, y)

    def get_config(self):
        return {
            **super().get_config(),
            "state_dim": self.state_dim,
            "head_dim": self.head_dim,
            "groups": self.groups,
            "conv_kernel_size": self.conv_kernel_size,
            "expand": self.expand,
            "use_conv_bias": self.use_conv_bias,
            "use_bias": self.use_bias,
            "epsilon": self.epsilon,
            "kernel_initializer": initializers.serialize(
                self.kernel_initializer
            ),
            "kernel_regularizer": regularizers.serialize(
                self.kernel_regularizer
            ),
            "A_log_initializer": initializers.serialize(self.A_log_initializer),
            "dt_bias_initializer": initializers.serialize(
                self.dt_bias_initializer
            ),
        }
