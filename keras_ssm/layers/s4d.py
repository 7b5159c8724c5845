"""The mixer of S4D."""

import keras
from keras import initializers, ops

from keras_ssm.layers.arguments import check_choice
from keras_ssm.layers.initializers import S4DLin
from keras_ssm.layers.state_space import StateSpaceLayer
from keras_ssm.ops import discretize, s4d_conv_kernel
from keras_ssm.ops.discretize import DISCRETIZATIONS


@keras.saving.register_keras_serializable(package="keras_ssm")
class S4D(StateSpaceLayer):
    """Mixes time with a diagonal linear system for each channel.

        h' = A h + x,    A = -exp(A_log) + i A_imag
        y = 2 Re(C h) + D x
        outputs = GLU(out_proj(GELU(y)))

    in steps of `exp(log_dt)`. It does not choose what to remember, as Mamba
    does, but takes time as continuous: it is a convolution with a kernel as
    long as the sequence, a recurrence with a state, and a step, which are
    equal; and it runs at other sampling rates than it was trained at. It has
    the conventions of `keras.layers.LSTM`, except that arguments are keywords,
    that sequences are returned by default, and that the output is as wide as
    the input.

    The convolution takes `l log l` time, and is what runs unless states
    are given or asked for. It needs the whole sequence, and its length where
    JAX or PyTorch exports it.
    The recurrence is linear in the length and runs chunks of 64 steps as
    products of matrices, which hold two states of each chunk.

    Parameters, with `d` the width and `n = state_dim / 2`:

    | name | shape | start |
    |---|---|---|
    | `log_dt` | (d,) | exp of it log-uniform in [0.001, 0.1] |
    | `A_log`, `A_imag` | (d, n) | S4D-Lin: -1/2 + i pi 0, 1, ..., n-1 |
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
        discretization: `"zoh"` or `"bilinear"`, as in
            `keras_ssm.ops.discretize`.
        A_initializer: For `A_log` and `A_imag`: one with parts, `S4DLin()`,
            `S4DInv()` or `HiPPOLegS()`.
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
    layer = keras_ssm.layers.S4D()
    y = layer(x)

    state = layer.get_initial_state(batch_size=2)
    y_first, state = layer.step(x[:, 0], state)
    ```

    Reference:
        [Gu et al., 2022](https://arxiv.org/abs/2206.11893).
    """

    def __init__(
        self, *, discretization: str = "zoh", A_initializer=None, **kwargs
    ):
        super().__init__(**kwargs)
        check_choice("S4D", "discretization", discretization, DISCRETIZATIONS)
        self.discretization = discretization
        self.A_initializer = initializers.get(A_initializer or S4DLin())
        _part(self.A_initializer, "imag")

    def build_system(self, width):
        shape = (width, self.state_dim // 2)
        self.A_log = self.parameter(
            "A_log", shape, _part(self.A_initializer, "log_decay")
        )
        self.A_imag = self.parameter(
            "A_imag", shape, _part(self.A_initializer, "imag")
        )

    def _system(self):
        """`dt`, `A` and `B` as ops take them."""
        real = -ops.exp(ops.convert_to_tensor(self.A_log))
        imag = ops.convert_to_tensor(self.A_imag)
        B = ops.ones_like(real), ops.zeros_like(real)
        return ops.exp(ops.convert_to_tensor(self.log_dt)), (real, imag), B

    def _options(self):
        return {"discretization": self.discretization, "rate": self.rate}

    def conv_kernel(self, C, length):
        return s4d_conv_kernel(*self._system(), C, length, **self._options())

    def steps(self):
        return discretize(*self._system(), **self._options())

    def get_config(self):
        return {
            **super().get_config(),
            "discretization": self.discretization,
            "A_initializer": initializers.serialize(self.A_initializer),
        }


def _part(initializer, part):
    """The same initializer for a part of the complex numbers."""
    if isinstance(initializer, initializers.Initializer):
        config = initializer.get_config()
        if "part" in config:
            return type(initializer).from_config({**config, "part": part})
    raise ValueError(
        "`S4D`: `A_initializer` must be an initializer with parts, such as "
        f"`S4DLin()`. Received: A_initializer={initializer!r}."
    )
