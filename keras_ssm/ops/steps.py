"""Which steps of a row count, and which of them start anew.

A mask says which steps count, segment ids where a row starts anew. Both are
resolved here, once for every op and every implementation.
"""

from keras import ops


def find_resets(segment_ids, mask=None, reverse=False):
    """Marks the steps that start from an empty state.

    A step does if its segment id differs from that of the previous unmasked
    step, seen in the direction of the scan. The first never does.

    Args:
        segment_ids: Integers, `(b, l)`.
        mask: Boolean, `(b, l)`, or `None`.
        reverse: Whether the scan runs from the end.

    Returns:
        Boolean, `(b, l)`; False at masked steps.
    """
    if mask is None:
        return _differs_from_previous(segment_ids, reverse)
    packing = Packing(mask, reverse)
    resets = _differs_from_previous(packing.pack(segment_ids), reverse)
    # A masked step is packed behind every unmasked one, so that the previous
    # step of an unmasked one is unmasked too.
    return ops.logical_and(packing.unpack(resets), mask)


def _differs_from_previous(ids, reverse):
    # Made longer first: with l - 1 steps, exporters would exclude l = 2.
    if reverse:
        previous = ops.concatenate([ids, ids[:, -1:]], axis=1)[:, 1:]
    else:
        previous = ops.concatenate([ids[:, :1], ids], axis=1)[:, :-1]
    return ops.not_equal(ids, previous)


def next_steps(v, mask=None):
    """What `v` is at the next unmasked step of each, and at the first one.

    Args:
        v: `(b, l, ...)`, 0 at masked steps.
        mask: Boolean, `(b, l)`, or `None`.

    Returns:
        `(b, l, ...)` and `(b, ...)`; 0 where there is no such step.
    """
    packing = None if mask is None else Packing(mask)
    v = v if packing is None else packing.pack(v)
    # Made longer first: with l - 1 steps, exporters would exclude l = 2.
    following = ops.concatenate([v, ops.zeros_like(v[:, :1])], axis=1)[:, 1:]
    following = following if packing is None else packing.unpack(following)
    return following, v[:, 0]


class Packing:
    """Moves the unmasked steps of each row together, and back again.

    They keep their order and come first in the direction of the scan: at the
    start of the row, or, with `reverse`, at its end.

    Args:
        mask: Boolean, `(b, l)`.
        reverse: Whether the scan runs from the end.
    """

    def __init__(self, mask, reverse=False):
        live = ops.cast(mask, "int32")
        self.count = ops.sum(live, axis=1)  # (b,)
        first = ops.logical_not(mask) if reverse else mask
        first = ops.cast(first, "int32")
        # Both kinds are numbered through, the one behind the other.
        self._position = ops.where(
            first > 0,
            ops.cumsum(first, axis=1) - 1,
            ops.sum(first, axis=1, keepdims=True)
            + ops.cumsum(1 - first, axis=1)
            - 1,
        )
        self._order = ops.argsort(self._position, axis=1)

    def pack(self, x):
        """`(b, l, ...)`, unmasked steps together."""
        return take_steps(x, self._order)

    def unpack(self, x):
        """The inverse of `pack`."""
        return take_steps(x, self._position)


def take_steps(x, index):
    """Takes the steps `index` `(b, m)` of each row of `x` `(b, l, ...)`.

    Whole rows of a flat view are taken: a gather of contiguous memory on
    every backend, where `take_along_axis` moves single elements.
    """
    shape = ops.shape(x)
    b, l = shape[0], shape[1]
    row = ops.expand_dims(ops.arange(b, dtype="int32"), 1) * l
    flat = ops.reshape(x, (b * l, *x.shape[2:]))
    return ops.take(flat, ops.cast(index, "int32") + row, axis=0)
