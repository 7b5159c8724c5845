"""How the work of a scan is cut into programs: one table by shape."""

import dataclasses

# Steps from one saved state to the next. With 16 states that is a byte for
# each element of x.
EVERY = 64
# Programs for each multiprocessor that hide one another's waits.
ENOUGH = 12
# Programs for each multiprocessor where time is split: two rounds of what its
# registers hold.
SPLIT = 24


@dataclasses.dataclass(frozen=True)
class Blocks:
    """The sizes of a kernel.

    Args:
        channels: Channels of a program.
        steps: Steps that it takes at once.
        registers: The most registers of a lane; `None` for no limit.
    """

    channels: int
    steps: int
    registers: int | None = None

    def constants(self, n: int, lanes: int) -> dict:
        """Compile-time arguments of the kernels."""
        N = _power_of_2(n)
        rows = lanes // self.channels
        per_tile = min(rows, self.steps)
        return dict(
            n=n,
            N=N,
            BLOCK=self.channels,
            LANES=lanes,
            SPAN=lanes // per_tile,
            TILES=self.steps // per_tile,
        )


def forward_blocks(
    width: int, n: int, lanes: int, pairs: int = 1, fill: int = 0
) -> Blocks:
    """The sizes of the forward kernel.

    Args:
        width: Channels in a group.
        n: States of a channel.
        lanes: Lanes of a warp.
        pairs: How many groups there are in all rows.
        fill: How many programs there should be. The more states a lane has,
            the less its programs compute twice, but the fewer there are.
    """
    wide = Blocks(_channels(width, n, lanes, 8), 2, 128)
    if not fill:
        return dataclasses.replace(wide, steps=4, registers=168)
    if pairs * -(-width // wide.channels) >= fill:
        return wide
    narrow = _channels(width, n, lanes, 4)
    # Half as many steps where a lane has more than four states.
    steps = 8 if narrow * n <= 4 * lanes else 4
    return Blocks(narrow, steps, 168)


def backward_blocks(
    width: int, n: int, lanes: int, pairs: int = 1, fill: int = 0
) -> Blocks:
    """The sizes of the backward kernel: as many steps as fit registers.

    Its arguments are those of `forward_blocks`.
    """
    return Blocks(_channels(width, n, lanes, 4), 4, 168)


def _channels(width, n, lanes, states):
    """As many as give a lane so many states, and not more than there are."""
    N = _power_of_2(n)
    most = min(lanes, states * lanes // N, _power_of_2(width))
    return max(most, lanes // N, 1)


def _power_of_2(size):
    """The next one. Triton's own takes as long as a few checks of shapes."""
    return 1 << (size - 1).bit_length()


def chunk_steps(length: int, programs: int, processors: int) -> int:
    """How many steps a chunk has; all of them if time need not be split.

    Splitting computes every exponential twice: it pays where programs are few.
    """
    most = length // (2 * EVERY)
    chunks = min(SPLIT * processors // programs, most)
    if programs > 2 * processors or chunks < 4:
        return length
    return -(-length // (chunks * EVERY)) * EVERY
