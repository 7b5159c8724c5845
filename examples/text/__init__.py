"""The parts of `text_classification.py`, in the order they are used.

`tables` reads and splits the rows, `vocabulary` turns texts into numbers,
`batches` groups them by length, `models` and `training` do the learning,
`baselines` is what a model has to beat, `report` writes the files.
"""

import importlib.util
import sys

NEEDED = ("keras", "keras_ssm", "matplotlib", "numpy", "pandas")


def missing_packages() -> list[str]:
    return [name for name in NEEDED if not importlib.util.find_spec(name)]


def leave_with(sentence: str):
    """Ends the program as argparse does: a sentence and exit code 2."""
    print(sentence, file=sys.stderr)
    raise SystemExit(2)


# Before the other modules, whose imports would fail with a traceback.
if missing_packages():
    leave_with(
        f"This example needs {', '.join(missing_packages())}: "
        "pip install keras-ssm[examples]"
    )
try:
    import keras  # noqa: F401 (loads the backend)
except ImportError as error:
    leave_with(
        f"Keras cannot load its backend: {error}. Install the backend, or "
        "choose another one with KERAS_BACKEND=jax, torch or tensorflow."
    )
