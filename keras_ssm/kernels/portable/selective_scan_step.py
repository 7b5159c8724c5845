"""One step of the selective scan, element by element."""

from keras import ops

from keras_ssm.kernels import border


def unsupported(*tensors, **options):
    """Nothing: it runs on every backend."""
    return None


def selective_scan_step(
    x, dt, A, B, C, D, z, dt_bias, state, mask, *, dt_softplus
):
    """The op on canonical tensors; see `keras_ssm.ops.selective_scan_step`."""
    out_dtype, groups = x.dtype, B.shape[1]
    x, dt, B, C, z = border.enter(
        *(x, dt, B, C, z, dt_bias, mask),
        dtype=state.dtype,
        dt_softplus=dt_softplus,
    )
    B, C = (ops.repeat(v, x.shape[1] // groups, axis=1) for v in (B, C))
    decay = ops.exp(ops.expand_dims(dt, -1) * A)  # (b, d, n)
    state = decay * state + ops.expand_dims(dt * x, -1) * B
    y = ops.sum(state * C, axis=-1)
    return border.leave(y, x, D, z, mask, dtype=out_dtype), state
