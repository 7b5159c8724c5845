"""Kernels and spectra are those of the recurrences."""

import keras
import numpy as np
import pytest
from compare import as_array, assert_close
from harness import BACKEND

from keras_ssm.layers import LRU, S4, S4D, S5, Mamba, S4Block, S4DBlock
from keras_ssm.ops import ssm_scan
from keras_ssm.visualize import conv_kernel, frequency_response, spectrum

WIDTH = 3
# JAX compiles each operation that a test calls for the first time.
if_jax_has_time = pytest.mark.slow if BACKEND == "jax" else ()


def built(layer):
    layer.build((None, None, WIDTH))
    return layer


@pytest.mark.parametrize(
    "block", [pytest.param(S4Block, marks=if_jax_has_time), S4DBlock]
)
def test_a_kernel_is_the_answer_of_the_recurrence_to_an_impulse(block):
    block = built(block(state_dim=4))
    impulse = np.zeros((1, 20, WIDTH), "float32")
    impulse[:, 0] = 1
    *system, _ = block.mixer._recurrence()
    (expected,) = as_array(ssm_scan(impulse, *system))
    assert_close(
        conv_kernel(block, 20).astype("float32"),
        expected,
        "float32",
        "gradient",
    )


def test_the_response_is_how_much_of_a_cosine_is_left():
    layer = built(S4D(state_dim=4))
    length, rate = 50, 1000.0
    frequencies, response = frequency_response(
        layer, length, sampling_rate=rate
    )
    assert frequencies[-1] == rate / 2
    time = np.arange(2 * length) / rate
    kernel, skip = conv_kernel(layer, length), as_array(layer.D)
    for index in (1, 7):
        wave = np.exp(2j * np.pi * frequencies[index] * time)
        for c in range(WIDTH):
            y = np.convolve(wave.real, kernel[:, c])[: 2 * length]
            y = (y + skip[c] * wave.real)[length:]
            left = abs(2 * np.mean(y * wave[length:].conj()))
            np.testing.assert_allclose(response[index, c], left, rtol=1e-6)


def complex_numbers(parts):
    """A state as complex numbers, from its parts."""
    if len(parts) == 1:  # of an S4D, one behind the other
        parts = np.split(as_array(parts[0]), 2, axis=-1)
    real, imag = map(as_array, parts)
    return real + 1j * imag


@pytest.mark.parametrize(
    "layer",
    [
        S4D(state_dim=4),
        pytest.param(S5(state_dim=8, blocks=2), marks=if_jax_has_time),
        pytest.param(LRU(state_dim=4), marks=if_jax_has_time),
    ],
    ids=lambda layer: layer.name,
)
def test_a_step_without_an_input_multiplies_a_state_with_its_eigenvalue(
    layer,
):
    built(layer)
    before = [
        keras.random.normal(state.shape, seed=i)
        for i, state in enumerate(layer.get_initial_state(1))
    ]
    _, after = layer.step(np.zeros((1, WIDTH), "float32"), before)
    found = spectrum(layer, sampling_rate=100.0)
    ratio = complex_numbers(after) / complex_numbers(before)
    np.testing.assert_allclose(ratio[0], found.eigenvalues, rtol=1e-4)
    # In seconds and hertz, at 100 steps a second.
    size = np.exp(-0.01 / found.time_constants)
    angle = 2 * np.pi * 0.01 * found.frequencies
    np.testing.assert_allclose(abs(found.eigenvalues), size)
    np.testing.assert_allclose(abs(np.angle(found.eigenvalues)), angle)
    in_steps = spectrum(layer)
    np.testing.assert_allclose(
        in_steps.time_constants, found.time_constants * 100
    )
    np.testing.assert_allclose(in_steps.frequencies, found.frequencies / 100)


@pytest.mark.parametrize(
    ("function", "layer", "message"),
    [
        (spectrum, S4(), "`spectrum`: `layer` must be an `S4D`.*S4 's4"),
        (spectrum, LRU(), "`spectrum`: `layer` must be built"),
        (conv_kernel, Mamba(), "`conv_kernel`: .* an `S4` or an `S4D`.*Mamba"),
        (frequency_response, S5(), "`frequency_response`: .*S5"),
    ],
)
def test_another_layer_is_an_error(function, layer, message):
    length = {} if function is spectrum else {"length": 5}
    with pytest.raises(ValueError, match=message):
        function(layer, **length)
