"""The linear scan in logarithmic steps of `keras.ops`, for inference.

No gradient is promised.
"""

from keras import ops

from keras_ssm.kernels import border
from keras_ssm.kernels.portable.maps import add, compose, multiply


def unsupported(*tensors, **options):
    """Nothing: it runs on every backend."""
    return None


def linear_scan(*tensors, reverse):
    """The op on canonical tensors; see `keras_ssm.ops.linear_scan`."""
    x, a, state, mask, resets = border.as_numbers(tensors)
    dtype = x[0].dtype
    a, x = border.enter_linear(a, x, mask, dtype=state[0].dtype)
    if resets is not None:
        a = tuple(ops.where(ops.expand_dims(resets, -1), 0.0, v) for v in a)
    a, u = compose(a, x, reverse)
    first = tuple(ops.expand_dims(v, 1) for v in state)
    y = add(multiply(a, first), u)
    state = tuple(v[:, 0] if reverse else v[:, -1] for v in y)
    return *border.leave_linear(y, mask, dtype=dtype), *state
