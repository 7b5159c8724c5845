"""The linear recurrent unit."""

import math
import random

import keras
from keras import initializers, ops

from keras_ssm.layers.diagonal_recurrence import DiagonalRecurrence
from keras_ssm.layers.initializers import LRURing
from keras_ssm.ops import discretize


@keras.saving.register_keras_serializable(package="keras_ssm")
class LRU(DiagonalRecurrence):
    """Mixes time and channels with a linear recurrence of complex numbers.

        h[t] = a h[t-1] + exp(gamma_log) * B x[t]
        a = exp(-exp(nu_log) + i exp(theta_log))
        outputs[t] = Re(C h[t]) + D x[t]

    The eigenvalues `a` start on a ring of the unit disk; the gain lets the
    state start with the same size whatever they are. Time and memory are
    linear in the length, and a step of generation costs the same at any
    position.

    Parameters, with `m` the width and `n = state_dim`:

    | name | shape | start |
    |---|---|---|
    | `nu_log`, `theta_log` | (n,) | `a` uniform on the ring |
    | `gamma_log` | (n,) | log sqrt(1 - |a|^2) |
    | `B_real`, `B_imag` | (n, m) | N(0, 1 / 2m) |
    | `C_real`, `C_imag` | (m, n) | N(0, 1 / n) |
    | `D` | (m,) | N(0, 1) |

    They stay float32 under every dtype policy. The paper trains all but `C`
    and `D` with a smaller learning rate and without weight decay:
    `keras_ssm.optimizers.DYNAMICS` names them.

    Args:
        state_dim: Size n of the state in complex numbers.
        r_min: Smallest modulus of the eigenvalues at the start.
        r_max: Largest one. For long dependencies, both are close to 1.
        max_phase: Largest phase of them; small for long dependencies.
        activation: What follows: `None`; `"glu"`, `u * sigmoid(v)` with
            `u, v = out_proj(gelu(y))`; or `"half_glu"`,
            `y * sigmoid(out_proj(gelu(y)))`.
        kernel_initializer: For the kernel of `out_proj`.
        kernel_regularizer: For the kernel of `out_proj`.
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
    layer = keras_ssm.layers.LRU(r_min=0.9, r_max=0.999, return_state=True)
    y, *state = layer(x)
    y, *state = layer(x, initial_state=state)
    y_next, state = layer.step(x[:, 0], state)
    ```

    Reference:
        [Orvieto et al., 2023](https://arxiv.org/abs/2303.06349), section 3
        and appendix A.
    """

    def __init__(
        self,
        *,
        state_dim: int = 256,
        r_min: float = 0.0,
        r_max: float = 1.0,
        max_phase: float = 2 * math.pi,
        activation: str | None = None,
        **kwargs,
    ):
        super().__init__(state_dim=state_dim, activation=activation, **kwargs)
        # Checked here, not when the layer is built.
        LRURing(r_min, r_max, max_phase)
        self.r_min = r_min
        self.r_max = r_max
        self.max_phase = max_phase

    def build_system(self, width):
        n = self.state_dim
        # The parts are of the same eigenvalues if they are seeded alike, here
        # as Keras seeds its initializers.
        seed = random.randint(1, int(1e9))
        self.nu_log, self.theta_log, self.gamma_log = (
            self.parameter(
                name,
                (n,),
                LRURing(self.r_min, self.r_max, self.max_phase, part, seed),
            )
            for name, part in (
                ("nu_log", "log_decay"),
                ("theta_log", "log_phase"),
                ("gamma_log", "log_gain"),
            )
        )
        # By the size of what they multiply: `B` is (n, m), `C` (m, n).
        self.B = self.complex_parameter(
            "B", (n, width), _normal(1 / 2), _normal(1 / 2)
        )
        self.C = self.complex_parameter("C", (width, n), _normal(1), _normal(1))

    def system(self):
        nu_log, theta_log, gamma_log = (
            ops.expand_dims(ops.convert_to_tensor(v), 1)
            for v in (self.nu_log, self.theta_log, self.gamma_log)
        )
        # The eigenvalues are those of steps of size 1 in continuous time.
        one = ops.ones_like(nu_log)
        log_a = -ops.exp(nu_log), ops.exp(theta_log)
        a, _ = discretize(one[:, 0], log_a, (one, ops.zeros_like(one)))
        B = tuple(ops.exp(gamma_log) * part for part in self.B)
        C = tuple(ops.convert_to_tensor(part) for part in self.C)
        return tuple(ops.squeeze(part, 1) for part in a), B, C

    def get_config(self):
        return {
            **super().get_config(),
            "r_min": self.r_min,
            "r_max": self.r_max,
            "max_phase": self.max_phase,
        }


def _normal(scale):
    """N(0, scale / m) for a matrix that multiplies `m` numbers."""
    return initializers.VarianceScaling(scale, "fan_out", "untruncated_normal")
