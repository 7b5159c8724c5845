"""Images and labels in the IDX format of MNIST."""

import gzip
import math
import os

import numpy as np
from text.tables import InputError

NAMES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}


def read_folder(folder: str):
    """Returns `(images, labels)` for training and for testing.

    Args:
        folder: with the four files of MNIST, as they are or with `.gz`.

    Raises:
        InputError: if a file is missing or no IDX file of bytes.
    """
    return tuple(
        tuple(read(find(folder, name)) for name in NAMES[part])
        for part in ("train", "test")
    )


def find(folder: str, name: str) -> str:
    for ending in ("", ".gz"):
        path = os.path.join(folder, name + ending)
        if os.path.isfile(path):
            return path
    raise InputError(f"--data: there is no {name} or {name}.gz in {folder}.")


def read(path: str):
    """Returns the array of bytes in an IDX file."""
    opened = gzip.open if path.endswith(".gz") else open
    try:
        with opened(path, "rb") as file:
            content = file.read()
    except (OSError, EOFError) as error:
        raise InputError(f"{path} cannot be read: {error}.") from error
    rank = content[3] if len(content) > 3 else 0
    start = 4 + 4 * rank
    # 0, 0, the type (8 for bytes), the number of axes; then their lengths.
    if content[:3] != bytes((0, 0, 8)) or len(content) < start:
        raise InputError(f"{path} is no IDX file of bytes.")
    shape = tuple(np.frombuffer(content, ">i4", rank, offset=4).tolist())
    if len(content) - start != math.prod(shape):
        raise InputError(
            f"{path} should hold {math.prod(shape):,} bytes behind its header, "
            f"but holds {len(content) - start:,}."
        )
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)
