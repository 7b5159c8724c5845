"""The mixer of S5."""

import keras
from keras import initializers, ops

from keras_ssm.layers.arguments import check_positive
from keras_ssm.layers.diagonal_recurrence import DiagonalRecurrence
from keras_ssm.layers.hippo import HiPPOBasis, HiPPOLegS
from keras_ssm.layers.initializers import LogUniformDt
from keras_ssm.ops import discretize


@keras.saving.register_keras_serializable(package="keras_ssm")
class S5(DiagonalRecurrence):
    """Mixes time and channels with one state space model for all channels.

        h' = A h + B x,    A = -exp(A_log) + i A_imag
        h[t] = exp(dt A) h[t-1] + (exp(dt A) - 1) / A B x[t],  dt = exp(log_dt)
        y[t] = 2 Re(C h[t]) + D x[t]
        outputs = y * sigmoid(out_proj(gelu(y)))

    Each complex number of the state stands for itself and its conjugate. The
    state starts as several that each remember the past of a channel as
    Legendre coefficients. Time and memory are linear in the length, and a step
    of generation costs the same at any position.

    Parameters, with `m` the width and `n = state_dim / 2`:

    | name | shape | start |
    |---|---|---|
    | `A_log`, `A_imag` | (n,) | HiPPO-N, in blocks |
    | `B_real`, `B_imag` | (n, m) | V* B, B normal of variance 1 / 2n |
    | `C_real`, `C_imag` | (m, n) | C V, C normal of variance 1 / 2n |
    | `log_dt` | (n,) | its exponential log-uniform in [0.001, 0.1] |
    | `D` | (m,) | N(0, 1) |
    | `out_proj/kernel`, `out_proj/bias` | (m, m), (m,) | by fan-in, 0 |

    All but those of `out_proj` stay float32 under every dtype policy. The
    paper trains `A_log`, `A_imag`, `log_dt` and `B` with a smaller learning
    rate and without weight decay: `keras_ssm.optimizers.DYNAMICS` names them.

    Args:
        state_dim: Size of the state in real numbers, even.
        blocks: How many equal systems the state starts as.
        rate: Sampling steps to one of the sequences that the layer was trained
            on: 2 for every other sample, 0.5 for two where there was one.
        activation: `"half_glu"`, `"glu"`, which is `u * sigmoid(v)` with
            `u, v = out_proj(gelu(y))`, or `None` for `y`.
        kernel_initializer: For the kernel of `out_proj`.
        kernel_regularizer: For the kernel of `out_proj`.
        dt_initializer: For `log_dt`;
            `LogUniformDt(minimum, maximum, activation="exp")` sets the range
            of step sizes.
        return_sequences: Whether to return the output of every step, or only
            that of the last unmasked one.
        return_state: Whether to return `(outputs, real, imag)`.
        go_backwards: Whether to process the sequence from its end and return
            the output in that order.
        stateful: Whether the states after a batch are the initial states of
            the next one. Needs a fixed batch size.
        **kwargs: Arguments of `keras.layers.Layer`: `name`, `dtype`,
            `trainable`.

    Call arguments:
        sequences: `(batch, length, width)`.
        initial_state: The real and the imaginary part of the state before the
            first step, `(batch, n)` each. Zeros if `None`.
        mask: Boolean, `(batch, length)`. Masked steps are skipped, whatever
            they hold, and give 0.

    Raises:
        ValueError: If an argument is out of its range, or a shape does not
            fit.

    Example:

    ```python
    x = keras.random.normal((2, 100, 64))
    layer = keras_ssm.layers.S5(return_state=True)
    y, *state = layer(x)
    y, *state = layer(x, initial_state=state)
    y_next, state = layer.step(x[:, 0], state)
    ```

    Reference:
        [Smith et al., 2022](https://arxiv.org/abs/2208.04933), section 3 and
        appendix B.
    """

    def __init__(
        self,
        *,
        state_dim: int = 256,
        blocks: int = 8,
        rate: float = 1.0,
        activation: str | None = "half_glu",
        dt_initializer=None,
        **kwargs,
    ):
        super().__init__(state_dim=state_dim, activation=activation, **kwargs)
        check_positive("S5", blocks=blocks)
        if state_dim % (2 * blocks):
            raise ValueError(
                "`S5`: `state_dim` must be a multiple of 2 * blocks, so that "
                "each block has whole conjugate pairs. "
                f"Received: state_dim={state_dim}, blocks={blocks}."
            )
        if not rate > 0:
            raise ValueError(
                f"`S5`: `rate` must be positive. Received: rate={rate}."
            )
        self.blocks = blocks
        self.rate = rate
        self.dt_initializer = initializers.get(
            dt_initializer or LogUniformDt(activation="exp")
        )

    @property
    def numbers(self):
        return self.state_dim // 2

    def build_system(self, width):
        n = self.numbers
        self.A_log, self.A_imag = (
            self.parameter(name, (n,), HiPPOLegS("A", part, blocks=self.blocks))
            for name, part in (("A_log", "log_decay"), ("A_imag", "imag"))
        )
        self.log_dt = self.parameter("log_dt", (n,), self.dt_initializer)
        # By the size of the state: `B` is (2n, m), `C` (m, 2n).
        self.B = self._add_map("B", (n, width), "inputs", "fan_in")
        self.C = self._add_map("C", (width, n), "outputs", "fan_out")

    def _add_map(self, name, shape, side, mode):
        # Both parts are of one map: an initializer that is called again draws
        # the same numbers.
        drawn = initializers.VarianceScaling(1.0, mode, "truncated_normal")
        parts = (
            HiPPOBasis(drawn, side, part, self.blocks)
            for part in ("real", "imag")
        )
        return self.complex_parameter(name, shape, *parts)

    def system(self):
        A = (
            -ops.exp(ops.convert_to_tensor(self.A_log)),
            ops.convert_to_tensor(self.A_imag),
        )
        A = tuple(ops.expand_dims(part, 1) for part in A)  # (n, 1)
        one = ops.ones_like(A[0]), ops.zeros_like(A[0])
        dt = ops.exp(ops.convert_to_tensor(self.log_dt))
        a, scale = discretize(dt, A, one, rate=self.rate)
        B_real, B_imag = self.B
        B = (
            scale[0] * B_real - scale[1] * B_imag,
            scale[0] * B_imag + scale[1] * B_real,
        )
        C = tuple(2 * ops.convert_to_tensor(part) for part in self.C)
        return tuple(ops.squeeze(part, 1) for part in a), B, C

    def get_config(self):
        return {
            **super().get_config(),
            "blocks": self.blocks,
            "rate": self.rate,
            "dt_initializer": initializers.serialize(self.dt_initializer),
        }
