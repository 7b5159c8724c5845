"""One step of the recurrence of Mamba-2, element by element."""

from keras import ops

from keras_ssm.kernels import border


def unsupported(*tensors, **options):
    """Nothing: it runs on every backend."""
    return None


def ssd_step(x, dt, A, B, C, D, dt_bias, state, mask, *, dt_softplus):
    """The op on canonical tensors; see `keras_ssm.ops.ssd_step`."""
    out_dtype, heads = x.dtype, x.shape[1] // B.shape[1]
    x, dt, B, C, _ = border.enter(
        *(x, dt, B, C, None, dt_bias, mask),
        dtype=state.dtype,
        dt_softplus=dt_softplus,
    )
    B, C = (ops.repeat(v, heads, axis=1)[:, :, None] for v in (B, C))
    decay = ops.exp(dt * A)[..., None, None]
    state = decay * state + (dt[..., None] * x)[..., None] * B
    y = ops.sum(state * C, axis=-1)
    D = None if D is None else D[:, None]
    return border.leave(y, x, D, None, mask, dtype=out_dtype), state
