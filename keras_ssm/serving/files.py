"""Files and folders that appear whole or not at all."""

import contextlib
import os
import pathlib
import shutil
import tempfile


def check_target(path: pathlib.Path) -> None:
    """Raises a `ValueError` if `path` is something that must not be replaced.

    Raises:
        ValueError: If it is a folder that is no SavedModel, or lies in a
            folder that does not exist.
    """
    if path.is_dir() and any(path.iterdir()):
        if not (path / "saved_model.pb").is_file():
            raise ValueError(
                "`export`: `path` must be new, a file, an empty folder or an "
                f"older SavedModel, which is replaced. Received: path={path}, "
                "a folder that holds something else."
            )
    if not path.parent.is_dir():
        raise ValueError(
            "`export`: `path` must lie in a folder that exists. "
            f"Received: path={path}."
        )


@contextlib.contextmanager
def written_whole(path: pathlib.Path):
    """Yields a folder whose contents move beside `path` if all goes well.

    Whoever reads `path` finds the old file or the new one, never half of it.
    What is left of a failure is removed.
    """
    folder = pathlib.Path(
        tempfile.mkdtemp(prefix=".exporting-", dir=path.parent)
    )
    try:
        new = folder / "new"
        new.mkdir()
        yield new
        for entry in sorted(new.iterdir()):
            _replace(entry, path.parent / entry.name, folder / "old")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _replace(entry, target, attic):
    # A folder that is not empty cannot be replaced, only moved away.
    if target.is_dir():
        os.replace(target, attic)
    try:
        os.replace(entry, target)
    except OSError:
        if attic.exists():
            os.replace(attic, target)
        raise
