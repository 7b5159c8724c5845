"""What S4D and S4 have in common: a convolution that is also a recurrence."""

import math

import keras
from keras import initializers, ops, regularizers

from keras_ssm.layers import chunked_recurrence
from keras_ssm.layers.arguments import check_choice, check_positive
from keras_ssm.layers.dense import build_dense, fan_in_uniform, project
from keras_ssm.layers.initializers import LogUniformDt
from keras_ssm.layers.sequence_layer import SequenceLayer
from keras_ssm.ops import fft_conv
from keras_ssm.ops.shapes import check_shapes
from keras_ssm.ops.steps import Packing

MODES = (None, "convolution", "recurrence")


class StateSpaceLayer(SequenceLayer):
    """Base of layers that run one linear system on each channel.

        y = GELU(conv(x) + D x)
        outputs = GLU(out_proj(y))

    A subclass implements

    - `build_system(width)`: creates the parameters of the system, but `log_dt`
      and `C`;
    - `conv_kernel(C, length)`: the kernel, `(length, d)`;
    - `steps()`: `Ā`, as in `chunked_recurrence`, and `B̄` `(d, 2n)`.

    Args:
        state_dim: Size of the state of each channel, in real numbers: half as
            many complex ones, each of which stands for a conjugate pair.
        mode: `"convolution"`, `"recurrence"`, or `None` to choose.
        rate: Factor of all step sizes.
        bidirectional: Whether a second kernel sees the future.
        dt_initializer: For `log_dt`.
        kernel_initializer: For the kernel of `out_proj`.
        kernel_regularizer: For the kernel of `out_proj`.
        **kwargs: Arguments of `SequenceLayer`.
    """

    def __init__(
        self,
        *,
        state_dim: int = 64,
        mode: str | None = None,
        rate: float = 1.0,
        bidirectional: bool = False,
        dt_initializer=None,
        kernel_initializer=None,
        kernel_regularizer=None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        name = type(self).__name__
        check_positive(name, state_dim=state_dim)
        if state_dim % 2:
            raise ValueError(
                f"`{name}`: `state_dim` must be even: the state is half as "
                f"many conjugate pairs. Received: state_dim={state_dim}."
            )
        check_choice(name, "mode", mode, MODES)
        if not rate > 0:
            raise ValueError(
                f"`{name}`: `rate` must be positive. Received: rate={rate}."
            )
        self.state_dim = state_dim
        self.mode = mode
        self.rate = rate
        self.bidirectional = bidirectional
        self.dt_initializer = initializers.get(
            dt_initializer or LogUniformDt(activation="exp")
        )
        self.kernel_initializer = initializers.get(
            kernel_initializer or fan_in_uniform()
        )
        self.kernel_regularizer = regularizers.get(kernel_regularizer)
        check_direction(self, mode, bidirectional)

    def build_mixer(self, width):
        self.log_dt = self.parameter("log_dt", (width,), self.dt_initializer)
        self.build_system(width)
        numbers = (width, self.state_dim // 2)
        self.C = self._output_map("C", numbers)
        self.C_backward = None
        if self.bidirectional:
            self.C_backward = self._output_map("C_backward", numbers)
        self.D = self.parameter("D", (width,), initializers.RandomNormal(0, 1))
        self.out_proj = build_dense(self, "out_proj", width, 2 * width)

    def _output_map(self, name, shape):
        """Complex numbers, normal, of mean square 1."""
        return tuple(
            self.parameter(
                f"{name}_{part}",
                shape,
                initializers.RandomNormal(0, math.sqrt(0.5)),
            )
            for part in ("real", "imag")
        )

    def state_shapes(self, width):
        if self.bidirectional:
            raise ValueError(
                f"{self.name}: a bidirectional layer has no state: its output "
                "depends on the future. Set `bidirectional=False`."
            )
        return ((width, self.state_dim),)

    def mix(self, x, states, mask, reverse, training):
        if 0 in x.shape:
            return self._leave(x), states
        count = packing = None
        if mask is not None:
            # Masked inputs are selected away and moved behind the others.
            packing = Packing(mask, reverse)
            count = packing.count
            x = packing.pack(ops.where(ops.expand_dims(mask, -1), x, 0))
        if self._convolves(x, states):
            y = self._convolve(x, reverse)
        else:
            y, states = self._recur(x, states, count, reverse)
        if packing is not None:
            y = packing.unpack(y)
        return self._leave(y), states

    def _convolves(self, x, states):
        if self.mode == "convolution" and states is not None:
            raise ValueError(
                f"{self.name}: a convolution has no state. Set `mode=None`, "
                "or leave `initial_state`, `return_state` and `stateful` out."
            )
        if self.mode is not None or self.bidirectional:
            return self.mode != "recurrence"
        # JAX transforms no sequence of unknown length.
        jax = keras.config.backend() == "jax"
        transforms = not jax or isinstance(x.shape[1], int)
        return states is None and transforms

    def _convolve(self, x, reverse):
        length = ops.shape(x)[1]
        backward = None
        if self.bidirectional:
            backward = self.conv_kernel(_pair(self.C_backward), length)
        return fft_conv(
            x,
            self.conv_kernel(_pair(self.C), length),
            self.D,
            backward_kernel=backward,
            reverse=reverse,
        )

    def _recur(self, x, states, count, reverse):
        b, length = ops.shape(x)[:2]
        inputs = ops.cast(x, self.state_dtype)
        inputs = ops.flip(inputs, axis=1) if reverse else inputs
        if count is None:
            count = ops.zeros((b,), "int32") + length
        (h,) = states or self._zeros(b, x.shape[-1])
        h = self._check_state(x, "b l d", h)
        y, h = chunked_recurrence.run(
            inputs, h, count, *self.steps(), self._output_rows()
        )
        y = y + self.D * inputs
        y = ops.flip(y, axis=1) if reverse else y
        return ops.cast(y, x.dtype), None if states is None else (h,)

    def _check_state(self, x, axes, h):
        h = ops.cast(h, self.state_dtype)
        of_h = f"b d {self.state_dim}"
        check_shapes(self.name, x=(x, axes), initial_state=(h, of_h))
        return h

    def mix_step(self, x, states, mask):
        h = self._check_state(x, "b d", states[0])
        inputs = ops.cast(x, self.state_dtype)
        transition, B = self.steps()
        across = chunked_recurrence.of_channels
        after = across(transition.forward(across(h)))
        after = after + ops.expand_dims(inputs, -1) * B
        y = ops.sum(after * self._output_rows(), axis=-1) + self.D * inputs
        if mask is not None:
            after = ops.where(ops.reshape(mask, (-1, 1, 1)), after, h)
        return self._leave(ops.cast(y, x.dtype)), (after,)

    def _output_rows(self):
        """`C` as it acts on `[real; imag]` of one of each pair, `(d, 2n)`."""
        real, imag = _pair(self.C)
        return 2 * ops.concatenate([real, -imag], axis=-1)

    def _leave(self, y):
        # The papers' GELU, not its approximation.
        y = project(self.out_proj, ops.gelu(y, approximate=False))
        # Not `ops.split`, at which PyTorch's compiler stops.
        y = ops.reshape(y, (*ops.shape(y)[:-1], 2, y.shape[-1] // 2))
        y, gate = ops.unstack(y, 2, axis=-2)
        return y * ops.sigmoid(gate)

    def get_config(self):
        return {
            **super().get_config(),
            "state_dim": self.state_dim,
            "mode": self.mode,
            "rate": self.rate,
            "bidirectional": self.bidirectional,
            "dt_initializer": initializers.serialize(self.dt_initializer),
            "kernel_initializer": initializers.serialize(
                self.kernel_initializer
            ),
            "kernel_regularizer": regularizers.serialize(
                self.kernel_regularizer
            ),
        }


def check_direction(layer, mode, bidirectional) -> None:
    """Raises a `ValueError` if states are asked for where there are none.

    Raises:
        ValueError: If the options of the layer contradict each other.
    """
    name = type(layer).__name__
    asked = [
        option
        for option in ("return_state", "stateful", "go_backwards")
        if getattr(layer, option)
    ]
    if bidirectional and (asked or mode == "recurrence"):
        given = [f"{option}=True" for option in asked]
        given += [f"mode={mode!r}"] if mode == "recurrence" else []
        raise ValueError(
            f"`{name}`: a bidirectional layer has neither a state nor a "
            "direction, and is always a convolution. Received: "
            f"bidirectional=True, {', '.join(given)}."
        )
    asked = [option for option in asked if option != "go_backwards"]
    if mode == "convolution" and asked:
        raise ValueError(
            f"`{name}`: a convolution has no state; take `mode=None`. "
            f"Received: mode='convolution', {asked[0]}=True."
        )


def _pair(variables):
    return tuple(ops.convert_to_tensor(v) for v in variables)
