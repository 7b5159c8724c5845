"""Files that appear whole or not at all."""

import contextlib
import json
import os

import pandas as pd


@contextlib.contextmanager
def written_whole(path: str):
    """Yields a temporary name that becomes `path` if all goes well.

    Whoever reads `path` finds the old file or the new one, never half of it.
    """
    folder, name = os.path.split(os.path.abspath(path))
    temporary = os.path.join(folder, f".writing-{os.getpid()}-{name}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.remove(temporary)


def write_json(path: str, value):
    with written_whole(path) as temporary:
        with open(temporary, "w", encoding="utf-8") as file:
            json.dump(value, file, indent=1, ensure_ascii=False)


def write_submission(path: str, ids, label_column: str, labels):
    """Writes one predicted label per test row, in the order of the file."""
    name, values = ids
    table = pd.DataFrame({name: values, label_column: labels})
    compression = "gzip" if path.endswith(".gz") else None
    with written_whole(path) as temporary:
        table.to_csv(temporary, index=False, compression=compression)
