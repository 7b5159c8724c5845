"""Which transforms a long convolution takes."""

import bisect
import functools
import itertools

from keras import ops

from keras_ssm.kernels import platforms


def align(kernel, backward_kernel, length):
    """Cuts kernels to what reaches; the first tap becomes the current input.

    Args:
        kernel: `(l_k, d)`.
        backward_kernel: `(l_b, d)`, from the next input on, or `None`.
        length: Of the sequence; an integer, or a tensor where it is unknown.

    Returns:
        The kernels, and how long a transform keeps ends from wrapping around.
    """
    kernels = [kernel]
    if backward_kernel is not None:
        first = ops.zeros_like(backward_kernel[:1])
        kernels += [ops.concatenate([first, backward_kernel], axis=0)]
    kernels = [v[:length] for v in kernels]
    longest = functools.reduce(_larger, [ops.shape(v)[0] for v in kernels])
    return kernels, length + longest - 1


def fast_length(length):
    """The smallest fast length that is not below `length`.

    Fast lengths are even and have no prime factor above 5.

    Args:
        length: Integer, or a tensor where it is unknown.
    """
    if isinstance(length, int):
        return _next_fast_length(length)
    lengths = ops.convert_to_tensor(_fast_lengths(), dtype="int32")
    return ops.take(lengths, ops.sum(ops.cast(lengths < length, "int32")))


def _larger(a, b):
    known = isinstance(a, int) and isinstance(b, int)
    return max(a, b) if known else ops.maximum(a, b)


@platforms.constant
def _next_fast_length(length):
    lengths = _fast_lengths()
    return lengths[bisect.bisect_left(lengths, length)]


@functools.cache
def _fast_lengths():
    exponents = itertools.product(range(1, 31), range(20), range(14))
    lengths = (2**a * 3**b * 5**c for a, b, c in exponents)
    return sorted(length for length in lengths if length < 2**31)
