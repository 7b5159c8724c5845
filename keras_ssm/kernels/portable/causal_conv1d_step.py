"""One step of the causal convolution, element by element."""

from keras import ops

from keras_ssm.kernels.border import select


def unsupported(*tensors, **options):
    """Nothing: it runs on every backend."""
    return None


def causal_conv1d_step(x, weight, bias, state, mask, *, activation):
    """The op on canonical tensors; see `keras_ssm.ops.causal_conv1d_step`."""
    current = ops.cast(x, state.dtype)
    current = current if mask is None else select(mask, current)
    taps = ops.concatenate([state, ops.expand_dims(current, 1)], axis=1)
    y = ops.sum(taps * weight, axis=1)
    y = y if bias is None else y + bias
    y = ops.silu(y) if activation == "silu" else y
    new = taps[:, 1:]
    if mask is not None:
        y = select(mask, y)
        new = ops.where(mask[:, None, None], new, state)
    return ops.cast(y, x.dtype), new
