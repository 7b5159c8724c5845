"""ONNX, LiteRT and OpenVINO: right, or refused with a sentence."""

import functools
import importlib.util
import pathlib
import re

import keras
import numpy as np
import pytest
from harness import BACKEND
from serving_harness import (
    TOKENS,
    assert_equal_outputs,
    causal_lm,
    classifier,
    padded_tokens,
    randomized,
    text_classifier,
    whole,
)

import keras_ssm
from keras_ssm import layers
from keras_ssm.serving.formats import FORMATS

if BACKEND == "numpy":
    pytest.skip("Keras saves no model of numpy", allow_module_level=True)
PACKAGES = (
    "tensorflow",
    "tf2onnx",
    "onnxruntime",
    "ai_edge_litert",
    "openvino",
)
for package in PACKAGES:
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not there", allow_module_level=True)

GUIDE = pathlib.Path(__file__).parents[2] / "docs/guides/export.md"
SUFFIXES = {"onnx": ".onnx", "litert": ".tflite", "openvino": ".xml"}
BLOCKS = {
    "Mamba": lambda: layers.MambaBlock(state_dim=4),
    "Mamba2": lambda: layers.Mamba2Block(state_dim=4, head_dim=4),
    "Mamba3": lambda: layers.Mamba3Block(state_dim=4, head_dim=4, rank=2),
    "S4D": lambda: layers.S4DBlock(state_dim=4),
    "S4": lambda: layers.S4Block(state_dim=4),
    "S5": lambda: layers.S5Block(state_dim=4, blocks=2),
    "LRU": lambda: layers.LRUBlock(state_dim=4),
    "RGLRU": lambda: layers.RGLRUBlock(),
    "Griffin": lambda: layers.GriffinBlock(),
    "Attention": lambda: layers.HybridBlock(
        layers.Attention(2, window=4, rotary_base=100.0), layers.GatedMLP(8)
    ),
}


def tagger(make_block):
    """A model around a block."""
    return randomized(
        keras.Sequential(
            [
                keras.Input((None,), dtype="int32"),
                keras.layers.Embedding(TOKENS, 8, mask_zero=True),
                make_block(),
                keras.layers.LayerNormalization(epsilon=1e-5),
                keras.layers.Dense(3),
            ]
        )
    )


# The columns of the guide's table.
MAKE = {
    **{name: functools.partial(tagger, make) for name, make in BLOCKS.items()},
    "CausalLM": lambda: causal_lm(["mamba", "attention"]),
    "TextClassifier": lambda: text_classifier(["mamba", "mamba2"]),
}
# The process that writes is the same for all backends.
ELSEWHERE = () if BACKEND == "tensorflow" else pytest.mark.slow


def run_onnx(path, inputs):
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path))
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(None, inputs), strict=True))


def run_litert(path, inputs):
    from ai_edge_litert.interpreter import Interpreter

    return Interpreter(str(path)).get_signature_runner()(**inputs)


def run_openvino(path, inputs):
    import openvino

    float32 = {"INFERENCE_PRECISION_HINT": "f32"}
    model = openvino.Core().compile_model(str(path), "CPU", float32)
    results = model(inputs)
    return {output.any_name: results[output] for output in model.outputs}


RUN = {"onnx": run_onnx, "litert": run_litert, "openvino": run_openvino}


@pytest.mark.parametrize(
    "format",
    [
        "onnx",
        pytest.param("litert", marks=ELSEWHERE),
        pytest.param("openvino", marks=ELSEWHERE),
    ],
)
def test_a_file_gives_what_the_model_gives(format, tmp_path):
    keras.utils.set_random_seed(0)
    model, path = classifier(), tmp_path / f"model{SUFFIXES[format]}"
    keras_ssm.export(model, path, format=format)
    kept = {"model.xml", "model.bin"} if format == "openvino" else {path.name}
    assert {entry.name for entry in tmp_path.iterdir()} == kept
    for size in [(1, 1), (3, 7), (2, 64), (2, 1000)]:
        tokens = padded_tokens(*size)
        found = RUN[format](path, {"tokens": tokens}).values()
        assert_equal_outputs(list(found), whole(model, tokens))


