"""Maps `h -> a h + u` composed in logarithmic steps of `keras.ops`.

A number is a tuple of tensors: its real and, if it is complex, its imaginary
part. Composing two maps gives one of the same form, and combining every step
with the one 1, 2, 4, ... before it gives the map from the initial state to
each step (Hillis & Steele, 1986).
"""

from keras import ops

from keras_ssm.kernels import pairs


def compose(a, u, reverse):
    """The map from the initial state to each step, as its `(a, u)`.

    Args:
        a: Number, `(b, l, ...)`.
        u: Number, likewise.
        reverse: Whether steps follow each other from the end.
    """
    count = len(a)
    length = ops.shape(a[0])[1]
    step = ops.arange(length)
    ones = (1,) * (len(a[0].shape) - 2)

    def combine(distance, *parts):
        a, u = parts[:count], parts[count:]
        source = step + distance if reverse else step - distance
        inside = ops.logical_and(source >= 0, source < length)
        inside = ops.reshape(inside, (-1, *ones))
        source = ops.clip(source, 0, length - 1)
        from_a, from_u = (
            tuple(ops.take(v, source, axis=1) for v in parts)
            for parts in (a, u)
        )
        carried = multiply(a, from_u)
        u = add(u, tuple(ops.where(inside, v, 0.0) for v in carried))
        a = tuple(
            ops.where(inside, v, old)
            for v, old in zip(multiply(a, from_a), a, strict=True)
        )
        return distance * 2, *a, *u

    def unfinished(distance, *parts):
        return distance < length

    distance = ops.ones((), dtype=step.dtype)
    _, *parts = ops.while_loop(unfinished, combine, (distance, *a, *u))
    return tuple(parts[:count]), tuple(parts[count:])


def multiply(a, b):
    """`a * b`; `a` may be real where `b` is complex."""
    if len(a) == 1:
        return tuple(a[0] * part for part in b)
    return pairs.multiply(a, b)


def add(a, b):
    """`a + b`."""
    return tuple(x + y for x, y in zip(a, b, strict=True))
