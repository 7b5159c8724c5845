"""OpenVINO: one function in a file `.xml`, with its weights in `.bin`."""

import tempfile

from keras_ssm.layers import S4
from keras_ssm.serving.formats import packages, saved_model, single

IMPLEMENTATION = "portable"
FORMAT = "openvino"


def check(path, endpoints, layers):
    """Raises unless such a file can be written here."""
    single.check(FORMAT, ".xml", path, endpoints, layers)
    for layer in layers:
        if isinstance(single.mixer_of(layer), S4):
            raise single.refusal(
                layer, FORMAT, "a step of it needs diagonal matrices"
            )
    packages.check(FORMAT, "openvino")


def write(model, endpoints, path):
    """Converts a SavedModel, with float32 weights."""
    import openvino

    (endpoint,) = endpoints
    with tempfile.TemporaryDirectory() as folder:
        saved_model.write(model, [single.renamed(endpoint)], folder)
        converted = openvino.convert_model(folder)
        openvino.save_model(converted, str(path), compress_to_fp16=False)


def load(path, endpoints):
    """The function of a file in OpenVINO's runtime, computed in float32."""
    import openvino

    (endpoint,) = endpoints
    # By itself it may compute in bfloat16.
    compiled = openvino.Core().compile_model(
        str(path), "CPU", {"INFERENCE_PRECISION_HINT": "f32"}
    )

    def function(*arguments):
        results = compiled(single.feed(endpoint, arguments))
        by_name = {v.any_name: results[v] for v in compiled.outputs}
        return single.results_of(endpoint, by_name)

    return {endpoint.name: function}
