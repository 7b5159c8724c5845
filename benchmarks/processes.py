"""The environment of a process that measures or checks one backend."""

import os
import pathlib

ROOT = pathlib.Path(__file__).resolve().parent.parent


def environment(backend: str, **variables: str) -> dict[str, str]:
    """Variables for a process.

    Args:
        backend: The Keras backend.
        **variables: Others, in place of those here.
    """
    path = [str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")]
    return {
        # Two frameworks may share a GPU.
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
        "TF_CPP_MIN_LOG_LEVEL": "2",
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, path)),
        "KERAS_BACKEND": backend,
        **variables,
    }
