"""Causal attention of queries, keys and values, on `keras.ops`."""

import keras
from keras import ops

# What is computed in float32, by backend: TensorFlow rounds scores to half
# precision, and JAX asks for float16 products that CPUs and TPUs do not have.
WIDENED = {"tensorflow": ("float16", "bfloat16"), "jax": ("float16",)}


def attend_causally(q, k, v, window):
    """Attends to the past within a sequence, `(b, l, heads, p)`.

    Args:
        q: Queries, `(b, l, h, p)`.
        k: Keys, `(b, l, g, p)`.
        v: Values, like `k`.
        window: How many steps a query sees, or `None` for all of them.
    """
    length = k.shape[1]
    if window is None or (length is not None and length <= window):
        return _dot_product_attention(q, k, v)
    k, v = (_extended(x, window, before=True) for x in (k, v))
    filled = ops.zeros((ops.shape(k)[0], window), "bool")
    return attend_in_blocks(q, k, v, filled, window)


def attend_in_blocks(q, k, v, filled, size):
    """Attends to the last `size` steps in a time linear in the length.

    A block of `size` steps sees itself and the block before.

    Args:
        q: Queries, `(b, l, h, p)`.
        k: Keys of the `size` steps before the first, and of all,
            `(b, size + l, g, p)`.
        v: Values, like `k`.
        filled: Which of the `size` steps before the first there are,
            `(b, size)`.
        size: How many steps a query sees, itself among them.
    """
    batch, length = ops.shape(q)[:2]
    there = ops.ones((batch, length), "bool")
    there = ops.concatenate([filled, there], axis=1)
    block = size
    if q.shape[1] is not None and q.shape[1] <= size:
        block = length
    else:
        padding = -length % size
        q, k, v, there = (_extended(x, padding) for x in (q, k, v, there))
        q = ops.reshape(q, (-1, size, *q.shape[2:]))
        k, v, there = (_with_block_before(x, size) for x in (k, v, there))
    distance = ops.expand_dims(
        ops.arange(size, size + block, dtype="int32"), 1
    ) - ops.arange(size + block, dtype="int32")  # (block, size + block)
    mask = ops.logical_and(distance >= 0, distance < size)
    mask = ops.logical_and(mask, there[:, None, None])
    y = _dot_product_attention(q, k, v, mask)
    return ops.reshape(y, (batch, -1, *q.shape[2:]))[:, :length]


def _with_block_before(x, size):
    """Blocks, each behind the one before it, `(b * n, 2 * size, ...)`.

    Args:
        x: `n + 1` blocks, `(b, (n + 1) * size, ...)`.
        size: Of a block.
    """
    blocks = ops.reshape(x, (ops.shape(x)[0], -1, size, *x.shape[2:]))
    pairs = ops.concatenate([blocks[:, :-1], blocks[:, 1:]], axis=2)
    return ops.reshape(pairs, (-1, 2 * size, *x.shape[2:]))


def _extended(x, count, before=False):
    """`x` with `count` steps of zeros behind it, or before."""
    dtype = keras.backend.standardize_dtype(x.dtype)
    zeros = ops.zeros((ops.shape(x)[0], count, *x.shape[2:]), dtype)
    return ops.concatenate([zeros, x] if before else [x, zeros], axis=1)


def attend_to_one_query(q, k, v, mask):
    """Attends with a single query `(b, 1, h, p)`, without copies of keys."""
    heads, groups = q.shape[2], k.shape[2]
    # Heads that share keys are to them what steps are.
    q = ops.reshape(q, (-1, groups, heads // groups, q.shape[-1]))
    y = _dot_product_attention(ops.swapaxes(q, 1, 2), k, v, mask)
    return ops.reshape(ops.swapaxes(y, 1, 2), (-1, 1, heads, y.shape[-1]))


def _dot_product_attention(q, k, v, mask=None):
    """Attends to what the mask says; without one, to the past."""
    backend, dtype = keras.config.backend(), q.dtype
    shared = q.shape[2] // k.shape[2]
    # JAX knows groups of any size, the others only some of them.
    if shared > 1 and backend != "jax":
        k, v = (ops.repeat(x, shared, axis=2) for x in (k, v))
    if keras.backend.standardize_dtype(dtype) in WIDENED.get(backend, ()):
        q, k, v = (ops.cast(x, "float32") for x in (q, k, v))
    # PyTorch chooses its kernel itself, and asking it would stop its compiler.
    # On a TPU, Keras would take the mask of the first row for all.
    chooses = mask is None and backend != "torch"
    y = ops.dot_product_attention(
        q,
        k,
        v,
        mask=mask,
        is_causal=mask is None,
        flash_attention=None if chooses else False,
    )
    return ops.cast(y, dtype)
