"""Reads what belongs to some steps of a row, in the direction of a scan."""

import triton
import triton.language as tl


@triton.jit
def between(within, s, first, last):
    """The lanes whose channel exists, if step `s` lies in a range."""
    s = tl.zeros(within.shape, tl.int32) + s
    return within & (s >= first) & (s < last)


@triton.jit
def pointer_to(p, step, s, length, REVERSE: tl.constexpr):
    """The pointer to step `s` of a row."""
    time = length - 1 - s if REVERSE else s
    return p + time * tl.cast(step, tl.int64)


@triton.jit
def read_steps(
    p, step, s, length, channel, within, COUNT: tl.constexpr, REVERSE
):
    """`COUNT` steps from `s` on, 0 where there are none."""
    found = ()
    for u in tl.static_range(COUNT):
        at = pointer_to(p, step, s + u, length, REVERSE) + channel
        here = between(within, s + u, 0, length)
        found = found + (tl.load(at, mask=here, other=0.0),)
    return found


@triton.jit
def read_flags(p, s, length, COUNT: tl.constexpr, REVERSE: tl.constexpr):
    """Which of `COUNT` steps a tensor of bytes marks; `()` if there is none."""
    found = ()
    if p is not None:
        for u in tl.static_range(COUNT):
            here = (s + u >= 0) & (s + u < length)
            at = pointer_to(p, 1, s + u, length, REVERSE)
            found = found + (tl.load(at, mask=here, other=0) != 0,)
    return found
