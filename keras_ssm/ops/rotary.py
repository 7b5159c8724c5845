"""Pairs of numbers that turn: rotary positions, and complex states."""

import math

from keras import ops

from keras_ssm.ops import dispatch

# Parts of a full turn whose sums are exact, up to 16384 turns in float32.
GRAINS = 1024


def turn_pairs(v, cos, sin):
    """Turns pairs of the first numbers of `v`, in the dtype of the angles.

    Number `j` and number `a + j` are a pair for each of `a` angles; numbers
    behind the first `2a` stay as they are.

    Args:
        v: `(..., n)`.
        cos: Cosines of the angles, `(..., a)`.
        sin: Sines of the angles, `(..., a)`.
    """
    half = cos.shape[-1]
    one, other = (
        ops.cast(part, cos.dtype)
        for part in (v[..., :half], v[..., half : 2 * half])
    )
    turned = (one * cos - other * sin, other * cos + one * sin)
    turned = (ops.cast(part, v.dtype) for part in turned)
    return ops.concatenate([*turned, v[..., 2 * half :]], axis=-1)


def sum_angles(angle):
    """Sums of angles over the steps up to each, without their full turns.

    A long sum in float32 would lose three digits of the angle. So angles are
    split into multiples of 1/1024 of a turn, of which sums are exact, and the
    rest, whose sums are small. The gradient is that of a plain sum.

    Args:
        angle: `(b, l, ...)`.
    """
    turns = angle / (2 * math.pi)
    coarse = ops.round(turns * GRAINS) / GRAINS
    coarse, fine = (dispatch.cumsum(v) for v in (coarse, turns - coarse))
    return (coarse - ops.round(coarse) + fine) * (2 * math.pi)
