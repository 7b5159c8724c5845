"""The frame of a linear scan: its sizes, flags and tensors."""

from keras_ssm.kernels.numba.frames import SIZES, tasks_of
from keras_ssm.kernels.numba.vectors import LANES

# Sizes and flags in a frame.
ROWS, LENGTH, CHANNELS, PARTS = range(SIZES, SIZES + 4)
CONSTANT, REVERSE = range(SIZES + 4, SIZES + 6)
# Tensors in a frame. `Y` and `END` are what the forward pass writes; the
# backward pass finds their gradients there, and in the place of x finds y.
X, X_IMAG, A, A_IMAG, STATE, STATE_IMAG, MASK, RESETS = range(8)
Y, Y_IMAG, END, END_IMAG = range(8, 12)
DX, DX_IMAG, DA, DA_IMAG, DSTATE, DSTATE_IMAG = range(12, 18)


def sizes(shape, constant: bool, threads: int, reverse: bool):
    """Sizes and flags of a frame.

    Args:
        shape: `(b, l, d)`.
        constant: Whether `a` is the same at all steps, `(d,)`.
        threads: How many threads shall have work.
        reverse: Whether the scan runs from the end.
    """
    b, _, d = shape
    parts = tasks_of(b, -(-d // LANES), threads)
    return (*shape, parts, constant, reverse)
