"""Writes a model into a file that runs without this library."""

import json
import os
import pathlib
import subprocess
import sys
import tempfile

import keras
import numpy as np

from keras_ssm.layers.sequence_layer import SequenceLayer
from keras_ssm.serving import texts, writing
from keras_ssm.serving.endpoints import needs_stream
from keras_ssm.serving.files import check_target, written_whole
from keras_ssm.serving.formats import FORMATS
from keras_ssm.serving.samples import LENGTHS, all_layers, sample_inputs
from keras_ssm.serving.signature import check_model, flat_inputs, is_sequence
from keras_ssm.serving.stream import Stream

ENDPOINTS = ("serve", "init", "step", "steps", *texts.ENDPOINTS)


def export(
    model: keras.Model,
    path: str | os.PathLike,
    format: str = "tf_saved_model",
    endpoints: str | tuple[str, ...] = "serve",
    jit_compile: bool = False,
) -> None:
    """Writes a model into a file that runs without Keras and this library.

    On every backend the program in the file is the same, made by TensorFlow,
    which must be installed: on JAX and PyTorch, a process of its own loads the
    model and writes it. Before anything appears at `path`, the file is loaded
    again and compared with the model on sequences of several lengths, padded
    ones among them.

    The endpoints, in the shapes of a model of one input and one output:

    - `serve(x) -> y`: a whole sequence. The batch and the length are unknown
      where they are in the model.
    - `init(batch_size) -> state`: the state of a stream before its first step,
      a dictionary of tensors called `state_0`, `state_1`, ...
    - `step(x, state) -> {"outputs": y, **state}`: one step, `x` without the
      axis of time.
    - `steps(x, state) -> {"outputs": y, **state}`: several steps.
    - `serve_text(text) -> y`, `steps_text(text, state)`: the same as `serve`
      and `steps` for strings, `(b,)`, of a model whose tokens are bytes. Rows
      end where their strings do: behind them is padding. A model without
      padding takes strings of equal lengths.

    See `Stream` for what a stream computes. A SavedModel has any of them,
    a file of another format exactly one function, `serve`, `step` or `steps`,
    with flat inputs and outputs in this order; its stream begins with zeros.

    Args:
        model: A `keras.Sequential` or functional model.
        path: Of the file; of the folder for a SavedModel. An older file or
            SavedModel is replaced.
        format: `"tf_saved_model"`, `"onnx"`, `"litert"` or `"openvino"`. See
            the guide, `docs/guides/export.md`, for what each can hold.
        endpoints: Names of endpoints, or one.
        jit_compile: Whether XLA compiles the endpoints of a SavedModel where
            it is served: several times faster, but the first call with each
            batch size and length takes seconds.

    Raises:
        ValueError: If an argument is out of its range.
        NotImplementedError: If the model cannot be written in this format or
            run as a stream. The message names a layer and what to use
            instead. Nothing is written.
        RuntimeError: If the file would not give what the model gives. Nothing
            is written.

    Example:

    ```python
    model = keras.Sequential(
        [
            keras.Input((None,), dtype="int32", name="tokens"),
            keras.layers.Embedding(256, 16, mask_zero=True),
            keras_ssm.layers.MambaBlock(),
            keras.layers.Dense(2, activation="softmax"),
        ]
    )
    keras_ssm.export(model, "served", endpoints=("serve", "init", "step"))

    import tensorflow as tf  # anywhere else

    served = tf.saved_model.load("served")
    y = served.serve([[104, 101, 121]])
    state = served.init(1)
    for token in [104, 101, 121]:
        state = served.step([token], state)
        y = state.pop("outputs")
    ```
    """
    path = pathlib.Path(path).absolute()
    endpoints = (endpoints,) if isinstance(endpoints, str) else tuple(endpoints)
    _check(model, path, format, endpoints)
    if jit_compile and format != "tf_saved_model":
        raise ValueError(
            "`export`: `jit_compile=True` is for the format "
            f'"tf_saved_model". Received: format={format!r}.'
        )
    samples = _samples(model)
    with written_whole(path) as folder:
        new = folder / path.name
        if keras.config.backend() == "tensorflow":
            writing.write(model, new, format, endpoints, samples, jit_compile)
        else:
            _write_in_child(model, new, format, endpoints, samples, jit_compile)