@pytest.mark.parametrize(
    "format",
    [
        pytest.param("onnx", marks=ELSEWHERE),
        pytest.param("litert", marks=pytest.mark.slow),
        pytest.param("openvino", marks=pytest.mark.slow),
    ],
)
def test_a_stream_of_a_file_begins_with_zeros_and_equals_the_whole(
    format, tmp_path
):
    keras.utils.set_random_seed(0)
    model, path = classifier(), tmp_path / f"model{SUFFIXES[format]}"
    keras_ssm.export(model, path, format=format, endpoints="step")
    tokens = padded_tokens(3, 12)
    state = {
        name: np.zeros((3, *shape), dtype)
        for name, (shape, dtype) in keras_ssm.Stream(model).state_shapes.items()
    }
    for t in range(tokens.shape[1]):
        results = RUN[format](path, {"tokens": tokens[:, t], **state})
        state = {name: results[f"next_{name}"] for name in state}
    assert_equal_outputs([results["outputs"]], whole(model, tokens))


def table():
    """Format, endpoint, layer and content of every cell of the guide."""
    rows = re.findall(
        r"^\| `(\w+)`, `(\w+)` \|(.*)\|$", GUIDE.read_text(), re.M
    )
    return [
        (format, endpoint, layer, cell.strip())
        for format, endpoint, cells in rows
        for layer, cell in zip(MAKE, cells.split("|"), strict=True)
    ]


def test_the_table_of_the_guide_has_every_cell():
    cells = {cell[:3] for cell in table()}
    assert len(cells) == len(FORMATS) * 3 * len(MAKE) == len(table())
    assert {cell[3] for cell in table()} == {"yes", "refused"}


def refused():
    return [cell[:3] for cell in table() if cell[3] == "refused"]


@pytest.mark.parametrize(("format", "endpoint", "layer"), refused())
def test_what_the_table_refuses_is_refused_at_once(
    format, endpoint, layer, tmp_path
):
    path = tmp_path / f"model{SUFFIXES[format]}"
    block = type(BLOCKS.get(layer, BLOCKS["Attention"])()).__name__
    with pytest.raises(NotImplementedError) as raised:
        keras_ssm.export(MAKE[layer](), path, format=format, endpoints=endpoint)
    assert f"The {block} '" in str(raised.value)
    assert 'Use the format "tf_saved_model"' in str(raised.value)
    assert not list(tmp_path.iterdir())


def test_a_mixer_in_a_block_is_refused_as_the_block(tmp_path):
    model = tagger(lambda: layers.HybridBlock(layers.S4(state_dim=4)))
    for format, endpoint in [("onnx", "serve"), ("openvino", "step")]:
        path = tmp_path / f"model{SUFFIXES[format]}"
        with pytest.raises(NotImplementedError, match="The HybridBlock 'hy"):
            keras_ssm.export(model, path, format=format, endpoints=endpoint)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("format", "endpoint", "layer"),
    [cell[:3] for cell in table() if cell[3] == "yes"],
)
def test_what_the_table_has_is_written_and_equals_the_model(
    format, endpoint, layer, tmp_path
):
    path = tmp_path / f"model{SUFFIXES.get(format, '')}"
    keras_ssm.export(MAKE[layer](), path, format=format, endpoints=endpoint)
    assert path.exists()


@pytest.mark.parametrize(
    ("words", "path", "format", "endpoints"),
    [
        ("ends with '.onnx'", "model", "onnx", "serve"),
        ("ends with '.tflite'", "model.onnx", "litert", "serve"),
        ("ends with '.xml'", "model", "openvino", "serve"),
        ("holds one function", "model.onnx", "onnx", ("serve", "step")),
        ("holds one function", "model.tflite", "litert", "init"),
    ],
)
def test_what_a_file_cannot_be_is_a_value_error(
    words, path, format, endpoints, tmp_path
):
    with pytest.raises(ValueError, match=words):
        keras_ssm.export(
            classifier(), tmp_path / path, format=format, endpoints=endpoints
        )


def test_a_package_that_is_not_there_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"\['openvino'\]"):
        keras_ssm.export(classifier(), tmp_path / "m.xml", format="openvino")
