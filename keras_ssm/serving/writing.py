"""Writes an exported file on the TensorFlow backend, and tries it."""

import keras
import numpy as np

from keras_ssm.ops import use_implementation
from keras_ssm.serving import texts
from keras_ssm.serving.endpoints import make_endpoints
from keras_ssm.serving.formats import FORMATS, saved_model, single
from keras_ssm.serving.samples import all_layers
from keras_ssm.serving.signature import flat_inputs, inputs_of, is_sequence
from keras_ssm.serving.stream import Stream


def write(model, path, format, names, samples, jit_compile=False) -> None:
    """Writes a model to `path`, where nothing is yet.

    Args:
        model: The model, on the TensorFlow backend.
        path: Where to.
        format: One of `FORMATS`.
        names: Names of the endpoints.
        samples: Pairs of flat inputs and outputs that the file is tried on.
        jit_compile: Whether XLA compiles the endpoints of a SavedModel.

    Raises:
        NotImplementedError: If the format cannot hold the model.
        RuntimeError: If the file gives something else than the model.
    """
    compiled = {"wrap": saved_model.compiled} if jit_compile else {}
    endpoints = make_endpoints(model, names, **compiled)
    try:
        with use_implementation(FORMATS[format].IMPLEMENTATION):
            FORMATS[format].write(model, endpoints, path)
        served = FORMATS[format].load(path, endpoints)
        _try(model, served, samples)
    except (NotImplementedError, Difference):
        raise
    except Exception as error:
        if format == "tf_saved_model":
            raise
        # Converters and runtimes have errors of all kinds.
        raise NotImplementedError(
            f"One of the layers {_names(model)} cannot be written in the "
            f"format {format!r}. {single.INSTEAD} The reason: {error}"
        ) from error


def _try(model, served, samples):
    for inputs, expected in samples:
        trial = _Trial(model, served, inputs, expected)
        for name in served:
            trial(name)


def run(model, inputs) -> list:
    """The flat outputs of a model for flat inputs, as arrays."""
    x = keras.tree.pack_sequence_as(inputs_of(model), inputs)
    return as_arrays(model.predict_on_batch(x))


def as_arrays(outputs) -> list:
    """Tensors of any framework as flat arrays, half precision as float32."""
    return [
        _as_array(tensor).astype("float32", copy=False)
        for tensor in keras.tree.flatten(outputs)
    ]


def _as_array(tensor):
    if keras.ops.is_tensor(tensor):
        return keras.ops.convert_to_numpy(tensor)
    return np.asarray(tensor)


class Difference(RuntimeError):
    """A file gives something else than the model."""


class _Trial:
    """An exported file on one sample.

    Args:
        model: The model that was exported.
        served: The endpoints of the file, by name.
        inputs: Flat inputs.
        expected: The flat outputs of the model.
    """

    def __init__(self, model, served, inputs, expected):
        self.model, self.served = model, served
        self.inputs, self.expected = inputs, expected
        self.sequences = [is_sequence(v) for v in flat_inputs(model)]

    def __call__(self, name):
        if name.startswith("serve"):
            y = self.served[name](self._argument(name, self.inputs))
            self._compare(name, as_arrays(y))
        elif name == "step":
            pieces = [self._take(t) for t in range(self._length())]
            self._stream(name, pieces)
        elif name.startswith("steps"):
            length = self._length()
            cuts = sorted({0, length // 3, length // 3 + 1, length})
            pieces = [
                self._take(slice(*piece))
                for piece in zip(cuts, cuts[1:], strict=False)
            ]
            self._stream(name, pieces)

    def _stream(self, name, pieces):
        stream = Stream(self.model)
        rows = len(self.inputs[0])
        if "init" in self.served:
            state = self.served["init"](np.int32(rows))
        else:
            state = {
                key: np.zeros((rows, *shape), dtype)
                for key, (shape, dtype) in stream.state_shapes.items()
            }
        found = []
        for piece in pieces:
            x = self._argument(name, piece)
            results = dict(self.served[name](x, state))
            state = {key: results.pop(key) for key in state}
            found.append(as_arrays(results))
        join = np.stack if name == "step" else np.concatenate
        outputs = [
            join(parts, axis=1) if sequence else parts[-1]
            for parts, sequence in zip(
                zip(*found, strict=True), stream.gives_sequences, strict=True
            )
        ]
        self._compare(name, outputs)

    def _compare(self, name, outputs):
        for y, expected in zip(outputs, self.expected, strict=True):
            scale = max(1.0, np.abs(expected).max())
            error = np.abs(y - expected).max() / scale
            # Not `>`: NaN is an error.
            if not error <= self._tolerance():
                raise Difference(
                    f"`export`: {name!r} of the file differs from the model by "
                    f"{error:.1e} of its largest output, so that nothing was "
                    f"written. The layers are {_names(self.model)}. "
                    f"{single.INSTEAD}"
                )

    def _tolerance(self):
        halves = ("float16", "bfloat16")
        dtypes = {layer.compute_dtype for layer in all_layers(self.model)}
        return 5e-2 if dtypes.intersection(halves) else 1e-4

    def _length(self):
        return max(
            v.shape[1]
            for v, sequence in zip(self.inputs, self.sequences, strict=True)
            if sequence
        )

    def _take(self, steps):
        return [
            v[:, steps] if sequence else v
            for v, sequence in zip(self.inputs, self.sequences, strict=True)
        ]

    def _argument(self, name, values):
        """What an endpoint takes, from flat inputs."""
        if name in texts.ENDPOINTS:
            padding = texts.padding_of(all_layers(self.model))
            return texts.as_texts(self.model, padding, values)
        return keras.tree.pack_sequence_as(inputs_of(self.model), values)


def _names(model):
    return ", ".join(
        f"{type(layer).__name__} {layer.name!r}" for layer in model.layers
    )
