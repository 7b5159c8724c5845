"""Layers whose dynamics are the same at every step: kernels and spectra."""

import dataclasses

import numpy as np

from keras_ssm.layers import LRU, S4D, S5
from keras_ssm.layers.residual_block import ResidualBlock
from keras_ssm.layers.state_space import StateSpaceLayer
from keras_ssm.visualize.arrays import array

# Which layers there are for, and their names.
CONVOLUTIONS = (StateSpaceLayer,), "an `S4` or an `S4D`"
RECURRENCES = (S4D, S5, LRU), "an `S4D`, an `S5` or an `LRU`"


def conv_kernel(layer, length: int):
    """The convolution kernel of a layer: its answer to an impulse.

        kernel[t] = 2 Re(C Ā^t B̄),    y = conv(kernel, x) + D x

    Of a bidirectional layer it is the kernel that looks at the past.

    Args:
        layer: An `S4`, an `S4D` or a block of one, built.
        length: Number of steps.

    Returns:
        `(length, d)`.

    Raises:
        ValueError: If the layer is another one, or not built.

    Example:

    ```python
    layer = keras_ssm.layers.S4D()
    layer.build((None, None, 16))
    kernel = keras_ssm.visualize.conv_kernel(layer, 1000)  # (1000, 16)
    ```
    """
    return _kernel(_mixer("conv_kernel", layer, *CONVOLUTIONS), length)


def frequency_response(layer, length: int, *, sampling_rate: float = 1.0):
    """How strongly a layer answers to each frequency.

        response(f) = |D + sum_t kernel[t] exp(-2 pi i f t)|

    of a kernel of `length` steps, before what is behind the convolution: the
    activation and the projection.

    Args:
        layer: An `S4`, an `S4D` or a block of one, built.
        length: Number of steps of the kernel.
        sampling_rate: Steps per second, for frequencies in hertz.

    Returns:
        `(frequencies, response)`: `(length // 2 + 1,)`, from 0 to half of the
        sampling rate, and `(length // 2 + 1, d)`.

    Raises:
        ValueError: If the layer is another one, or not built.

    Example:

    ```python
    f, response = keras_ssm.visualize.frequency_response(layer, 1000)
    ```
    """
    layer = _mixer("frequency_response", layer, *CONVOLUTIONS)
    answer = np.fft.rfft(_kernel(layer, length), axis=0) + array(layer.D)
    return np.fft.rfftfreq(length, 1 / sampling_rate), abs(answer)


@dataclasses.dataclass(frozen=True, eq=False)
class Spectrum:
    """The eigenvalues of a recurrence, as oscillations that fade.

        h[t] = a h[t-1] + ...,    a = exp(-1 / time_constant + 2 pi i frequency)

    Attributes:
        eigenvalues: The `a` of one step, complex, `(n,)`, or `(d, n)` where
            each channel has a system of its own. Of a conjugate pair it is one.
        sampling_rate: Steps per second, or `None`.
    """

    eigenvalues: np.ndarray
    sampling_rate: float | None = None

    @property
    def time_constants(self):
        """When 1/e of a state is left: in steps, or in seconds at a rate."""
        with np.errstate(divide="ignore"):
            steps = -1 / np.log(abs(self.eigenvalues))
        return steps / (self.sampling_rate or 1)

    @property
    def frequencies(self):
        """How fast states turn: turns per step, or hertz at a rate.

        At most half a turn per step: what turns faster is seen as slower.
        """
        turns = abs(np.angle(self.eigenvalues)) / (2 * np.pi)
        return turns * (self.sampling_rate or 1)


def spectrum(layer, *, sampling_rate: float | None = None) -> Spectrum:
    """The eigenvalues of the recurrence of a layer.

    Args:
        layer: An `S4D`, an `S5`, an `LRU` or a block of one, built. Not an
            `S4`: the eigenvalues of HiPPO's matrix are so ill-conditioned that
            rounding errors move them by several times their size, and its
            kernel and frequency response say what it remembers.
        sampling_rate: Steps per second, for seconds and hertz.

    Raises:
        ValueError: If the layer is another one, or not built.

    Example:

    ```python
    found = keras_ssm.visualize.spectrum(layer, sampling_rate=16000)
    found.time_constants  # in seconds
    found.frequencies  # in hertz
    ```

    Reference:
        [Gu et al., 2021](https://arxiv.org/abs/2111.00396), lemma 3.2, on
        HiPPO's eigenvectors.
    """
    layer = _mixer("spectrum", layer, *RECURRENCES)
    a, *_ = layer.steps() if isinstance(layer, S4D) else layer.system()
    real, imag = map(array, a)
    return Spectrum(real + 1j * imag, sampling_rate)


def _kernel(layer, length):
    return array(layer.conv_kernel(layer.C, length))


def _mixer(function, layer, kinds, words):
    """The mixer of a layer, which may be a block around it."""
    mixer = layer.mixer if isinstance(layer, ResidualBlock) else layer
    if not isinstance(mixer, kinds):
        raise ValueError(
            f"`{function}`: `layer` must be {words}, or a block of one. "
            f"Received: {type(mixer).__name__} {mixer.name!r}."
        )
    if not mixer.built:
        raise ValueError(
            f"`{function}`: `layer` must be built. Call it on a sequence "
            f"first. Received: {mixer.name!r}, which has no weights yet."
        )
    return mixer
