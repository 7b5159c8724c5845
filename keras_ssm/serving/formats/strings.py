"""Strings into tokens, by operations that a SavedModel holds."""


def decode(texts, padding):
    """The bytes of strings as tokens.

    Args:
        texts: Strings, `(b,)`.
        padding: The token behind the end of a string. `None` if there is none:
            then all strings have the same length, or the call fails.

    Returns:
        `(tokens, mask)`: int32 and boolean, `(b, l)`.
    """
    import tensorflow as tf

    lengths = tf.strings.length(texts)
    # A sequence of empty texts has one masked step.
    longest = tf.reduce_max(tf.concat([lengths, [1]], axis=0))
    mask = tf.sequence_mask(lengths, longest)
    if padding is None:
        tokens = tf.io.decode_raw(texts, tf.uint8)
        return tf.cast(tokens, tf.int32), mask
    tokens = tf.io.decode_raw(texts, tf.uint8, fixed_length=longest)
    return tf.where(mask, tf.cast(tokens, tf.int32), padding), mask