def _check(model, path, format, endpoints):
    if format not in FORMATS:
        raise ValueError(
            f"`export`: `format` must be one of {list(FORMATS)}. "
            f"Received: format={format!r}."
        )
    if not endpoints or not set(endpoints) <= set(ENDPOINTS):
        raise ValueError(
            f"`export`: `endpoints` must be some of {list(ENDPOINTS)}. "
            f"Received: endpoints={endpoints}."
        )
    check_model(model)
    check_target(path)
    FORMATS[format].check(path, endpoints, all_layers(model))
    for layer in all_layers(model):
        if isinstance(layer, SequenceLayer) and layer.stateful:
            raise NotImplementedError(
                f"The {type(layer).__name__} {layer.name!r} is stateful: it "
                "keeps its state to itself, which a file cannot. Set "
                '`stateful=False`, and export `endpoints=("init", "step")`, '
                "which hand the state over."
            )
    if needs_stream(endpoints):
        Stream(model)
    if set(endpoints) & set(texts.ENDPOINTS):
        texts.check_texts(model, all_layers(model))
    if keras.config.backend() != "tensorflow":
        _check_importable(model)


def _check_importable(model):
    for layer in all_layers(model):
        if type(layer).__module__ == "__main__":
            raise NotImplementedError(
                f"The {type(layer).__name__} {layer.name!r} is of a class in "
                "the script that runs, which the process that writes the file "
                "cannot import. Move the class into a module, or export on "
                "the TensorFlow backend."
            )


def _samples(model):
    """Pairs of flat inputs and flat outputs, to compare with."""
    lengths = LENGTHS
    if not any(is_sequence(tensor) for tensor in flat_inputs(model)):
        lengths = LENGTHS[:1]
    return [
        (inputs, writing.run(model, inputs))
        for inputs in (sample_inputs(model, length) for length in lengths)
    ]


def _write_in_child(model, path, format, endpoints, samples, jit_compile):
    """Has the TensorFlow backend, in another process, write the model."""
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        model.save(folder / "model.keras")
        for index, (inputs, outputs) in enumerate(samples):
            np.savez(folder / f"inputs_{index}.npz", *inputs)
            np.savez(folder / f"outputs_{index}.npz", *outputs)
        request = {
            "path": str(path),
            "format": format,
            "endpoints": endpoints,
            "samples": len(samples),
            "jit_compile": jit_compile,
        }
        (folder / "request.json").write_text(json.dumps(request))
        done = subprocess.run(
            [sys.executable, "-c", _program(model), str(folder)],
            env={**os.environ, **_ENVIRONMENT, "PYTHONPATH": _search_path()},
            capture_output=True,
            text=True,
        )
        if done.returncode:
            raise _error(folder, done)


def _program(model):
    """The child's program. It imports the user's modules of layers, too."""
    modules = {type(layer).__module__ for layer in all_layers(model)}
    modules = sorted(
        module
        for module in modules
        if module.split(".")[0] not in ("keras", "keras_ssm", "__main__")
    )
    imports = "".join(f"import {name}\n" for name in modules)
    return f"import keras\n{imports}from keras_ssm.serving import child\n" + (
        "child.main()\n"
    )


def _search_path():
    return os.pathsep.join(entry or os.getcwd() for entry in sys.path)


def _error(folder, done):
    """What the child could not do, as an error of this process."""
    report = folder / "error.json"
    if not report.exists():
        return RuntimeError(
            "`export` writes with TensorFlow, which failed. Is it installed? "
            f"Its last words were: {done.stderr[-2000:]}"
        )
    report = json.loads(report.read_text())
    kinds = {kind.__name__: kind for kind in (NotImplementedError, ValueError)}
    return kinds.get(report["kind"], RuntimeError)(report["message"])


# A program for a CPU runs anywhere; and this process may hold the memory of
# the GPU.
_ENVIRONMENT = {
    "KERAS_BACKEND": "tensorflow",
    "CUDA_VISIBLE_DEVICES": "-1",
    "TF_CPP_MIN_LOG_LEVEL": "3",
}
