"""ONNX: one function in a file, for onnxruntime and others."""

import numpy as np

from keras_ssm.layers import Attention
from keras_ssm.serving.formats import packages, single

IMPLEMENTATION = "portable"
FORMAT = "onnx"
OPSET = 17


def check(path, endpoints, layers):
    """Raises unless such a file can be written here."""
    single.check(FORMAT, ".onnx", path, endpoints, layers)
    for layer in layers:
        attention = isinstance(single.mixer_of(layer), Attention)
        if attention and endpoints != ("step",):
            reason = "tf2onnx gives blocks of its sequences wrong shapes"
            raise single.refusal(layer, FORMAT, reason)
    packages.check(FORMAT, "tf2onnx", "onnx", "onnxruntime")


def write(model, endpoints, path):
    """Converts the program of TensorFlow."""
    import tf2onnx

    (endpoint,) = endpoints
    function, specs = single.flat(endpoint)
    tf2onnx.convert.from_function(
        function,
        specs,
        opset=OPSET,
        custom_op_handlers={"Erfc": (_erfc, []), "Expm1": (_expm1, [])},
        output_path=str(path),
    )


def _expm1(graph, node, name, arguments):
    """`expm1(x) = 2 tanh(x/2) / (1 - tanh(x/2))`, exact near 0."""
    (x,) = node.input
    half, one = _constants(graph, name, 0.5, 1.0)
    tanh = _make(graph, "Tanh", _make(graph, "Mul", x, half))
    rest = _make(graph, "Sub", one, tanh)
    _put(graph, node, "Div", _make(graph, "Add", tanh, tanh), rest)


def _erfc(graph, node, name, arguments):
    """`erfc(x) = 1 - erf(x)`, as in the GELU of Keras."""
    (x,) = node.input
    (one,) = _constants(graph, name, 1.0)
    _put(graph, node, "Sub", one, _make(graph, "Erf", x))


def _constants(graph, name, *values):
    return [
        graph.make_const(f"{name}_{value}", np.float32(value)).output[0]
        for value in values
    ]


def _make(graph, operation, *inputs):
    return graph.make_node(operation, list(inputs)).output[0]


def _put(graph, node, operation, *inputs):
    """Puts an operation where one is that ONNX does not have."""
    (output,) = node.output
    dtype, shape = graph.get_dtype(output), graph.get_shape(output)
    graph.remove_node(node.name)
    graph.make_node(
        operation,
        list(inputs),
        outputs=[output],
        name=node.name,
        dtypes=[dtype],
        shapes=[shape],
    )


def load(path, endpoints):
    """The function of a file in onnxruntime."""
    import onnxruntime

    (endpoint,) = endpoints
    session = onnxruntime.InferenceSession(
        str(path), providers=["CPUExecutionProvider"]
    )
    names = [output.name for output in session.get_outputs()]

    def function(*arguments):
        results = session.run(None, single.feed(endpoint, arguments))
        by_name = dict(zip(names, results, strict=True))
        return single.results_of(endpoint, by_name)

    return {endpoint.name: function}
