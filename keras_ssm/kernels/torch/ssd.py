"""The dual form of Mamba-2 as a custom operator around a loop over chunks.

What `torch.export` makes shall run where this library is not installed, and
gets plain operators instead.
"""

from keras_ssm.kernels import border, platforms
from keras_ssm.kernels.torch import composite, ssd_loop
from keras_ssm.kernels.torch.recurrence import Recurrence, register


def unsupported(*tensors, **options):
    """Nothing: it runs wherever PyTorch does."""
    return None


def ssd(*tensors, dt_softplus, reverse, chunk_size):
    """The op on canonical tensors; see `keras_ssm.ops.ssd`."""
    return border.around_ssd(
        recurrence,
        tensors,
        dt_softplus=dt_softplus,
        reverse=reverse,
        chunk_size=chunk_size,
    )


def recurrence(x, dt, A, B, C, h, resets, reverse, chunk_size):
    """`h[t] = exp(dt[t] A) h[t-1] + dt[t] x[t] B[t]; y[t] = h[t] C[t]`."""
    tensors = x, dt, A, B, C, h, resets
    if platforms.exporting():
        return composite.ssd(*tensors, reverse, chunk_size)
    y, h, _ = Recurrence.apply("ssd", *tensors, reverse, chunk_size)
    return y, h


register(
    "ssd",
    ssd_loop.forward,
    ssd_loop.backward,
    lambda x, A, B, q: ssd_loop.Layout(x, B, q).new_borders(),
)
