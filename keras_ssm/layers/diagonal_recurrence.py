"""What S5 and LRU have in common: one complex state for all channels."""

from keras import initializers, ops, regularizers

from keras_ssm.layers.arguments import check_choice, check_positive
from keras_ssm.layers.dense import (
    build_dense,
    contract,
    halves,
    project,
)
from keras_ssm.layers.sequence_layer import SequenceLayer
from keras_ssm.ops import linear_scan, linear_scan_step

ACTIVATIONS = (None, "half_glu", "glu")


class DiagonalRecurrence(SequenceLayer):
    """Base of layers whose channels all feed and read one complex state.

        h[t] = a h[t-1] + B x[t]
        y[t] = Re(C h[t]) + D x[t]
        half_glu:  outputs = y * sigmoid(out_proj(gelu(y)))
        glu:       outputs = u * sigmoid(v),  u, v = out_proj(gelu(y))

    The state of `n` complex numbers is kept as two real tensors `(b, n)`.

    A subclass implements

    - `build_system(width)`: creates what the system is made of;
    - `system()` -> `(a, B, C)`: pairs `(real, imag)` of tensors, of shapes
      `(n,)`, `(n, m)` and `(m, n)`, for the width `m`;
    - `numbers`: `n`.

    Args:
        state_dim: Size of the state.
        activation: `"half_glu"`, `"glu"` or `None`, which leaves `y` as it is.
        kernel_initializer: For the kernel of `out_proj`.
        kernel_regularizer: For the kernel of `out_proj`.
        **kwargs: Arguments of `SequenceLayer`.
    """

    def __init__(
        self,
        *,
        state_dim: int,
        activation: str | None,
        kernel_initializer="lecun_normal",
        kernel_regularizer=None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        name = type(self).__name__
        check_positive(name, state_dim=state_dim)
        check_choice(name, "activation", activation, ACTIVATIONS)
        self.state_dim = state_dim
        self.activation = activation
        self.kernel_initializer = initializers.get(kernel_initializer)
        self.kernel_regularizer = regularizers.get(kernel_regularizer)

    @property
    def numbers(self) -> int:
        """How many complex numbers the state is."""
        return self.state_dim

    def build_mixer(self, width):
        self.build_system(width)
        self.D = self.parameter("D", (width,), initializers.RandomNormal(0, 1))
        if self.activation is not None:
            units = 2 * width if self.activation == "glu" else width
            self.out_proj = build_dense(self, "out_proj", width, units)

    def complex_parameter(self, name, shape, real, imag):
        """Two such parameters, `{name}_real` and `{name}_imag`."""
        return (
            self.parameter(f"{name}_real", shape, real),
            self.parameter(f"{name}_imag", shape, imag),
        )

    def state_shapes(self, width):
        return ((self.numbers,), (self.numbers,))

    def mix(self, x, states, mask, reverse, training):
        a, B, C = self.system()
        h, states = linear_scan(
            a,
            self._enter(x, B),
            initial_state=states,
            mask=mask,
            reverse=reverse,
            return_state=True,
        )
        return self._leave(h, x, C), states

    def mix_step(self, x, states, mask):
        a, B, C = self.system()
        h, states = linear_scan_step(a, self._enter(x, B), states, mask=mask)
        return self._leave(h, x, C), states

    def _enter(self, x, B):
        """`B x` as a pair, in one product of real matrices."""
        B = ops.cast(ops.concatenate(B, axis=0), x.dtype)  # (2n, m)
        u = contract("...m,nm->...n", x, B)
        return u[..., : self.numbers], u[..., self.numbers :]

    def _leave(self, h, x, C):
        """The output from the states, of a sequence or of a step."""
        real, imag = C
        C = ops.cast(ops.concatenate([real, -imag], axis=1), x.dtype)
        y = contract("...n,mn->...m", ops.concatenate(h, axis=-1), C)
        y = y + x * ops.cast(self.D, x.dtype)
        if self.activation is None:
            return y
        gate = project(self.out_proj, ops.gelu(y))
        if self.activation == "glu":
            y, gate = halves(gate)
        return y * ops.sigmoid(gate)

    def get_config(self):
        return {
            **super().get_config(),
            "state_dim": self.state_dim,
            "activation": self.activation,
            "kernel_initializer": initializers.serialize(
                self.kernel_initializer
            ),
            "kernel_regularizer": regularizers.serialize(
                self.kernel_regularizer
            ),
        }
