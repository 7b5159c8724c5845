"""The recurrence of a linear time-invariant system, a chunk of steps at once.

    h[t] = Ā h[t-1] + B̄ x[t]
    y[t] = C h[t]

The state of each channel is kept as real numbers, `[real; imag]` of one number
of each conjugate pair. With chunks of `q` steps,

    h before the next chunk = Ā^q h + sum_j Ā^(q-1-j) B̄ x[j]
    y[k] = C Ā^(k+1) h + sum_j C Ā^j B̄ x[k-j]

are products of matrices, and only the states between chunks take turns.
`(b, l, d, 2n)` is never held, and the length may be unknown.

Sizes: `c` chunks; `m` of anything, time or batch.
"""

from keras import ops

from keras_ssm.ops import linear_scan
from keras_ssm.ops.steps import take_steps

# Steps of a chunk at most: about as many as a state has numbers, so that
# the states between chunks take no more memory than the input.
_STEPS = 64
# How often to double a number of chunks that is unknown.
_DOUBLINGS = 16


class DiagonalTransition:
    """`Ā` as complex numbers `(d, n)`.

    Args:
        real: Real parts.
        imag: Imaginary parts.
    """

    def __init__(self, real, imag):
        self.real = real
        self.imag = imag

    def squared(self):
        """`Ā^2`."""
        real, imag = self.real, self.imag
        return DiagonalTransition(real * real - imag * imag, 2 * real * imag)

    def forward(self, h):
        """`Ā h` of states `(d, m, 2n)`."""
        return self._multiply(h, self.imag)

    def transposed(self, rows):
        """`rows Ā` of rows `(d, m, 2n)` that act on states."""
        return self._multiply(rows, -self.imag)

    def scan(self, u, h):
        """The states after each chunk, `(b, c, d, 2n)`.

        Args:
            u: What each chunk adds, `(b, c, d, 2n)`.
            h: The state before the first, `(b, d, 2n)`.
        """
        n, shape = self.real.shape[-1], ops.shape(u)
        size = self.real.shape[0] * n

        def flat(v):
            # Every number is a channel.
            leading = ops.shape(v)[:-2]
            return tuple(
                ops.reshape(part, (*leading, size))
                for part in (v[..., :n], v[..., n:])
            )

        a = ops.reshape(self.real, (size,)), ops.reshape(self.imag, (size,))
        parts = linear_scan(a, flat(u), initial_state=flat(h))
        parts = [ops.reshape(v, (*shape[:-1], n)) for v in parts]
        return ops.concatenate(parts, axis=-1)

    def _multiply(self, v, imag):
        n = self.real.shape[-1]
        real, imag = ops.expand_dims(self.real, 1), ops.expand_dims(imag, 1)
        of_real, of_imag = v[..., :n], v[..., n:]
        return ops.concatenate(
            [
                real * of_real - imag * of_imag,
                imag * of_real + real * of_imag,
            ],
            axis=-1,
        )


class DenseTransition:
    """`Ā` as real matrices `(d, 2n, 2n)`.

    Args:
        matrix: The matrices.
    """

    def __init__(self, matrix):
        self.matrix = matrix

    def squared(self):
        """`Ā^2`."""
        return DenseTransition(self.matrix @ self.matrix)

    def forward(self, h):
        """`Ā h` of states `(d, m, 2n)`."""
        return h @ ops.transpose(self.matrix, (0, 2, 1))

    def transposed(self, rows):
        """`rows Ā` of rows `(d, m, 2n)` that act on states."""
        return rows @ self.matrix

    def scan(self, u, h):
        """The states after each chunk, `(b, c, d, 2n)`.

        Sums over 1, 2, 4, ... chunks: with `log c` times the arithmetic of
        a loop over chunks, in `log c` products.

        Args:
            u: What each chunk adds, `(b, c, d, 2n)`.
            h: The state before the first, `(b, d, 2n)`.
        """
        chunk = ops.arange(ops.shape(u)[1], dtype="int32")
        first = ops.reshape(ops.equal(chunk, 0), (-1, 1, 1))
        h = ops.expand_dims(of_channels(self.forward(of_channels(h))), 1)
        u, power = u + ops.where(first, h, 0), self
        known = isinstance(u.shape[1], int)
        doublings = (u.shape[1] - 1).bit_length() if known else _DOUBLINGS
        for i in range(doublings):
            # Not padded: what is longer than the sequence would be made.
            earlier = ops.take(u, ops.maximum(chunk - 2**i, 0), axis=1)
            there = ops.reshape(chunk >= 2**i, (-1, 1, 1))
            earlier = power.on_sequences(ops.where(there, earlier, 0))
            u, power = u + earlier, power.squared()
        return u

    def on_sequences(self, v):
        """`Ā v` of states `(b, c, d, 2n)`."""
        shape = ops.shape(v)
        v = ops.reshape(v, (-1, *shape[2:]))
        return ops.reshape(of_channels(self.forward(of_channels(v))), shape)


