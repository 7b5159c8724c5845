"""S4's convolution kernel as a product of matrices.

The powers of `Ā` up to the length are those of `q` steps times those below
`q`, so that the kernel is, for each channel, the product of a `(l/q, 2n)`
matrix of `Ā^(qi) B̄` and a `(2n, q)` matrix of `C Ā^j`. Both grow by doubling,
with `Ā`, `Ā^2`, `Ā^4`, ..., which the Cauchy form of `portable` needs as well,
to truncate `C`: what is left is less than that form, element by element.
"""

from keras import ops

from keras_ssm.kernels import discretization, exact


def unsupported(*tensors, length):
    """A length that is unknown: so is how often to double."""
    if not isinstance(length, int):
        return "the length is unknown"
    return None


def s4_conv_kernel(dt, A, A_imag, P, P_imag, B, B_imag, C, C_imag, *, length):
    """The op on canonical tensors; see `keras_ssm.ops.s4_conv_kernel`."""
    change, column = discretization.dplr_steps(
        dt, (A, A_imag), (P, P_imag), (B, B_imag)
    )
    row = 2 * ops.concatenate([C, -C_imag], axis=-1)
    changes = _changes(change, (length - 1).bit_length())
    inner = len(changes) // 2
    rows = _double(row, changes[:inner])  # (d, q, 2n)
    columns = _double(
        column, [ops.transpose(v, (0, 2, 1)) for v in changes[inner:]]
    )
    kernel = exact.matmul(columns, ops.transpose(rows, (0, 2, 1)))
    kernel = ops.reshape(kernel, (dt.shape[0], 2 ** len(changes)))
    return ops.transpose(kernel[:, :length])


def _changes(change, count):
    """`Ā - 1`, `Ā^2 - 1`, `Ā^4 - 1`, ...

    Slow states are multiplied with numbers next to 1, of which products would
    add up the rounding errors.
    """
    two = 2 * ops.eye(change.shape[-1], dtype=change.dtype)
    changes = []
    for i in range(count):
        if i > 0:
            # Ā^2 - 1 = (Ā - 1) (Ā + 1): exact next to -1 as well.
            change = exact.matmul(change, change + two)
        changes.append(change)
    return changes


def _double(vectors, changes):
    """`v`, `v Ā`, `v Ā^2`, ... of `v` `(d, 2n)`, twice as many each time."""
    vectors = ops.expand_dims(vectors, 1)
    for change in changes:
        later = vectors + exact.matmul(vectors, change)
        vectors = ops.concatenate([vectors, later], axis=1)
    return vectors
