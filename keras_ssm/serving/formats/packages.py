"""Packages that write and run a format, and that a user may not have."""

import importlib.util


def check(format: str, *packages: str) -> None:
    """Raises an `ImportError` unless these packages are installed.

    Raises:
        ImportError: If one is not.
    """
    missing = [name for name in packages if not _there(name)]
    if missing:
        raise ImportError(
            f"`export`: the format {format!r} needs the packages {missing}: "
            "pip install keras-ssm[export]"
        )


def _there(name):
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:  # of the package around it
        return False
