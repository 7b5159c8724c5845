"""Sequences as chunks of `q` steps, and the states between the chunks.

The `c` chunks of `b` rows are one axis of `m = c b`, the rows of the first
chunk, then those of the second, and so on. There is one chunk more than there
are whole ones, for the remaining steps.
"""

from keras import ops

# Steps of a chunk at most: about as many as a state has numbers, so that
# the states between chunks take no more memory than the input.
_DOUBLINGS_OF_STEPS = 6
# How often to double a number of chunks that is unknown.
_DOUBLINGS_OF_CHUNKS = 16


def chunks_of(x):
    """The chunks of sequences `(b, l, d)`."""
    b, length, d = ops.shape(x)
    kind = KnownLength if isinstance(length, int) else UnknownLength
    return kind(b, length, d)


class KnownLength:
    """Chunks of sequences by reshaping, their states in a tree."""

    def __init__(self, b, length, d):
        self.b, self.length, self.d = b, length, d
        self.doublings = min(length.bit_length(), _DOUBLINGS_OF_STEPS)
        self.q = 2**self.doublings
        self.c = length // self.q + 1

    def split(self, x):
        """`(b, l, d)` as `(d, m, q)`, with zeros behind the end."""
        b, c, q, d = self.b, self.c, self.q, self.d
        zeros = ops.zeros((b, c * q - self.length, d), x.dtype)
        x = ops.concatenate([x, zeros], axis=1)
        x = ops.transpose(ops.reshape(x, (b, c, q, d)), (3, 1, 0, 2))
        return ops.reshape(x, (d, c * b, q))

    def join(self, y):
        """`(d, m, q)` as `(b, l, d)`."""
        b, c, q, d = self.b, self.c, self.q, self.d
        y = ops.transpose(ops.reshape(y, (d, c, b, q)), (2, 1, 3, 0))
        return ops.reshape(y, (b, c * q, d))[:, : self.length]

    def states(self, h, added, power):
        """The state before each chunk, `(d, m, 2n)`.

        Args:
            h: That before the first, `(d, b, 2n)`.
            added: What each chunk adds, `(d, m, 2n)`.
            power: What is left of a state after a chunk.
        """
        count = self.c - 1  # what the last one adds, nobody asks for
        return self._states(h, added[:, : count * self.b], power, count)

    def _states(self, h, u, power, count):
        """`s[0] = h` and `s[k+1] = Ā s[k] + u[k]`, one more than `count`.

        Two steps at once give every other state, these the ones between.
        """
        if count == 0:
            return h
        if count == 1:
            return ops.concatenate([h, power.forward(h) + u], axis=1)
        b, d, size, half = self.b, self.d, u.shape[-1], (count + 1) // 2
        u = ops.reshape(u, (d, count, b, size))
        even = ops.reshape(u[:, ::2], (d, half * b, size))
        odd = ops.reshape(u[:, 1::2], (d, count // 2 * b, size))
        twice = power.forward(even[:, : count // 2 * b]) + odd
        known = self._states(h, twice, power.squared(), count // 2)
        known, last = known[:, : half * b], known[:, half * b :]
        pairs = known, power.forward(known) + even
        pairs = [ops.reshape(v, (d, half, b, size)) for v in pairs]
        pairs = ops.reshape(ops.stack(pairs, axis=2), (d, 2 * half * b, size))
        return ops.concatenate([pairs, last], axis=1)


class UnknownLength:
    """Chunks of sequences by indices, their states by doubling.

    Exporters have to know that what they reshape fits at any length, which
    they do where nothing is split into a number of chunks. There are two more
    than whole ones: of a size that may be 1, they may conclude that it must
    not be.
    """

    def __init__(self, b, length, d):
        self.b, self.length, self.d = b, length, d
        self.doublings = _DOUBLINGS_OF_STEPS
        self.q = 2**self.doublings
        self.m = b * (length // self.q + 2)

    def split(self, x):
        """`(b, l, d)` as `(d, m, q)`, with zeros behind the end."""
        place = ops.arange(self.m, dtype="int32")
        row, first = place % self.b, place // self.b * self.q
        step = first + ops.expand_dims(ops.arange(self.q, dtype="int32"), 1)
        there = step < self.length  # (q, m)
        flat = ops.reshape(x, (self.b * self.length, self.d))
        index = row * self.length + ops.where(there, step, 0)
        x = ops.where(there[..., None], ops.take(flat, index, axis=0), 0)
        return ops.transpose(x, (2, 1, 0))

    def join(self, y):
        """`(d, m, q)` as `(b, l, d)`."""
        step = ops.arange(self.length, dtype="int32")
        row = ops.expand_dims(ops.arange(self.b, dtype="int32"), 1)
        place = step // self.q * self.b + row  # (b, l)
        flat = ops.reshape(ops.transpose(y, (1, 2, 0)), (-1, self.d))
        return ops.take(flat, place * self.q + step % self.q, axis=0)

    def states(self, h, added, power):
        """The state before each chunk; see `KnownLength.states`.

        Sums over 1, 2, 4, ... chunks: with more arithmetic than a tree.
        """
        place = ops.arange(self.m, dtype="int32")
        earlier = ops.take(added, ops.maximum(place - self.b, 0), axis=1)
        first = place < self.b
        h = ops.take(h, ops.where(first, place, 0), axis=1)
        states = ops.where(first[:, None], h, earlier)
        for i in range(_DOUBLINGS_OF_CHUNKS):
            source = place - 2**i * self.b
            earlier = ops.take(states, ops.maximum(source, 0), axis=1)
            earlier = ops.where((source >= 0)[:, None], earlier, 0)
            states = states + power.forward(earlier)
            power = power.squared()
        return states
