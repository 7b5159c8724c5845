"""S4D's convolution kernel as a product of matrices.

The powers of `Ā` up to the length are those of `q` steps times those below
`q`, so that the sum over states is, for each channel, the product of a
`(l/q, 2n)` and a `(2n, q)` matrix. With `q` near the root of the length, far
fewer powers than `(d, n, l)` are ever computed or kept.
"""

import keras
from keras import ops

from keras_ssm.kernels import discretization as rules
from keras_ssm.kernels import exact, pairs


def unsupported(*tensors, length, rule):
    """A length that PyTorch's exporter does not know."""
    if keras.config.backend() == "torch" and not isinstance(length, int):
        return "PyTorch exports no kernel of unknown length"
    return None


def s4d_conv_kernel(dt, A, A_imag, B, B_imag, C, C_imag, *, length, rule):
    """The op on canonical tensors; see `keras_ssm.ops.s4d_conv_kernel`."""
    A = A, A_imag
    gain = rules.input_gain(dt, A, rule)
    weight = pairs.multiply(pairs.multiply((C, C_imag), (B, B_imag)), gain)
    inner = _inner_length(length)
    outer = (length + inner - 1) // inner
    coarse = rules.powers(dt, A, ops.arange(outer) * inner, rule)
    fine = rules.powers(dt, A, ops.arange(inner), rule)
    weight = (ops.expand_dims(v, -1) for v in weight)
    real, imag = pairs.multiply(tuple(weight), coarse)
    left = ops.concatenate([real, -imag], axis=1)  # (d, 2n, l/q)
    right = ops.concatenate(fine, axis=1)  # (d, 2n, q)
    kernel = 2 * exact.matmul(ops.transpose(left, (0, 2, 1)), right)
    kernel = ops.reshape(kernel, (dt.shape[0], outer * inner))
    return ops.transpose(kernel[:, :length])


def _inner_length(length):
    if not isinstance(length, int):
        return 128
    return 2 ** (length.bit_length() // 2)
