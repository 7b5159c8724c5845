"""One step of the time-invariant scan."""

from keras import ops

from keras_ssm.kernels.portable.real_system import across, real_system


def unsupported(*tensors, **options):
    """Nothing: it runs on every backend."""
    return None


def ssm_scan_step(x, *tensors):
    """The op on canonical tensors; see `keras_ssm.ops.ssm_scan_step`."""
    *system, state = tensors
    transition, B, C = real_system(*system)
    state = across(transition.forward(across(state)))
    state = state + ops.expand_dims(x, -1) * B
    return ops.sum(state * C, axis=-1), state
