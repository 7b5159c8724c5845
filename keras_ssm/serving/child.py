"""The process in which the TensorFlow backend writes a model.

It is called with a folder that `export` has filled.
"""

import json
import pathlib
import sys

import keras
import numpy as np

from keras_ssm.serving import writing


def main() -> None:
    """Writes the model, or what went wrong into `error.json`."""
    folder = pathlib.Path(sys.argv[1])
    request = json.loads((folder / "request.json").read_text())
    samples = [
        tuple(
            list(np.load(folder / f"{what}_{index}.npz").values())
            for what in ("inputs", "outputs")
        )
        for index in range(request["samples"])
    ]
    try:
        model = keras.saving.load_model(folder / "model.keras", compile=False)
        writing.write(
            model,
            pathlib.Path(request["path"]),
            request["format"],
            request["endpoints"],
            samples,
            request["jit_compile"],
        )
    except Exception as error:
        report = {"kind": type(error).__name__, "message": str(error)}
        (folder / "error.json").write_text(json.dumps(report))
        sys.exit(1)
