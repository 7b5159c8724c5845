"""The causal convolution as k shifted products of `keras.ops`."""

from keras import ops


def unsupported(*tensors, **options):
    """Nothing: it runs on every backend."""
    return None


def causal_conv1d(x, weight, bias, state, resets, *, activation, reverse):
    """The op on canonical tensors; see `keras_ssm.ops.causal_conv1d`."""
    length, k = ops.shape(x)[1], weight.shape[0]
    history = ops.cast(x, state.dtype)
    if reverse:
        history = ops.concatenate([history, ops.flip(state, axis=1)], axis=1)
    else:
        history = ops.concatenate([state, history], axis=1)
    y, far = 0.0, None
    for distance in range(k):  # how many inputs lie between tap and step
        start = distance if reverse else k - 1 - distance
        tap = history[:, start : start + length]
        if resets is not None and distance > 0:
            far = _crosses(resets, distance, far, reverse)
            tap = ops.where(ops.expand_dims(far, -1), 0.0, tap)
        y = y + tap * weight[k - 1 - distance]
    y = y if bias is None else y + bias
    y = ops.silu(y) if activation == "silu" else y
    return ops.cast(y, x.dtype)


def _crosses(resets, distance, nearer, reverse):
    """Whether a reset lies between each step and the tap `distance` away."""
    length = ops.shape(resets)[1]
    behind = distance - 1
    if reverse:
        moved = ops.pad(resets, ((0, 0), (0, behind)))[:, behind:]
    else:
        moved = ops.pad(resets, ((0, 0), (behind, 0)))[:, :length]
    return moved if nearer is None else ops.logical_or(nearer, moved)
