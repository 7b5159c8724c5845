"""The mixer of S4."""

import keras
from keras import ops

from keras_ssm.layers.hippo import HiPPOLegS
from keras_ssm.layers.state_space import StateSpaceLayer
from keras_ssm.ops import discretize_dplr, s4_conv_kernel


@keras.saving.register_keras_serializable(package="keras_ssm")
class S4(StateSpaceLayer):
    """Mixes time with a linear system for each channel that begins as HiPPO.

        h' = (A - P P*) h + B x,    A = -exp(A_log) + i A_imag
        y = 2 Re(C h) + D x
        outputs = GLU(out_proj(GELU(y)))

    in steps of `exp(log_dt)`, by the bilinear rule. The matrix, diagonal plus
    low rank, starts as HiPPO-LegS, whose state holds the past as coefficients
    of Legendre polynomials. `S4D` is the simpler layer without `P`, most often
    as good. Both are a convolution with a kernel as long as the sequence, a
    recurrence with a state, and a step, which are equal; and run at other
    sampling rates than they were trained at. They have the conventions of
    `keras.layers.LSTM`, except that arguments are keywords, that sequences are
    returned by default, and that the output is as wide as the input.

    The convolution takes `l log l` time, and is what runs unless states
    are given or asked for. It needs the whole sequence, and its length where
    JAX or PyTorch exports it.
    The recurrence runs chunks of 64 steps as products of matrices. A step, and
    for the sequence two for each chunk, of 16 times as many where the length
    is unknown, multiply the state of each channel with a dense matrix of
    `state_dim * state_dim` numbers.

    Parameters, with `d` the width and `n = state_dim / 2`:

    | name | shape | start |
    |---|---|---|
    | `log_dt` | (d,) | exp of it log-uniform in [0.001, 0.1] |
    | `A_log`, `A_imag` | (d, n) | HiPPO-LegS |
    | `P_real`, `P_imag` | (d, n) | HiPPO-LegS |
    | `B_real`, `B_imag` | (d, n) | HiPPO-LegS |
    | `C_real`, `C_imag` | (d, n) | normal, together of mean square 1 |
    | `C_backward_real`, `C_backward_imag` | (d, n) | as `C`; bidirectional |
    | `D` | (d,) | normal |
    | `out_proj/kernel` | (d, 2d) | U(±1/sqrt(d)) |
    | `out_proj/bias` | (2d,) | 0 |

    All but those of `out_proj` stay float32 under every dtype policy. Train
    those of the dynamics without weight decay and with a smaller learning
    rate: `keras_ssm.optimizers.DYNAMICS` has their names.

    Args:
        state_dim: Size of the state of each channel, in real numbers: half as
            many complex ones, each of which stands for a conjugate pair.
        mode: `"convolution"`, `"recurrence"`, or `None` for the convolution
            where it is possible.
        rate: Factor of all step sizes, to run a model at another sampling
            rate than the one it was trained at: 2 for every other sample, 0.5
            for two where there was one.
        bidirectional: Whether a second kernel, of its own `C`, sees the
            future: one layer instead of two in `keras.layers.Bidirectional`.
            There is no state then.
        dt_initializer: For `log_dt`; `LogUniformDt(minimum, maximum,
            activation="exp")` sets the range of step sizes.
        kernel_initializer: For the kernel of `out_proj`. `None` for the
            paper's.
        kernel_regularizer: For the kernel of `out_proj`.
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
        initial_state: The state before the first step, `(batch, width,
            state_dim)`: real and then imaginary parts. Zeros if `None`.
        mask: Boolean, `(batch, length)`. Masked steps are skipped, whatever
            they hold, and give 0.

    Raises:
        ValueError: If an argument is out of its range, a shape does not fit,
            or a state is asked for where there is none.

    Example:

    ```python
    x = keras.random.normal((2, 1000, 64))
    layer = keras_ssm.layers.S4()
    y = layer(x)

    state = layer.get_initial_state(batch_size=2)
    y_first, state = layer.step(x[:, 0], state)
    ```

    Reference:
        [Gu et al., 2021](https://arxiv.org/abs/2111.00396).
    """

    def build_system(self, width):
        shape = (width, self.state_dim // 2)

        def start(name, parameter, part):
            return self.parameter(name, shape, HiPPOLegS(parameter, part))

        self.A_log = start("A_log", "A", "log_decay")
        self.A_imag = start("A_imag", "A", "imag")
        self.P = start("P_real", "P", "real"), start("P_imag", "P", "imag")
        self.B = start("B_real", "B", "real"), start("B_imag", "B", "imag")

    def _system(self):
        """`dt`, `A`, `P` and `B` as ops take them."""
        log_dt, A_log, *numbers = (
            ops.convert_to_tensor(v)
            for v in (self.log_dt, self.A_log, self.A_imag, *self.P, *self.B)
        )
        A_imag, P_real, P_imag, B_real, B_imag = numbers
        A = -ops.exp(A_log), A_imag
        return ops.exp(log_dt), A, (P_real, P_imag), (B_real, B_imag)

    def conv_kernel(self, C, length):
        return s4_conv_kernel(*self._system(), C, length, rate=self.rate)

    def steps(self):
        return discretize_dplr(*self._system(), rate=self.rate)
