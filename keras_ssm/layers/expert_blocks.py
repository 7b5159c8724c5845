"""Steps in blocks, each of which goes to one expert."""

from keras import ops

# Taking the kernels of an expert for a block costs as much as this many steps.
KERNELS = 32


def block_size(steps: int, experts: int, count: int) -> int | None:
    """How many steps to put into a block; `None` if it does not pay.

    It does where blocks cost clearly less than all experts for all steps.

    Args:
        steps: Number of steps.
        experts: Number of experts.
        count: How many of them a step chooses.
    """
    size = max(1, round((KERNELS * steps * count / experts) ** 0.5))
    cost = _number_of_blocks(steps * count, experts, size) * (size + KERNELS)
    return size if 1.5 * cost < experts * steps else None


def _number_of_blocks(choices, experts, size):
    """So many that they suffice, however the choices fall."""
    return min(choices, choices // size + experts)


class ExpertBlocks:
    """Where the steps lie when each block of them goes to one expert.

    Blocks are filled up with zeros. There are as many of them whatever is
    chosen, so that shapes are known to a compiler.

    Args:
        chosen: Which experts each step chooses, boolean, `(s, E)`.
        count: How many it chooses, k.
        size: Number of steps of a block, q.

    Attributes:
        experts: The expert of each block, `(n,)`.
    """

    def __init__(self, chosen, count, size):
        steps, number = chosen.shape
        self.count, self.size = count, size
        self.choices = steps * count
        self.blocks = _number_of_blocks(self.choices, number, size)
        one = ops.cast(chosen, "int32")
        in_use = (ops.sum(one, axis=0) + size - 1) // size
        end = ops.cumsum(in_use, axis=0)  # the block behind those of an expert
        slots = (end - in_use) * size + ops.cumsum(one, axis=0) - one
        order = ops.where(chosen, ops.arange(number, dtype="int32"), number)
        self._order = ops.sort(order, axis=-1)[:, :count]  # (s, k)
        slots = ops.take_along_axis(slots, self._order, axis=-1)
        self._slots = ops.reshape(slots, (-1,))
        empty = ops.full((self.blocks * size,), self.choices, dtype="int32")
        self._sources = ops.scatter_update(
            empty,
            self._slots[:, None],
            ops.arange(self.choices, dtype="int32"),
        )
        block = ops.arange(self.blocks, dtype="int32")[:, None]
        passed = ops.sum(ops.cast(block >= end, "int32"), axis=-1)
        self.experts = ops.minimum(passed, number - 1)

    def gather(self, x):
        """The steps `(s, m)` in their blocks, `(n, q, m)`."""
        width = x.shape[-1]
        # Copied first: so no step is taken twice, and gradients are sums in a
        # fixed order.
        x = ops.repeat(ops.expand_dims(x, 1), self.count, axis=1)
        x = ops.reshape(x, (self.choices, width))
        x = ops.concatenate([x, ops.zeros_like(x[:1])], axis=0)
        x = ops.take(x, self._sources, axis=0)
        return ops.reshape(x, (self.blocks, self.size, width))

    def scatter(self, y, weights):
        """The sum over the experts of each step, `(s, m)`.

        Args:
            y: Blocks, `(n, q, m)`.
            weights: Of each expert, `(s, E)`, in whose dtype the sum is.
        """
        width = y.shape[-1]
        y = ops.take(ops.reshape(y, (-1, width)), self._slots, axis=0)
        y = ops.reshape(y, (-1, self.count, width))
        weights = ops.take_along_axis(weights, self._order, axis=-1)
        y = ops.cast(y, weights.dtype) * ops.expand_dims(weights, -1)
        return ops.sum(y, axis=1)
