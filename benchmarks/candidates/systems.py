"""One linear system in the three forms that it has for a whole sequence."""

from keras import ops
from system import System

import keras_ssm
from candidates import OURS
from candidates.op_peers import Peer
from candidates.ops import preparations

# Numbers that the states of all steps may be, in float32 half a GiB. A scan
# holds several times as many.
MOST = 2**27


def make(part, case, dtype, checked=True):
    """Candidates for S4D's system, from its parameters to its output.

    Args:
        part: "system".
        case: A case of `tests/cases.py`: batch, length, channels and state.
        dtype: Dtype of the input.
        checked: Whether to compare with the float64 reference.
    """
    problem = System(case, dtype, checked)
    forms = {"convolution": convolve, "chunks": recur, "scan": scan}
    return preparations(
        problem, {f"{OURS} {name}": Peer(form) for name, form in forms.items()}
    )


def convolve(x, C_real, C_imag, **dynamics):
    """With a kernel as long as the sequence."""
    C = C_real, C_imag
    kernel = keras_ssm.ops.s4d_conv_kernel(*_system(**dynamics), C, x.shape[1])
    return keras_ssm.ops.fft_conv(x, kernel)


def recur(x, C_real, C_imag, **dynamics):
    """In chunks of 64 steps, as S4D's layer with `mode="recurrence"`."""
    A, B = keras_ssm.ops.discretize(*_system(**dynamics))
    return keras_ssm.ops.ssm_scan(x, A, B, (C_real, C_imag))


def scan(x, C_real, C_imag, **dynamics):
    """As a linear scan of every number of every channel."""
    (b, l, d), n = x.shape, C_real.shape[1]
    if 2 * n * b * l * d > MOST:
        raise NotImplementedError(
            f"it holds (b, l, d, 2n) several times, {8 * n * b * l * d:.1e} "
            "bytes each"
        )
    a, gain = keras_ssm.ops.discretize(*_system(**dynamics))
    x = ops.expand_dims(x, -1)
    u = tuple(ops.reshape(x * v, (b, l, d * n)) for v in gain)
    h = keras_ssm.ops.linear_scan(tuple(ops.reshape(v, (-1,)) for v in a), u)
    real, imag = (ops.reshape(v, (b, l, d, n)) for v in h)
    return 2 * ops.sum(real * C_real - imag * C_imag, axis=-1)


def _system(log_dt, A_log, A_imag):
    """`dt`, `A` and `B` as ops take them."""
    A = -ops.exp(A_log), A_imag
    return ops.exp(log_dt), A, (ops.ones_like(A_imag), ops.zeros_like(A_imag))
