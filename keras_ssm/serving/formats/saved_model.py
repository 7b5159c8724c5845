"""TensorFlow's SavedModel: a folder with any number of endpoints."""

import keras

IMPLEMENTATION = "xla"


def check(path, endpoints, layers):
    """Anything goes."""


def compiled(function):
    """A function that XLA compiles wherever it is called."""
    import tensorflow as tf

    return tf.function(function, jit_compile=True, autograph=False)


def write(model, endpoints, path):
    """Writes the endpoints, of which a server takes the first by default."""
    archive = keras.export.ExportArchive()
    archive.track(model)
    for endpoint in endpoints:
        archive.add_endpoint(
            endpoint.name, endpoint.function, endpoint.signature
        )
    archive.write_out(str(path), verbose=False)


def load(path, endpoints):
    """The endpoints of a SavedModel, as functions of its arguments."""
    import tensorflow as tf

    served = tf.saved_model.load(str(path))
    return {
        endpoint.name: _Function(served, endpoint.name)
        for endpoint in endpoints
    }


class _Function:
    """An endpoint, which would be gone without its SavedModel."""

    def __init__(self, served, name):
        self._served, self._name = served, name

    def __call__(self, *arguments):
        return getattr(self._served, self._name)(*arguments)
