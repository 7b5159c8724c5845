"""What S4D and S4 have in common: a convolution that is also a recurrence."""

import math

import keras
from keras import initializers, ops, regularizers

from keras_ssm.layers.arguments import check_choice, check_positive
from keras_ssm.layers.dense import (
    build_dense,
    fan_in_uniform,
    halves,
    project,
)
from keras_ssm.layers.initializers import LogUniformDt
from keras_ssm.layers.sequence_layer import SequenceLayer
from keras_ssm.ops import fft_conv, ssm_scan, ssm_scan_step
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
    - `steps()`: `Ā` and `B̄`, as `ssm_scan` takes them.

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
        if self._convolves(x, states):
            return self._leave(self._convolve(x, mask, reverse)), None
        (h,) = states or (None,)
        y, h = ssm_scan(
            x,
            *self._recurrence(),
            initial_state=h,
            mask=mask,
            reverse=reverse,
            return_state=True,
        )
        return self._leave(y), None if states is None else (h,)

    def _convolves(self, x, states):
        if self.mode == "convolution" and states is not None:
            raise ValueError(
                f"{self.name}: a convolution has no state. Set `mode=None`, "
                "or leave `initial_state`, `return_state` and `stateful` out."
            )
        if self.mode is not None or self.bidirectional:
            return self.mode != "recurrence"
        # Of an unknown length, JAX transforms no sequence, and PyTorch exports
        # no kernel.
        known = isinstance(x.shape[1], int)
        dynamic = keras.config.backend() == "tensorflow"
        return states is None and (known or dynamic)

    def _convolve(self, x, mask, reverse):
        packing = None
        if mask is not None:
            # Time passes at masked steps of a convolution: they are moved
            # behind the others.
            packing = Packing(mask, reverse)
            x = packing.pack(ops.where(ops.expand_dims(mask, -1), x, 0))
        length = ops.shape(x)[1]
        backward = None
        if self.bidirectional:
            backward = self.conv_kernel(_pair(self.C_backward), length)
        y = fft_conv(
            x,
            self.conv_kernel(_pair(self.C), length),
            self.D,
            backward_kernel=backward,
            reverse=reverse,
        )
        return y if packing is None else packing.unpack(y)

    def _recurrence(self):
        """`Ā`, `B̄`, `C` and `D`."""
        return *self.steps(), _pair(self.C), ops.convert_to_tensor(self.D)

    def mix_step(self, x, states, mask):
        y, h = ssm_scan_step(x, *self._recurrence(), state=states[0], mask=mask)
        return self._leave(y), (h,)

    def _leave(self, y):
        # The papers' GELU, not its approximation.
        y = project(self.out_proj, ops.gelu(y, approximate=False))
        y, gate = halves(y)
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
