"""A time-invariant system on real states, `h = Ā h + B̄ x` and `y = C h`.

The state of a channel is `2n` real numbers, `[real; imag]` of one number of
each conjugate pair. Sizes: `m` of anything, time or batch.
"""

from keras import ops

from keras_ssm.kernels import exact, pairs


def real_system(A, A_imag, B, B_imag, C, C_imag):
    """`Ā`, `B̄` `(d, 2n)` and `C` `(d, 2n)` of canonical tensors."""
    if A_imag is None:
        transition = Dense(A)
    else:
        transition = Diagonal(*(ops.expand_dims(v, 1) for v in (A, A_imag)))
    B = ops.concatenate([B, B_imag], axis=-1)
    return transition, B, 2 * ops.concatenate([C, -C_imag], axis=-1)


def across(v):
    """(m, d, ...) -> (d, m, ...), and back."""
    return ops.swapaxes(v, 0, 1)


class Diagonal:
    """`Ā`, or one for each of `m`, as complex numbers.

    Args:
        real: Real parts, `(d, 1, n)` or `(d, m, n)`.
        imag: Imaginary parts.
    """

    def __init__(self, real, imag):
        self.parts = real, imag

    def times(self, other):
        """The transition by both."""
        return Diagonal(*pairs.multiply(self.parts, other.parts))

    def squared(self):
        """`Ā^2`."""
        return self.times(self)

    def forward(self, h):
        """`Ā h` of states `(d, m, 2n)`."""
        n = self.parts[0].shape[-1]
        h = pairs.multiply(self.parts, (h[..., :n], h[..., n:]))
        return ops.concatenate(h, axis=-1)

    def transposed(self, rows):
        """`rows Ā` of rows `(d, m, 2n)` that act on states."""
        real, imag = self.parts
        return Diagonal(real, -imag).forward(rows)

    def powers(self, doublings):
        """`Ā` up to `Ā^q`, with `q = 2 ** doublings`."""
        return DiagonalPowers(self, doublings)


class Dense:
    """`Ā` as real matrices.

    Args:
        matrix: The matrices, `(d, 2n, 2n)`.
    """

    def __init__(self, matrix):
        self.matrix = matrix

    def squared(self):
        """`Ā^2`."""
        return Dense(exact.matmul(self.matrix, self.matrix))

    def forward(self, h):
        """`Ā h` of states `(d, m, 2n)`."""
        return exact.matmul(h, ops.transpose(self.matrix, (0, 2, 1)))

    def transposed(self, rows):
        """`rows Ā` of rows `(d, m, 2n)` that act on states."""
        return exact.matmul(rows, self.matrix)

    def powers(self, doublings):
        """`Ā` up to `Ā^q`, with `q = 2 ** doublings`."""
        return DensePowers(self, doublings)


class Powers:
    """Powers of `Ā`, of which only `Ā^(2^i)` are ever computed if dense.

    Attributes:
        q: The highest one.
        of_chunk: `Ā^q`.
    """

    def __init__(self, transition, doublings):
        self.q = 2**doublings
        self.squares = []
        for _ in range(doublings):
            self.squares.append(transition)
            transition = transition.squared()
        self.of_chunk = transition


class DensePowers(Powers):
    """By products of few matrices with many vectors."""

    def columns(self, B):
        """`Ā^j B̄`, `(d, q, 2n)`."""
        columns = ops.expand_dims(B, 1)
        for power in self.squares:
            others = power.forward(columns)
            columns = ops.concatenate([columns, others], axis=1)
        return columns

    def rows(self, C):
        """`C Ā^(k+1)`, `(d, q, 2n)`."""
        rows = self.squares[0].transposed(ops.expand_dims(C, 1))
        for power in self.squares:
            others = power.transposed(rows)
            rows = ops.concatenate([rows, others], axis=1)
        return rows

    def forward(self, h, steps):
        """`Ā^steps h` of states `(d, m, 2n)`, `steps` `(m,)` below `q`."""
        for i, power in enumerate(self.squares):
            h = ops.where(_bit(steps, i), power.forward(h), h)
        return h


class DiagonalPowers(Powers):
    """All at once, element by element.

    Not by concatenating more and more of them: XLA would compile what it
    computes the first ones with again for each of the following.
    """

    def columns(self, B):
        """`Ā^j B̄`, `(d, q, 2n)`."""
        return self._all(ops.arange(self.q)).forward(ops.expand_dims(B, 1))

    def rows(self, C):
        """`C Ā^(k+1)`, `(d, q, 2n)`."""
        powers = self._all(ops.arange(self.q)).times(self.squares[0])
        return powers.transposed(ops.expand_dims(C, 1))

    def forward(self, h, steps):
        """`Ā^steps h` of states `(d, m, 2n)`, `steps` `(m,)` below `q`."""
        return self._all(steps).forward(h)

    def _all(self, exponents):
        found = None
        for i, power in enumerate(self.squares):
            bit = _bit(exponents, i)
            real, imag = power.parts
            factor = ops.where(bit, real, 1.0), ops.where(bit, imag, 0.0)
            factor = Diagonal(*factor)
            found = factor if found is None else found.times(factor)
        return found


def _bit(numbers, i):
    """Whether it is set in each, `(m, 1)`."""
    return ops.expand_dims(numbers // 2**i % 2 > 0, -1)
