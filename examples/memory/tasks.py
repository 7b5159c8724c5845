"""Three tasks that show what a network can remember, drawn without end.

A task is a function of a random generator, the number of rows and sizes. It
returns `(tokens, targets, weights)`, `(count, l)` each: the weights are 1 where
a target is to be told, and 0 elsewhere.
"""

import numpy as np

# Of selective copying and of induction: numbers to remember, and one sign.
NUMBERS = 14
SIGN, NOISE = 14, 15
VOCABULARY = 16
# Of association: as many keys, and as many values behind them.
KEYS = 256
SIZES = {"copying": 16, "induction": 16, "association": 2 * KEYS}


def copying(random, count: int, length: int, numbers: int):
    """Selective copying: numbers in noise, to be repeated in their order.

    `length` steps hold so many numbers, anywhere; as many signs follow, and at
    each of them the next number is asked for.

    Reference:
        [Gu & Dao, 2023](https://arxiv.org/abs/2312.00752), section 4.1.1.
    """
    tokens = np.full((count, length + numbers), NOISE, "int32")
    tokens[:, length:] = SIGN
    drawn = random.integers(0, NUMBERS, (count, numbers))
    places = np.argsort(random.random((count, length)), axis=1)[:, :numbers]
    np.put_along_axis(tokens, np.sort(places, axis=1), drawn, axis=1)
    targets = np.zeros_like(tokens)
    targets[:, length:] = drawn
    return tokens, targets, asked(tokens, np.arange(length, length + numbers))


def induction(random, count: int, length: int):
    """Induction heads: what followed the sign when it was there before?

    The sign is somewhere among random numbers, and once more at the end.

    Reference:
        [Gu & Dao, 2023](https://arxiv.org/abs/2312.00752), section 4.1.2.
    """
    tokens = random.integers(0, NUMBERS, (count, length), dtype="int32")
    rows, places = np.arange(count), random.integers(0, length - 2, count)
    tokens[rows, places] = SIGN
    tokens[:, -1] = SIGN
    targets = np.zeros_like(tokens)
    targets[:, -1] = tokens[rows, places + 1]
    return tokens, targets, asked(tokens, [length - 1])


def association(random, count: int, pairs: int):
    """Multi-query associative recall: each key again, in another order.

    `pairs` keys, each with its value behind it, then every key once more; at
    each of these its value is asked for.

    Reference:
        [Arora et al., 2023](https://arxiv.org/abs/2312.04927), section 3.
    """
    keys = np.argsort(random.random((count, KEYS)), axis=1)[:, :pairs]
    values = random.integers(KEYS, 2 * KEYS, (count, pairs))
    order = np.argsort(random.random((count, pairs)), axis=1)
    told = np.stack([keys, values], axis=2).reshape(count, 2 * pairs)
    again = np.take_along_axis(keys, order, axis=1)
    tokens = np.concatenate([told, again], axis=1).astype("int32")
    targets = np.zeros_like(tokens)
    targets[:, 2 * pairs :] = np.take_along_axis(values, order, axis=1)
    return tokens, targets, asked(tokens, np.arange(2 * pairs, 3 * pairs))


def asked(tokens, steps):
    """1 at these steps of every row, 0 at all others."""
    weights = np.zeros(tokens.shape, "float32")
    weights[:, steps] = 1
    return weights
