"""Moves what belongs to a block of channels between tensors and scratch."""

from keras_ssm.kernels.numba.frames import address, step_of
from keras_ssm.kernels.numba.scan_frame import (
    CHANNELS,
    CHUNK,
    LENGTH,
    MASK,
    RESETS,
    REVERSE,
    STARTS,
    STATES,
    A,
)
from keras_ssm.kernels.numba.vectors import (
    LANES,
    clear,
    get,
    get_byte,
    inline,
    jit,
    load,
    load_lanes,
    prefetch,
    put,
    splat,
    store,
    store_lanes,
    type_of,
)

_LOG2E = 1.4426950408889634


@inline
def load_parameter(f, zero, tensor, first, count, spare):
    """A vector of a parameter `(d,)`, zeros if there is none."""
    if address(f, tensor) == 0:
        return splat(zero)
    return load_lanes(zero, address(f, tensor), first, count, spare)


@inline
def masked(f, row, t):
    mask = address(f, MASK)
    return mask != 0 and not get_byte(mask, step_of(f, MASK, row, t))


@inline
def resets_at(f, row, t):
    resets = address(f, RESETS)
    return resets != 0 and get_byte(resets, step_of(f, RESETS, row, t))


@inline
def time_of(f, s):
    """The position of step `s` in the order of the scan."""
    return f[LENGTH] - 1 - s if f[REVERSE] else s


@inline
def load_input(f, zero, tensor, row, t, first, count, spare):
    """A block of a tensor `(b, l, d)` at a time `t`."""
    at = step_of(f, tensor, row, t) + first
    return load_lanes(zero, address(f, tensor), at, count, spare)


@inline
def ask_for(f, zero, tensor, row, t, first):
    """Has such a block brought into the cache."""
    prefetch(zero, address(f, tensor), step_of(f, tensor, row, t) + first)


@jit
def load_rates(f, zero, first, count, a):
    """A `(d, n)`, for powers of 2, as `(n, LANES)`."""
    n = f[STATES]
    rate = type_of(zero, _LOG2E)
    clear(a, n, splat(zero))
    for k in range(count):
        for j in range(n):
            v = get(zero, address(f, A), (first + k) * n + j)
            put(a, j * LANES + k, v * rate)


@jit
def load_state(f, zero, tensor, row, first, count, h):
    """A state `(b, d, n)` as `(n, LANES)`."""
    n = f[STATES]
    at = (row * f[CHANNELS] + first) * n
    clear(h, n, splat(zero))
    for k in range(count):
        for j in range(n):
            v = get(zero, address(f, tensor), at + k * n + j)
            put(h, j * LANES + k, v)


@jit
def store_state(f, zero, tensor, row, first, count, h):
    """The inverse of `_load_state`."""
    n = f[STATES]
    at = (row * f[CHANNELS] + first) * n
    for k in range(count):
        for j in range(n):
            v = get(zero, h, j * LANES + k)
            put(address(f, tensor), at + k * n + j, v)


@inline
def _saved(f, row, chunk, first):
    chunks = (f[LENGTH] + f[CHUNK] - 1) // f[CHUNK]
    return (row * chunks + chunk) * f[STATES] * f[CHANNELS] + first


@jit
def save_state(f, zero, row, chunk, first, count, h, spare):
    at = _saved(f, row, chunk, first)
    for j in range(f[STATES]):
        v = load(zero, h, j * LANES)
        index = at + j * f[CHANNELS]
        store_lanes(address(f, STARTS), index, v, count, spare, zero)


@jit
def load_saved(f, zero, row, chunk, first, count, j0, width, h, spare):
    """A slice of a saved state: `width` numbers of it from `j0` on."""
    at = _saved(f, row, chunk, first) + j0 * f[CHANNELS]
    for j in range(width):
        index = at + j * f[CHANNELS]
        v = load_lanes(zero, address(f, STARTS), index, count, spare)
        store(h, j * LANES, v)


@inline
def prefetch_saved(f, zero, row, chunk, first):
    at = _saved(f, row, chunk, first)
    for j in range(f[STATES]):
        prefetch(zero, address(f, STARTS), at + j * f[CHANNELS])
