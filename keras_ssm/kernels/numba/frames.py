"""What a kernel is called with: one block of integers, its frame.

A frame holds the sizes, the flags and, for each tensor, its address and its
strides over rows and steps, counted in elements. Both frameworks can fill it
without a copy of a tensor, and threads share the work on it by counting up
its first word. Word for word:

    0           the next task that nobody has taken
    1           tasks that are done (used where threads do not join)
    2           threads that still know the frame (likewise)
    8 to 23     sizes and flags, named by each kernel
    24 onwards  the tensors: address (0 for none), stride of rows, of steps
"""

from keras import ops
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from keras_ssm.kernels.numba.vectors import LANES, inline

SIZES = 8
TENSORS = 24
SLOTS = 26  # room for the tensors of every kernel
WORDS = TENSORS + 3 * SLOTS


def tasks_of(rows, blocks: int, threads: int):
    """How many tasks make a row; four for each thread end at about one time.

    Args:
        rows: How many rows there are; a tensor where that is not known yet.
        blocks: How many blocks of channels a row has.
        threads: How many threads shall have work.
    """
    if isinstance(rows, int):
        return min(blocks, -(-4 * threads // rows))
    return ops.minimum(blocks, -(-4 * threads // ops.maximum(rows, 1)))


@inline
def span_of(part, parts, channels):
    """The channels of a part, from the first to behind the last."""
    blocks = (channels + LANES - 1) // LANES
    begin, end = part * blocks // parts, (part + 1) * blocks // parts
    return begin * LANES, min(end * LANES, channels)


@inline
def time_of(s, length, reverse):
    """Where step `s` of a scan lies."""
    return length - 1 - s if reverse else s


@inline
def address(f, tensor):
    """Where a tensor begins; 0 if there is none."""
    return f[TENSORS + 3 * tensor]


@inline
def step_of(f, tensor, row, t):
    """Index of the first element of a step `t` of a row."""
    k = TENSORS + 3 * tensor
    return row * f[k + 1] + t * f[k + 2]


@intrinsic
def count_up(typing_context, address, by):
    """Adds to a word that threads share; the value before."""

    def codegen(context, builder, sig, args):
        pointer = builder.inttoptr(args[0], ir.IntType(64).as_pointer())
        return builder.atomic_rmw("add", pointer, args[1], "seq_cst")

    return types.int64(types.int64, types.int64), codegen


@intrinsic
def address_of(typing_context, pointer):
    """A pointer as an integer."""

    def codegen(context, builder, sig, args):
        return builder.ptrtoint(args[0], ir.IntType(64))

    return types.int64(pointer), codegen
