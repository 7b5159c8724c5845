"""The mixer of Mamba."""

import math

import keras
from keras import initializers, ops, regularizers

from keras_ssm.layers.arguments import check_positive
from keras_ssm.layers.convolution import build_convolution, convolve
from keras_ssm.layers.dense import (
    FloatDense,
    build_dense,
    fan_in_uniform,
    halves,
    project,
)
from keras_ssm.layers.initializers import LogUniformDt, S4DReal
from keras_ssm.layers.sequence_layer import SequenceLayer
from keras_ssm.ops import (
    causal_conv1d_step,
    selective_scan,
    selective_scan_step,
)


@keras.saving.register_keras_serializable(package="keras_ssm")
class Mamba(SequenceLayer):
    """Mixes time with a recurrence that chooses what to remember.

        x, z = in_proj(inputs)
        x = silu(conv1d(x))
        dt, B, C = x_proj(x)
        dt = softplus(dt_proj(dt) + dt_bias)
        h[t] = exp(dt[t] A) h[t-1] + dt[t] B[t] x[t],    A = -exp(A_log)
        y[t] = (C[t] h[t] + D x[t]) * silu(z[t])
        outputs = out_proj(y)

    Time and memory are linear in the length, and a step of generation costs
    the same at any position. It has the conventions of `keras.layers.LSTM`,
    except that arguments are keywords, that sequences are returned by default,
    and that the output is as wide as the input.

    Parameters, with `m` the width, `d = expand * m`, `n = state_dim`,
    `r = dt_rank`:

    | name | shape | start |
    |---|---|---|
    | `in_proj/kernel` | (m, 2d) | U(±1/sqrt(m)) |
    | `conv_kernel`, `conv_bias` | (k, d), (d,) | U(±1/sqrt(k)) |
    | `x_proj/kernel` | (d, r + 2n) | U(±1/sqrt(d)) |
    | `dt_proj/kernel` | (r, d) | U(±1/sqrt(r)) |
    | `dt_bias` | (d,) | softplus of it log-uniform in [0.001, 0.1] |
    | `A_log` | (d, n) | log(1), ..., log(n) |
    | `D` | (d,) | 1 |
    | `out_proj/kernel` | (d, m) | U(±1/sqrt(d)) |

    With `use_inner_norm=True`, as in Jamba, dt, B and C are normalized behind
    `x_proj`, each by its root mean square, and multiplied with

    | name | shape | start |
    |---|---|---|
    | `dt_norm_scale` | (r,) | 1 |
    | `B_norm_scale`, `C_norm_scale` | (n,) | 1 |

    `A_log`, `D`, `dt_bias` and these scales stay float32 under every dtype
    policy. Exclude the first three from weight decay:
    `optimizer.exclude_from_weight_decay(var_names=["A_log", "D", "dt_bias"])`.

    Args:
        state_dim: Size n of the state of each channel.
        conv_kernel_size: Width k of the causal convolution.
        expand: The recurrence has `expand` times the width of the input.
        dt_rank: Rank of the projection to step sizes. `None` for the paper's
            `ceil(width / 16)`.
        use_conv_bias: Whether the convolution has a bias.
        use_bias: Whether the outer projections have biases.
        use_inner_norm: Whether dt, B and C are normalized.
        epsilon: Of these norms.
        kernel_initializer: For the kernels of `in_proj`, `x_proj` and
            `out_proj`. `None` for the paper's.
        kernel_regularizer: For the kernels of `in_proj`, `x_proj`, `dt_proj`
            and `out_proj`.
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
        initial_state: The states before the first step: `(batch, k-1, d)` and
            `(batch, d, n)`. Zeros if `None`.
        mask: Boolean, `(batch, length)`. Masked steps are skipped, whatever
            they hold, and give 0.

    Raises:
        ValueError: If an argument is out of its range, or a shape does not
            fit.

    Example:

    ```python
    x = keras.random.normal((2, 100, 64))
    layer = keras_ssm.layers.Mamba(return_state=True)
    y, *state = layer(x)
    y, *state = layer(x, initial_state=state)
    y_next, state = layer.step(x[:, 0], state)
    ```

    Reference:
        [Gu & Dao, 2023](https://arxiv.org/abs/2312.00752), section 3.4;
        [Lieber et al., 2024](https://arxiv.org/abs/2403.19887), section 6.4,
        inner norms.
    """

    def __init__(
        self,
        *,
        state_dim: int = 16,
        conv_kernel_size: int = 4,
        expand: int = 2,
        dt_rank: int | None = None,
        use_conv_bias: bool = True,
        use_bias: bool = False,
        use_inner_norm: bool = False,
        epsilon: float = 1e-6,
        kernel_initializer=None,
        kernel_regularizer=None,
        A_log_initializer=None,
        dt_bias_initializer=None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        check_positive(
            "Mamba",
            state_dim=state_dim,
            conv_kernel_size=conv_kernel_size,
            expand=expand,
            **({} if dt_rank is None else {"dt_rank": dt_rank}),
        )
        self.state_dim = state_dim
        self.conv_kernel_size = conv_kernel_size
        self.expand = expand
        self.dt_rank = dt_rank
        self.use_conv_bias = use_conv_bias
        self.use_bias = use_bias
        self.use_inner_norm = use_inner_norm
        self.epsilon = epsilon
        self.kernel_initializer = initializers.get(
            kernel_initializer or fan_in_uniform()
        )
        self.kernel_regularizer = regularizers.get(kernel_regularizer)
        self.A_log_initializer = initializers.get(
            A_log_initializer or S4DReal()
        )
        self.dt_bias_initializer = initializers.get(
            dt_bias_initializer or LogUniformDt()
        )

    def build_mixer(self, width):
        self.channels = self.expand * width
        self._rank = self.dt_rank or math.ceil(width / 16)
        bias = {"use_bias": self.use_bias}
        self.in_proj = build_dense(
            self, "in_proj", width, 2 * self.channels, **bias
        )
        build_convolution(self, self.channels)
        self.x_proj = build_dense(
            self,
            "x_proj",
            self.channels,
            self._rank + 2 * self.state_dim,
            FloatDense,
            use_bias=False,
        )
        self.dt_proj = build_dense(
            self,
            "dt_proj",
            self._rank,
            self.channels,
            FloatDense,
            use_bias=False,
            kernel_initializer=fan_in_uniform(),
        )
        self._build_ssm()
        self.out_proj = build_dense(
            self, "out_proj", self.channels, width, **bias
        )

    def _build_ssm(self):
        shape = (self.channels, self.state_dim)
        self.A_log = self.parameter("A_log", shape, self.A_log_initializer)
        self.D = self.parameter("D", (self.channels,), "ones")
        self.dt_bias = self.parameter(
            "dt_bias", (self.channels,), self.dt_bias_initializer
        )
        if self.use_inner_norm:
            sizes = {"dt": self._rank, "B": self.state_dim, "C": self.state_dim}
            self.inner_scales = [
                self.parameter(f"{name}_norm_scale", (size,), "ones")
                for name, size in sizes.items()
            ]

    def state_shapes(self, width):
        channels = self.expand * width
        return (
            (self.conv_kernel_size - 1, channels),
            (channels, self.state_dim),
        )

    def mix(self, x, states, mask, reverse, training):
        conv_state, ssm_state = states or (None, None)
        x, z = self._inputs(x)  # (b, l, d) each
        x, conv_state = convolve(self, x, conv_state, mask, reverse, "silu")
        y, ssm_state = selective_scan(
            *self._scan_inputs(x),
            z,
            dt_bias=self.dt_bias,
            dt_softplus=True,
            initial_state=ssm_state,
            mask=mask,
            reverse=reverse,
            return_state=True,
        )
        return project(self.out_proj, y), (conv_state, ssm_state)

    def mix_step(self, x, states, mask):
        conv_state, ssm_state = states
        x, z = self._inputs(x)  # (b, d) each
        x, conv_state = causal_conv1d_step(
            x,
            self.conv_kernel,
            self.conv_bias,
            activation="silu",
            state=conv_state,
            mask=mask,
        )
        y, ssm_state = selective_scan_step(
            *self._scan_inputs(x),
            z,
            dt_bias=self.dt_bias,
            dt_softplus=True,
            state=ssm_state,
            mask=mask,
        )
        return project(self.out_proj, y), (conv_state, ssm_state)

    def _inputs(self, x):
        """What goes through the convolution, and the gate."""
        return halves(project(self.in_proj, x))

    def _scan_inputs(self, x):
        """`x, dt, A, B, C, D` for the scan, of a sequence or of a step."""
        maps = project(self.x_proj, x)
        end_of_B = self._rank + self.state_dim
        dt = maps[..., : self._rank]
        B, C = maps[..., self._rank : end_of_B], maps[..., end_of_B:]
        if self.use_inner_norm:
            dt, B, C = map(self._normalized, (dt, B, C), self.inner_scales)
        A = -ops.exp(ops.convert_to_tensor(self.A_log))
        return x, project(self.dt_proj, dt), A, B, C, self.D

    def _normalized(self, v, scale):
        wide = ops.cast(v, self.state_dtype)
        mean = ops.mean(ops.square(wide), axis=-1, keepdims=True)
        return ops.cast(wide * ops.rsqrt(mean + self.epsilon) * scale, v.dtype)

    def get_config(self):
        return {
            **super().get_config(),
            "state_dim": self.state_dim,
            "conv_kernel_size": self.conv_kernel_size,
            "expand": self.expand,
            "dt_rank": self.dt_rank,
            "use_conv_bias": self.use_conv_bias,
            "use_bias": self.use_bias,
            "use_inner_norm": self.use_inner_norm,
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
