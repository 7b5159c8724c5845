"""The long convolution by `keras.ops`' real Fourier transform."""

import keras
from keras import ops

from keras_ssm.kernels import fourier, pairs


def unsupported(x, *tensors, **options):
    """A length that is unknown when JAX lowers a program."""
    if keras.config.backend() == "jax" and not isinstance(x.shape[1], int):
        return "JAX transforms no sequence of unknown length"
    return None


def fft_conv(x, kernel, backward_kernel, *, reverse):
    """The op on canonical tensors; see `keras_ssm.ops.fft_conv`."""
    length = ops.shape(x)[1]
    kernels, size = fourier.align(kernel, backward_kernel, length)
    size = fourier.fast_length(size)
    real, imag = ops.rfft(ops.transpose(kernels[0]), fft_length=size)
    if backward_kernel is not None:
        # A conjugate transform is that of the sequence mirrored in time.
        other = ops.rfft(ops.transpose(kernels[1]), fft_length=size)
        real, imag = real + other[0], imag - other[1]
    transfer = real, -imag if reverse else imag
    x = ops.rfft(ops.transpose(x, (0, 2, 1)), fft_length=size)
    y = ops.irfft(pairs.multiply(x, transfer), fft_length=size)
    return ops.transpose(y[..., :length], (0, 2, 1))
