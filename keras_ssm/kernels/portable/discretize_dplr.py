"""Discretisation of a DPLR system; see `kernels/discretization.py`."""

from keras import ops

from keras_ssm.kernels import discretization


def unsupported(*tensors, **options):
    """Nothing: it runs on every backend."""
    return None


def discretize_dplr(dt, A, A_imag, P, P_imag, B, B_imag):
    """The op on canonical tensors; see `keras_ssm.ops.discretize_dplr`."""
    change, B = discretization.dplr_steps(
        dt, (A, A_imag), (P, P_imag), (B, B_imag)
    )
    A = change + ops.eye(B.shape[-1], dtype=B.dtype)
    n = P.shape[-1]
    return A, B[:, :n], B[:, n:]
