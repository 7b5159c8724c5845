"""One step of the linear scan, element by element."""

from keras_ssm.kernels import border
from keras_ssm.kernels.portable.maps import add, multiply


def unsupported(*tensors, **options):
    """Nothing: it runs on every backend."""
    return None


def linear_scan_step(x, x_imag, a, a_imag, state, state_imag, mask):
    """The op on canonical tensors; see `keras_ssm.ops.linear_scan_step`."""
    tensors = (x, x_imag, a, a_imag, state, state_imag, mask)
    x, a, state, mask = border.as_numbers(tensors)
    dtype = x[0].dtype
    a, x = border.enter_linear(a, x, mask, dtype=state[0].dtype)
    state = add(multiply(a, state), x)
    return *border.leave_linear(state, mask, dtype=dtype), *state
