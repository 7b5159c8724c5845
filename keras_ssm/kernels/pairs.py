"""Complex arithmetic on pairs `(real, imag)` of real tensors.

In pairs, because gradients of complex tensors follow another convention on
each backend, and some devices have none.
"""

from keras import ops

from keras_ssm.kernels import exact


def multiply(a, b):
    """`a * b`."""
    return a[0] * b[0] - a[1] * b[1], a[0] * b[1] + a[1] * b[0]


def scale(a, real):
    """`a * real`."""
    return a[0] * real, a[1] * real


def divide(a, b):
    """`a / b`."""
    size = b[0] ** 2 + b[1] ** 2
    real, imag = multiply(a, (b[0], -b[1]))
    return real / size, imag / size


def invert(a):
    """`1 / a`."""
    size = a[0] ** 2 + a[1] ** 2
    return a[0] / size, -a[1] / size


def expm1(a):
    """`exp(a) - 1`, exact near 0."""
    real, imag = a
    # cos(imag) - 1 = -2 sin(imag / 2)^2, without cancellation.
    half = exact.sin(imag / 2)
    real_part = ops.expm1(real) * exact.cos(imag) - 2 * half**2
    return real_part, ops.exp(real) * exact.sin(imag)
