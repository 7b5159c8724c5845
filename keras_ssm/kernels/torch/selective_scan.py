"""The selective scan as a custom operator around a loop over time.

What `torch.export` makes shall run where this library is not installed, and
gets plain operators instead.
"""

from keras_ssm.kernels import border, platforms
from keras_ssm.kernels.torch import composite, loop
from keras_ssm.kernels.torch.recurrence import Recurrence, register

CHUNK = 32


def unsupported(*tensors, **options):
    """Nothing: it runs wherever PyTorch does."""
    return None


def selective_scan(*tensors, dt_softplus, reverse):
    """The op on canonical tensors; see `keras_ssm.ops.selective_scan`."""
    return border.around(
        recurrence, tensors, dt_softplus=dt_softplus, reverse=reverse
    )


def recurrence(x, dt, A, B, C, h, resets, reverse):
    """`h[t] = exp(dt[t] A) h[t-1] + dt[t] B[t] x[t]; y[t] = C[t] h[t]`."""
    tensors = x, dt, A, B, C, h, resets
    if platforms.exporting():
        return composite.recurrence(*tensors, reverse)
    y, h, _ = Recurrence.apply("selective_scan", *tensors, reverse, CHUNK)
    return y, h


register(
    "selective_scan",
    loop.forward,
    loop.backward,
    lambda x, A, B, q: loop.Layout(x, A, B, q).new_starts(),
)
