"""A ring that holds the last steps of each row."""

from keras import ops

from keras_ssm.ops.steps import take_steps


class Ring:
    """Where the last steps of each row lie among the slots of a state.

    The slot `j` of `c` holds the last step whose position is `j` modulo `c`.
    Rows may have seen different numbers of steps.

    Args:
        count: How many steps there were so far, `(b, 1)`, int32.
        size: Number c of slots.
    """

    def __init__(self, count, size):
        self.count = count
        self.size = size
        self.slots = ops.arange(size, dtype="int32")[None]  # (1, c)

    def in_order(self, v):
        """The slots `(b, c, ...)` from the oldest step to the newest."""
        return take_steps(v, ops.mod(self.count + self.slots, self.size))

    def is_filled(self):
        """Whether there is a step in each slot, in order, `(b, c)`."""
        return self.count + self.slots >= self.size

    def after(self, v, new):
        """The slots after more steps, `(b, c, ...)`.

        Args:
            v: The slots in order, and the new steps behind them,
                `(b, c + l, ...)`.
            new: How many of the new steps count, `(b, 1)`.
        """
        last = self.count + new - 1
        position = last - ops.mod(last - self.slots, self.size)
        # A slot that none of the new steps reached is found among the old.
        return take_steps(v, position - self.count + self.size)

    def after_step(self, v, step, live):
        """The slots after one more step, `(b, c, ...)`.

        Args:
            v: The slots, `(b, c, ...)`.
            step: The new step, `(b, 1, ...)`.
            live: Whether it counts, `(b, 1)`.
        """
        slot = ops.mod(self.count, self.size)
        rows = ops.arange(ops.shape(v)[0], dtype="int32")[:, None]
        live = ops.reshape(live, (-1, *(1 for _ in v.shape[1:])))
        step = ops.where(live, step, take_steps(v, slot))
        index = ops.concatenate([rows, slot], axis=1)
        return ops.scatter_update(v, index, step[:, 0])
