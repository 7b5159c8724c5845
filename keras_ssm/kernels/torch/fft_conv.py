"""The long convolution by PyTorch's real Fourier transform.

It transforms contiguous rows several times as fast as `(b, l, d)` along its
middle, or as the view that `keras.ops.transpose` makes.
"""

import torch

from keras_ssm.kernels import fourier, platforms


def unsupported(*tensors, **options):
    """Nothing: it runs wherever PyTorch does."""
    return None


def fft_conv(x, kernel, backward_kernel, *, reverse):
    """The op on canonical tensors; see `keras_ssm.ops.fft_conv`."""
    length = x.shape[1]
    kernels, size = fourier.align(kernel, backward_kernel, length)
    if platforms.exporting():
        # A fast length depends on the length, which is not known here.
        size = 2 * length
    else:
        size = fourier.fast_length(size)
    transfer = torch.fft.rfft(kernels[0].T.contiguous(), n=size)
    if backward_kernel is not None:
        # A conjugate transform is that of the sequence mirrored in time.
        other = torch.fft.rfft(kernels[1].T.contiguous(), n=size)
        transfer = transfer + other.conj()
    transfer = transfer.conj() if reverse else transfer
    x = torch.fft.rfft(x.transpose(1, 2).contiguous(), n=size)
    y = torch.fft.irfft(x * transfer, n=size)
    return y[..., :length].transpose(1, 2).contiguous()
