"""The frame of a selective scan: its sizes, flags and tensors."""

from keras_ssm.kernels.numba.frames import SIZES, tasks_of
from keras_ssm.kernels.numba.vectors import LANES

# Sizes and flags in a frame.
ROWS, LENGTH, CHANNELS, GROUPS, STATES = range(SIZES, SIZES + 5)
CHUNK, PARTS, SOFTPLUS, REVERSE = range(SIZES + 5, SIZES + 9)
# Tensors in a frame. `Y`, `END` and `STARTS` are what the forward pass
# writes; the backward pass finds `dy` and the gradient of the end there.
X, DT, A, B, C, D, Z, BIAS, STATE, MASK, RESETS = range(11)
Y, END, STARTS = range(11, 14)
DX, DDT, DA, DB, DC, DD, DZ, DBIAS, DSTATE = range(14, 23)

# Steps in a chunk: so few that what a backward pass recomputes in one stays in
# a core's cache, so many that saved states of 16 take half the memory of x.
STEPS = 32


def parts_of(shape, groups: int, threads: int) -> int:
    """How many sums of the gradients of B and C to make in each group."""
    b, _, d = shape
    return tasks_of(b * groups, -(-d // (groups * LANES)), threads)


def sizes(shape, maps, parts: int, dt_softplus: bool, reverse: bool):
    """Sizes and flags of a frame.

    Args:
        shape: `(b, l, d)`.
        maps: The shape of B, `(b, l, g, n)`.
        parts: Tasks for each group of a row in a backward pass.
        dt_softplus: Whether step sizes pass through softplus.
        reverse: Whether the scan runs from the end.
    """
    g, n = maps[2:]
    return (*shape, g, n, STEPS, parts, dt_softplus, reverse)
