"""LiteRT, once TensorFlow Lite: one function in a file, for small devices."""

import tempfile

from keras_ssm.serving.formats import packages, saved_model, single

IMPLEMENTATION = "portable"
FORMAT = "litert"


def check(path, endpoints, layers):
    """Raises unless such a file can be written here."""
    single.check(FORMAT, ".tflite", path, endpoints, layers)
    packages.check(FORMAT, "ai_edge_litert")


def write(model, endpoints, path):
    """Converts a SavedModel, to operations that every interpreter has."""
    import tensorflow as tf

    (endpoint,) = endpoints
    with tempfile.TemporaryDirectory() as folder:
        saved_model.write(model, [single.renamed(endpoint)], folder)
        converter = tf.lite.TFLiteConverter.from_saved_model(
            folder, signature_keys=[endpoint.name]
        )
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
        path.write_bytes(converter.convert())


def load(path, endpoints):
    """The function of a file in LiteRT's interpreter."""
    from ai_edge_litert.interpreter import Interpreter

    (endpoint,) = endpoints
    runner = Interpreter(str(path)).get_signature_runner(endpoint.name)

    def function(*arguments):
        results = runner(**single.feed(endpoint, arguments))
        return single.results_of(endpoint, results)

    return {endpoint.name: function}
