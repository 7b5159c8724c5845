"""The time-invariant scan, a chunk of steps at once.

With chunks of `q` steps,

    h before the next chunk = Ā^q h + sum_j Ā^(q-1-j) B̄ x[j]
    y[k] = C Ā^(k+1) h + sum_j C Ā^j B̄ x[k-j]

are products of matrices, and only the states between chunks take turns.
`(b, l, d, 2n)` is never held, and the length may be unknown.

Sizes: `m` chunks of all rows; see `chunks.py`.
"""

from keras import ops

from keras_ssm.kernels import exact
from keras_ssm.kernels.portable.chunks import chunks_of
from keras_ssm.kernels.portable.real_system import across, real_system


def unsupported(*tensors, **options):
    """Nothing: it runs on every backend."""
    return None


def ssm_scan(x, *tensors, reverse):
    """The op on canonical tensors; see `keras_ssm.ops.ssm_scan`."""
    *system, state, count = tensors
    x = ops.flip(x, axis=1) if reverse else x
    y, state = _recurrence(x, state, count, *real_system(*system))
    return ops.flip(y, axis=1) if reverse else y, state


def _recurrence(x, h, count, transition, B, C):
    chunks = chunks_of(x)
    powers = transition.powers(chunks.doublings)
    columns = powers.columns(B)
    inputs = chunks.split(x)  # (d, m, q)
    added = exact.matmul(inputs, ops.flip(columns, axis=1))  # (d, m, 2n)
    before = chunks.states(across(h), added, powers.of_chunk)
    rows = ops.transpose(powers.rows(C), (0, 2, 1))
    y = exact.matmul(inputs, _toeplitz(columns, C)) + exact.matmul(before, rows)
    if count is None:
        count = ops.zeros((chunks.b,), "int32") + chunks.length
    return chunks.join(y), _end(inputs, before, count, powers, columns)


def _toeplitz(columns, C):
    """What input j adds to output k of a chunk, `(d, q, q)`."""
    q = columns.shape[1]
    kernel = exact.matmul(columns, ops.expand_dims(C, -1))[..., 0]  # (d, q)
    step = ops.arange(q)
    distance = ops.expand_dims(step, 0) - ops.expand_dims(step, 1)
    taps = ops.take(kernel, ops.maximum(distance, 0), axis=1)
    return ops.where(distance >= 0, taps, 0)


def _end(inputs, before, count, powers, columns):
    """The state after the last step of each row, `(b, d, 2n)`.

    Args:
        inputs: Those of each chunk, `(d, m, q)`, 0 behind the last step.
        before: The state before each chunk, `(d, m, 2n)`.
        count: How many steps each row has, `(b,)`.
        powers: Those of `Ā`.
        columns: `Ā^j B̄`, `(d, q, 2n)`.
    """
    q, b = powers.q, ops.shape(count)[0]
    place = count // q * b + ops.arange(b, dtype="int32")
    rest = count % q
    h = powers.forward(ops.take(before, place, axis=1), rest)
    # The steps of the last chunk, its last one at the end.
    step = ops.arange(q, dtype="int32") - q + ops.expand_dims(rest, 1)
    index = ops.expand_dims(place, 1) * q + ops.maximum(step, 0)  # (b, q)
    recent = ops.reshape(inputs, (inputs.shape[0], -1))
    recent = ops.where(step >= 0, ops.take(recent, index, axis=1), 0)
    return across(h + exact.matmul(recent, ops.flip(columns, axis=1)))
