"""The selective scan in logarithmic steps of `keras.ops`, for inference.

It holds `(b, l, g, n, d/g)`, and no gradient is promised.
"""

from keras import ops

from keras_ssm.kernels import border
from keras_ssm.kernels.portable.maps import compose


def unsupported(*tensors, **options):
    """Nothing: it runs on every backend."""
    return None


def selective_scan(*tensors, dt_softplus, reverse):
    """The op on canonical tensors; see `keras_ssm.ops.selective_scan`."""
    return border.around(
        recurrence, tensors, dt_softplus=dt_softplus, reverse=reverse
    )


def recurrence(x, dt, A, B, C, h, resets, reverse):
    """`h[t] = exp(dt[t] A) h[t-1] + dt[t] B[t] x[t]; y[t] = C[t] h[t]`."""
    b, l = ops.shape(x)[0], ops.shape(x)[1]
    g, n, e = B.shape[2], A.shape[1], A.shape[0] // B.shape[2]
    A = ops.transpose(ops.reshape(A, (g, e, n)), (0, 2, 1))
    h = ops.transpose(ops.reshape(h, (b, g, e, n)), (0, 1, 3, 2))
    x, dt = (ops.reshape(v, (b, l, g, 1, e)) for v in (x, dt))
    a = ops.exp(dt * A)  # (b, l, g, n, e)
    if resets is not None:
        a = ops.where(ops.reshape(resets, (b, l, 1, 1, 1)), 0.0, a)
    (a,), (u,) = compose((a,), (dt * x * ops.expand_dims(B, -1),), reverse)
    h = a * ops.expand_dims(h, 1) + u
    y = ops.sum(h * ops.expand_dims(C, -1), axis=3)
    h = h[:, 0] if reverse else h[:, -1]
    h = ops.reshape(ops.transpose(h, (0, 1, 3, 2)), (b, g * e, n))
    return ops.reshape(y, (b, l, g * e)), h
