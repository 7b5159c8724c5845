"""Discretisation of a diagonal system; see `kernels/discretization.py`."""

from keras import ops

from keras_ssm.kernels import discretization as rules
from keras_ssm.kernels import pairs


def unsupported(*tensors, **options):
    """Nothing: it runs on every backend."""
    return None


def discretize(dt, A, A_imag, B, B_imag, *, rule):
    """The op on canonical tensors; see `keras_ssm.ops.discretize`."""
    A = A, A_imag
    transition = rules.powers(dt, A, ops.arange(1, 2), rule)
    B = pairs.multiply((B, B_imag), rules.input_gain(dt, A, rule))
    return *(v[..., 0] for v in transition), *B
