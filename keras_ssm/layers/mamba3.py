"""The mixer of Mamba-3."""

import math

import keras
from keras import initializers, ops, regularizers

from keras_ssm.layers.arguments import check_choice, check_positive
from keras_ssm.layers.dense import build_dense, fan_in_uniform, project, split
from keras_ssm.layers.initializers import LogUniformDt
from keras_ssm.layers.sequence_layer import SequenceLayer
from keras_ssm.ops import mamba3_scan, mamba3_scan_step

HEAD_DIM = 64
# Decay rates are at least this, so that every state fades.
SLOWEST_DECAY = 1e-4


@keras.saving.register_keras_serializable(package="keras_ssm")
class Mamba3(SequenceLayer):
    """Mixes time with a recurrence of complex states, without a convolution.

        z, x, B, C, dt, A, lam, theta = in_proj(inputs)
        dt, A = softplus(dt + dt_bias), -decay_activation(A)
        lam, theta = sigmoid(lam), pi * tanh(theta)
        B, C = rms(B) * B_norm_scale + B_bias, rms(C) * C_norm_scale + C_bias
        h[t] = exp(dt[t] (A[t] - i theta[t]))
               * (h[t-1] + (1 - lam[t]) dt[t] x[t-1] B[t-1]')
               + lam[t] dt[t] x[t] B[t]'
        y[t] = h[t] C[t] + D x[t]
        outputs = out_proj(y * silu(z))

    The trapezoidal rule looks at the present and at the previous input, in the
    place of a convolution; the state turns as the input says, which lets it
    count and keep track; B and C are normalized, and have a bias for each
    head. With a `rank` above 1 a head has several inputs `mimo_x x`, outputs
    and gates `mimo_z z` for one state (MIMO), and their sum weighted by
    `mimo_out` is its output: better use of the state at the same cost in
    memory. Time and memory are linear in the length, and a step of generation
    costs the same at any position. It has the conventions of
    `keras.layers.LSTM`, except that arguments are keywords, that sequences are
    returned by default, and that the output is as wide as the input.

    Parameters, with `m` the width, `d = expand * m`, `p = head_dim`,
    `h = d / p` heads, `n = state_dim`, `g = groups`, `r = rank`,
    `a = rotary_dim / 2`:

    | name | shape | start |
    |---|---|---|
    | `in_proj/kernel` | (m, 2d + 2rgn + 3h + a) | U(±1/sqrt(m)) |
    | `B_norm_scale`, `C_norm_scale` | (n,) | 1 |
    | `B_bias`, `C_bias` | (r, h, n) | 1 |
    | `dt_bias` | (h,) | softplus of it log-uniform in [0.001, 0.1] |
    | `D` | (h,) | 1 |
    | `mimo_x`, `mimo_out` | (r, h, p) | 1/r, if `rank > 1` |
    | `mimo_z` | (r, h, p) | 1, if `rank > 1` |
    | `norm_scale` | (d,) | 1, if `use_output_norm` |
    | `out_proj/kernel` | (d, m) | U(±1/sqrt(d)) |

    All but the projections stay float32 under every dtype policy. Exclude `D`
    and `dt_bias` from weight decay:
    `optimizer.exclude_from_weight_decay(var_names=["D", "dt_bias"])`.

    Args:
        state_dim: Size n of the state of each channel.
        head_dim: Channels p of a head; a divisor of `expand * width`. `None`
            for the paper's 64, or where that is no divisor the greatest one
            that it shares with 64.
        groups: How many B and C there are, shared by as many heads each.
        rank: Inputs and outputs of a head at a time. The paper's MIMO has 4.
        rotary_dim: How many numbers of a state turn, in pairs: number `j` with
            number `rotary_dim / 2 + j`. An even number, at most `state_dim`.
            `None` for the paper's half of them.
        expand: The recurrence has `expand` times the width of the input.
        decay_activation: What makes decay rates positive: `"heavy_tail"`,
            `1 + A` and `1 / (1 - A)` below 0, or `"softplus"`, as in the first
            release of the paper's code.
        use_output_norm: Whether the output of each head is normalized before
            the gate.
        use_bias: Whether the projections have biases.
        epsilon: Of the RMS norms.
        kernel_initializer: For the kernels of `in_proj` and `out_proj`. `None`
            for the paper's.
        kernel_regularizer: For the same kernels.
        dt_bias_initializer: For `dt_bias`; `LogUniformDt(minimum, maximum)`
            sets the range of step sizes.
        return_sequences: Whether to return the output of every step, or only
            that of the last unmasked one.
        return_state: Whether to return
            `(outputs, ssm_state, x_state, B_state)`.
        go_backwards: Whether to process the sequence from its end and return
            the output in that order.
        stateful: Whether the states after a batch are the initial states of
            the next one. Needs a fixed batch size.
        **kwargs: Arguments of `keras.layers.Layer`: `name`, `dtype`,
            `trainable`.

    Call arguments:
        sequences: `(batch, length, width)`.
        initial_state: The states before the first step: `(batch, h, p, n)`,
            and x `(batch, r, h, p)` and B `(batch, r, h, n)` of the step
            before. Zeros if `None`.
        mask: Boolean, `(batch, length)`. Masked steps are skipped, whatever
            they hold, and give 0.

    Raises:
        ValueError: If an argument is out of its range, or a shape does not
            fit.

    Example:

    ```python
    x = keras.random.normal((2, 100, 64))
    layer = keras_ssm.layers.Mamba3(rank=4, return_state=True)
    y, *state = layer(x)
    y, *state = layer(x, initial_state=state)
    y_next, state = layer.step(x[:, 0], state)
    ```

    Reference:
        [Lahoti et al., 2026](https://arxiv.org/abs/2603.15569), section 3.
    """

    def __init__(
        self,
        *,
        state_dim: int = 128,
        head_dim: int | None = None,
        groups: int = 1,
        rank: int = 1,
        rotary_dim: int | None = None,
        expand: int = 2,
        decay_activation: str = "heavy_tail",
        use_output_norm: bool = False,
        use_bias: bool = False,
        epsilon: float = 1e-5,
        kernel_initializer=None,
        kernel_regularizer=None,
        dt_bias_initializer=None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        optional = {"head_dim": head_dim, "rotary_dim": rotary_dim}
        check_positive(
            "Mamba3",
            state_dim=state_dim,
            groups=groups,
            rank=rank,
            expand=expand,
            **{name: v for name, v in optional.items() if v is not None},
        )
        check_choice(
            "Mamba3",
            "decay_activation",
            decay_activation,
            ("heavy_tail", "softplus"),
        )
        self.state_dim = state_dim
        self.head_dim = head_dim
        self.groups = groups
        self.rank = rank
        self.rotary_dim = rotary_dim
        self.expand = expand
        self.decay_activation = decay_activation
        self.use_output_norm = use_output_norm
        self.use_bias = use_bias
        self.epsilon = epsilon
        self.kernel_initializer = initializers.get(
            kernel_initializer or fan_in_uniform()
        )
        self.kernel_regularizer = regularizers.get(kernel_regularizer)
        self.dt_bias_initializer = initializers.get(
            dt_bias_initializer or LogUniformDt()
        )
        self._angles = self._count_angles()

    def _count_angles(self):
        """How many pairs of numbers of a state turn."""
        turning = self.rotary_dim or 2 * max(1, self.state_dim // 4)
        if turning % 2 or turning > self.state_dim:
            raise ValueError(
                "`Mamba3`: pairs of numbers of a state turn: `rotary_dim` must "
                "be even, and at most `state_dim`, which must be at least 2. "
                f"Received: rotary_dim={self.rotary_dim}, "
                f"state_dim={self.state_dim}."
            )
        return turning // 2

    def build_mixer(self, width):
        heads, head_dim = self._sizes(width)
        channels, bias = heads * head_dim, {"use_bias": self.use_bias}
        of_heads = self.rank, heads, head_dim
        self._parts = self._sizes_of_parts(heads, channels)
        self.in_proj = build_dense(
            self, "in_proj", width, sum(self._parts), **bias
        )
        scale, shift = (self.state_dim,), (self.rank, heads, self.state_dim)
        self.B_norm_scale = self.parameter("B_norm_scale", scale, "ones")
        self.C_norm_scale = self.parameter("C_norm_scale", scale, "ones")
        self.B_bias = self.parameter("B_bias", shift, "ones")
        self.C_bias = self.parameter("C_bias", shift, "ones")
        self.dt_bias = self.parameter(
            "dt_bias", (heads,), self.dt_bias_initializer
        )
        self.D = self.parameter("D", (heads,), "ones")
        if self.rank > 1:
            share = initializers.Constant(1 / self.rank)
            self.mimo_x = self.parameter("mimo_x", of_heads, share)
            self.mimo_z = self.parameter("mimo_z", of_heads, "ones")
            self.mimo_out = self.parameter("mimo_out", of_heads, share)
        if self.use_output_norm:
            self.norm_scale = self.parameter("norm_scale", (channels,), "ones")
        self.out_proj = build_dense(self, "out_proj", channels, width, **bias)

    def state_shapes(self, width):
        heads, head_dim = self._sizes(width)
        return (
            (heads, head_dim, self.state_dim),
            (self.rank, heads, head_dim),
            (self.rank, heads, self.state_dim),
        )

    def mix(self, x, states, mask, reverse, training):
        inputs, z = self._inputs(x)
        outputs = mamba3_scan(
            **inputs,
            D=self.D,
            initial_state=states,
            mask=mask,
            reverse=reverse,
            return_state=states is not None,
        )
        y, states = (outputs, None) if states is None else outputs
        return self._outputs(y, z), states

    def mix_step(self, x, states, mask):
        inputs, z = self._inputs(x)
        y, states = mamba3_scan_step(
            **inputs, D=self.D, state=states, mask=mask
        )
        return self._outputs(y, z), states

    def _sizes(self, width):
        """Heads, and channels of a head."""
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
        return heads, head_dim

    def _sizes_of_parts(self, heads, channels):
        """Of z, x, B, C, dt, A, lam and theta, as `in_proj` gives them."""
        maps = self.rank * self.groups * self.state_dim
        return channels, channels, maps, maps, *(heads,) * 3, self._angles

    def _inputs(self, x):
        """What the recurrence takes, of a sequence or of a step, and gates.

        All of it in the dtype of the state; gates are `(..., r, h, p)`.
        """
        v = ops.cast(project(self.in_proj, x), self.state_dtype)
        z, x, B, C, dt, A, lam, theta = split(v, *self._parts)
        z, x = self._by_head(z), self._by_head(x)
        if self.rank > 1:
            z, x = z * self.mimo_z, x * self.mimo_x
        inputs = {
            "x": x,
            "dt": ops.softplus(dt + self.dt_bias),
            "A": -self._decay(A),
            "B": self._maps(B, self.B_norm_scale, self.B_bias),
            "C": self._maps(C, self.C_norm_scale, self.C_bias),
            "lam": ops.sigmoid(lam),
            "theta": math.pi * ops.tanh(theta),
        }
        return inputs, z

    def _by_head(self, v):
        """(..., d) -> (..., 1, h, p)."""
        heads = self.D.shape[0]
        shape = *ops.shape(v)[:-1], 1, heads, v.shape[-1] // heads
        return ops.reshape(v, shape)

    def _decay(self, rate):
        if self.decay_activation == "softplus":
            rate = ops.softplus(rate)
        else:
            rate = ops.relu(rate) + 1 / (1 + ops.relu(-rate))
        return ops.where(rate > SLOWEST_DECAY, rate, SLOWEST_DECAY)

    def _maps(self, v, scale, bias):
        """B or C of each head, (..., r * g * n) -> (..., r, h, n)."""
        steps, (r, heads, n) = ops.shape(v)[:-1], bias.shape
        v = ops.reshape(v, (*steps, r, self.groups, 1, n))
        bias = ops.reshape(bias, (r, self.groups, heads // self.groups, n))
        v = self._normalized(v) * scale + bias
        return ops.reshape(v, (*steps, r, heads, n))

    def _normalized(self, v):
        mean = ops.mean(ops.square(v), axis=-1, keepdims=True)
        return v * ops.rsqrt(mean + self.epsilon)

    def _outputs(self, y, z):
        """Normalizes, gates, joins ranks and heads, and projects.

        `y` and `z` are `(..., r, h, p)`.
        """
        if self.use_output_norm:
            heads, head_dim = y.shape[-2:]
            scale = ops.reshape(self.norm_scale, (heads, head_dim))
            y = self._normalized(y) * scale
        y = y * ops.silu(z)
        if self.rank > 1:
            y = y * self.mimo_out
        y = ops.sum(y, axis=-3)
        shape = *ops.shape(y)[:-2], y.shape[-2] * y.shape[-1]
        y = ops.cast(ops.reshape(y, shape), self.compute_dtype)
        return project(self.out_proj, y)

    def get_config(self):
        return {
            **super().get_config(),
            "state_dim": self.state_dim,
            "head_dim": self.head_dim,
            "groups": self.groups,
            "rank": self.rank,
            "rotary_dim": self.rotary_dim,
            "expand": self.expand,
            "decay_activation": self.decay_activation,
            "use_output_norm": self.use_output_norm,
            "use_bias": self.use_bias,
            "epsilon": self.epsilon,
            "kernel_initializer": initializers.serialize(
                self.kernel_initializer
            ),
            "kernel_regularizer": regularizers.serialize(
                self.kernel_regularizer
            ),
            "dt_bias_initializer": initializers.serialize(
                self.dt_bias_initializer
            ),
        }
