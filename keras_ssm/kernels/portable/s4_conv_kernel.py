"""S4's convolution kernel through its generating function.

The kernel is the inverse Fourier transform of

    K(w) = C~ (1 - Ā w)^-1 B̄,   C~ = C (1 - Ā^m),   w^m = 1

at the `m`-th roots of unity, `m` at least the length and a power of two, so
that `Ā^m` takes log2(m) squarings. With `w = exp(-2ir)`, the bilinear rule
and Woodbury's identity (Gu et al., 2021, appendix C.3) it is

    K = dt exp(ir) (q(C~ B) - g q(C~ P) q(P* B) / (1 + g q(P* P)))
    g = dt cos(r),   q(v) = sum_n v / (2i sin(r) - dt A cos(r))

where the sum, the Cauchy product, is over numbers and their conjugates. This
form has no pole at `w = -1`. The two terms of a conjugate pair have a common
denominator, the same for all four `v`, and numerators that are linear in real
coefficients, so that all four sums are one product of real matrices.
"""

import math

import keras
from keras import ops

from keras_ssm.kernels import discretization, exact, pairs

# Frequencies at a time, for which `(d, n, ...)` is held and computed again in
# the backward pass; of an unknown length, how many times.
_BLOCK, _BLOCKS = 512, 16
# Of an unknown length below 2 ** 24.
_SQUARINGS = 24


def unsupported(*tensors, length):
    """A length that PyTorch's exporter does not know."""
    if keras.config.backend() == "torch" and not isinstance(length, int):
        return "PyTorch exports no kernel of unknown length"
    return None


def s4_conv_kernel(dt, A, A_imag, P, P_imag, B, B_imag, C, C_imag, *, length):
    """The op on canonical tensors; see `keras_ssm.ops.s4_conv_kernel`."""
    A, P, B, C = (A, A_imag), (P, P_imag), (B, B_imag), (C, C_imag)
    squarings, size = _transform_size(length)
    C = _truncate(dt, A, P, B, C, squarings, length)
    x = pairs.scale(A, ops.expand_dims(dt, -1))
    weights = _coefficients(x, P, B, C)
    blocks, width = _frequency_blocks(length, size)
    block = keras.remat(_spectrum) if _trains() else _spectrum
    parts = [
        block(dt, *x, weights, _half_angles(i * width, width, size, dt.dtype))
        for i in range(blocks)
    ]
    spectrum = tuple(
        ops.concatenate(part, axis=-1)[:, : size // 2 + 1]
        for part in zip(*parts, strict=True)
    )
    kernel = ops.irfft(spectrum, fft_length=size)
    return ops.transpose(kernel[:, :length])


def _trains():
    """Keras warns that NumPy remembers nothing, which it need not."""
    return keras.config.backend() != "numpy"


def _transform_size(length):
    """How often to square `Ā`, and `m`."""
    if isinstance(length, int):
        squarings = max(1, (length - 1).bit_length())
        return squarings, 2**squarings
    powers = ops.convert_to_tensor([2**i for i in range(1, _SQUARINGS + 1)])
    squarings = 1 + ops.sum(ops.cast(powers < length, "int32"))
    return squarings, ops.take(powers, squarings - 1)


def _frequency_blocks(length, size):
    """How many blocks of how many frequencies."""
    count = size // 2 + 1
    blocks = _BLOCKS
    if isinstance(length, int):
        blocks = min(-(-count // _BLOCK), 4 * _BLOCKS)
    return blocks, (count + blocks - 1) // blocks


def _half_angles(first, count, size, dtype):
    """`r` of the roots of unity from the first on, `(count,)`."""
    numbers = ops.cast(first + ops.arange(count), dtype)
    return numbers * (math.pi / ops.cast(size, dtype))


def _truncate(dt, A, P, B, C, squarings, length):
    """`C~`, so that the kernel ends after `m` steps instead of never."""
    change, _ = discretization.dplr_steps(dt, A, P, B)
    known = isinstance(length, int)
    for i in range(squarings if known else _SQUARINGS):
        # (1 + E)^2 - 1: next to 1, the digits of a small E would be lost.
        square = 2 * change + exact.matmul(change, change)
        change = square if known else ops.where(i < squarings, square, change)
    # C acts on `[real; imag]` as the row [real(C), -imag(C)].
    row = ops.expand_dims(ops.concatenate([C[0], -C[1]], axis=-1), -2)
    row = exact.matmul(row, change)[:, 0]
    n = C[0].shape[-1]
    return -row[:, :n], row[:, n:]


def _coefficients(x, P, B, C):
    """Re(v) and Re(v conj(x)) for the four v, `(d, 8, n)`."""
    conjugate = P[0], -P[1]
    rows = []
    for a, b in ((C, B), (C, P), (conjugate, B), (conjugate, P)):
        v = pairs.multiply(a, b)
        rows += [v[0], pairs.multiply(v, (x[0], -x[1]))[0]]
    return ops.stack(rows, axis=1)


def _spectrum(dt, real, imag, weights, half_angles):
    """`K` at some frequencies, `(d, f)`, a pair."""
    sin, cos = 2 * exact.sin(half_angles), exact.cos(half_angles)
    real, imag = ops.expand_dims(real, -1), ops.expand_dims(imag, -1)
    radius = ops.sqrt(real**2 + imag**2) * cos
    # (i sin - x cos) (i sin - conj(x) cos), (d, n, f)
    below = (radius - sin) * (radius + sin), real * (-2 * sin * cos)
    inverse = pairs.invert(below)
    a, b = (exact.matmul(weights, v) for v in inverse)  # (d, 8, f)

    def q(i):
        values, slopes = (
            (a[:, 2 * i], b[:, 2 * i]),
            (a[:, 2 * i + 1], b[:, 2 * i + 1]),
        )
        return (
            -2 * (sin * values[1] + cos * slopes[0]),
            2 * (sin * values[0] - cos * slopes[1]),
        )

    dt = ops.expand_dims(dt, -1)
    gain = dt * cos
    correction = pairs.scale(pairs.multiply(q(1), q(2)), gain)
    real, imag = pairs.scale(q(3), gain)
    correction = pairs.divide(correction, (1 + real, imag))
    real, imag = q(0)
    difference = real - correction[0], imag - correction[1]
    turn = cos, sin / 2
    return pairs.scale(pairs.multiply(turn, difference), dt)