def of_channels(v):
    """(m, d, ...) -> (d, m, ...), and back."""
    return ops.swapaxes(v, 0, 1)


def run(x, h, count, transition, B, C):
    """Runs the recurrence over whole sequences.

    Args:
        x: Input, `(b, l, d)`, 0 from step `count` on.
        h: The state before the first step, `(b, d, 2n)`.
        count: How many steps each row has, `(b,)`.
        transition: `Ā`.
        B: `B̄`, `(d, 2n)`.
        C: `C` as it acts on states, `(d, 2n)`.

    Returns:
        `(y, state)`: `(b, l, d)`, and the state after step `count - 1`,
        `(b, d, 2n)`.
    """
    b, length, d = ops.shape(x)[0], ops.shape(x)[1], x.shape[2]
    doublings = _doublings(length)
    q = 2**doublings
    powers = [transition]
    for _ in range(doublings):
        powers.append(powers[-1].squared())
    columns = _columns(powers[:-1], B)
    # One chunk more than there are whole ones, for the remaining steps.
    c = length // q + 1
    x = _lengthen(x, c * q)
    inputs = ops.transpose(ops.reshape(x, (b * c, q, d)), (2, 0, 1))
    added = of_channels(inputs @ ops.flip(columns, axis=1))  # (b c, d, 2n)
    added = ops.reshape(added, (b, c, d, C.shape[-1]))
    after = powers[-1].scan(added, h)
    before = ops.concatenate([ops.expand_dims(h, 1), after[:, :-1]], axis=1)
    y = inputs @ _toeplitz(columns, C)
    states = of_channels(ops.reshape(before, (b * c, d, C.shape[-1])))
    rows = _rows(powers[:-1], C)
    y = y + states @ ops.transpose(rows, (0, 2, 1))  # (d, b c, q)
    y = ops.transpose(ops.reshape(y, (d, b, c * q)), (1, 2, 0))
    return _shorten(y, length), _end(x, before, count, powers[:-1], columns)


def _doublings(length):
    """How often one step is doubled to make a chunk."""
    most = _STEPS.bit_length() - 1
    return min(length.bit_length(), most) if isinstance(length, int) else most


def _lengthen(x, size):
    """`x` `(b, l, d)`, with zeros behind it to a size above `l`."""
    b, length, d = ops.shape(x)
    if isinstance(length, int):
        zeros = ops.zeros((b, size - length, d), x.dtype)
        return ops.concatenate([x, zeros], axis=1)
    # Exporters doubt that zeros of an unknown length are that many.
    index = ops.arange(size, dtype="int32")
    there = index < length
    x = ops.take(x, ops.where(there, index, 0), axis=1)
    return ops.where(ops.expand_dims(there, -1), x, 0)


def _shorten(x, length):
    """The first steps of `x`."""
    if isinstance(length, int):
        return x[:, :length]
    # Exporters doubt that there are that many.
    return ops.take(x, ops.arange(length, dtype="int32"), axis=1)


def _columns(powers, B):
    """`Ā^j B̄`, `(d, q, 2n)`."""
    columns = ops.expand_dims(B, 1)
    for power in powers:
        columns = ops.concatenate([columns, power.forward(columns)], axis=1)
    return columns


def _rows(powers, C):
    """`C Ā^(k+1)`, `(d, q, 2n)`."""
    rows = powers[0].transposed(ops.expand_dims(C, 1))
    for power in powers:
        rows = ops.concatenate([rows, power.transposed(rows)], axis=1)
    return rows


def _toeplitz(columns, C):
    """What input j adds to output k of a chunk, `(d, q, q)`."""
    q = columns.shape[1]
    kernel = (columns @ ops.expand_dims(C, -1))[..., 0]  # (d, q)
    step = ops.arange(q)
    distance = ops.expand_dims(step, 0) - ops.expand_dims(step, 1)
    taps = ops.take(kernel, ops.maximum(distance, 0), axis=1)
    return ops.where(distance >= 0, taps, 0)


def _end(x, before, count, powers, columns):
    """The state after the last step of each row, `(b, d, 2n)`."""
    q = columns.shape[1]
    chunk, rest = count // q, count % q
    h = take_steps(before, ops.expand_dims(chunk, 1))[:, 0]
    h = of_channels(h)  # (d, b, 2n)
    for i, power in enumerate(powers):
        bit = ops.reshape(rest // 2**i % 2, (-1, 1))
        h = ops.where(bit > 0, power.forward(h), h)
    # The steps since then, the last of them at the end.
    step = ops.expand_dims(ops.arange(q, dtype="int32"), 0)
    index = ops.expand_dims(count, 1) - q + step
    last = take_steps(x, ops.maximum(index, 0))
    recent = ops.expand_dims(step >= q - ops.expand_dims(rest, 1), -1)
    last = ops.transpose(ops.where(recent, last, 0), (2, 0, 1))  # (d, b, q)
    return of_channels(h + last @ ops.flip(columns, axis=1))
