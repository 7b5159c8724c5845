"""`keras_ssm.export` gives what TensorFlow alone serves, whole and streamed."""

import importlib.util
import pathlib

import keras
import numpy as np
import pytest
from compare import as_array
from harness import BACKEND
from serving_harness import (
    assert_equal_outputs,
    classifier,
    consume,
    convolutions,
    forecaster,
    joined,
    padded_tokens,
    random_cuts,
    run_saved_model_cli,
    tagger,
    whole,
)

import keras_ssm
from keras_ssm.layers import MambaBlock
from keras_ssm.serving import writing
from keras_ssm.serving.files import written_whole

if BACKEND == "numpy":
    pytest.skip("Keras saves no model of numpy", allow_module_level=True)
if importlib.util.find_spec("tensorflow") is None:
    pytest.skip("files are written by tensorflow", allow_module_level=True)

ENDPOINTS = ("serve", "init", "step", "steps")
SIZES = [(1, 1), (3, 7), (2, 64), (2, 1000)]
STREAM = padded_tokens(3, 30)


class Served:
    """A model exported with a stream, and what an outsider makes of it."""

    def __init__(self, model, folder, chunkings):
        self.model = model
        self.inputs = [padded_tokens(*size) for size in SIZES]
        self.cuts = [
            random_cuts(STREAM.shape[1], seed) for seed in range(chunkings)
        ]
        self.path = path = folder / "model"
        keras_ssm.export(model, path, endpoints=ENDPOINTS)
        assert [entry.name for entry in folder.iterdir()] == ["model"]
        requests = [("serve", (x,)) for x in self.inputs]
        requests += [("stream", (STREAM, cuts)) for cuts in self.cuts]
        self.results = consume(path, folder, requests)


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    keras.utils.set_random_seed(0)
    # The other backends hand the model to TensorFlow, which takes time enough.
    model = tagger() if BACKEND == "tensorflow" else classifier()
    return Served(model, tmp_path_factory.mktemp("served"), chunkings=24)


@pytest.mark.parametrize("index", range(len(SIZES)))
def test_served_outputs_are_those_of_the_model(served, index):
    expected = whole(served.model, served.inputs[index])
    assert_equal_outputs(served.results[index], expected)


def test_streams_in_any_pieces_equal_the_whole(served):
    expected = whole(served.model, STREAM)
    assert np.abs(expected[0][0] - expected[0][1]).max() > 1e-3
    assert min(map(len, served.cuts)) < 6 < 24 < max(map(len, served.cuts))
    results = served.results[len(SIZES) :]
    for cuts, found in zip(served.cuts, results, strict=True):
        assert_equal_outputs(joined(found, expected, cuts), expected)


@pytest.mark.skipif(BACKEND != "tensorflow", reason="it writes for all")
def test_signatures_are_served_by_tensorflow_from_the_command_line(
    served, tmp_path
):
    x, stream = served.inputs[1], keras_ssm.Stream(served.model)
    without = ("keras", "keras_ssm", "jax", "torch")
    found = run_saved_model_cli(
        served.path, "serving_default", {"tokens": x}, tmp_path, without
    )
    expected = whole(served.model, x)
    found = [found[name] for name in sorted(found)]
    assert_equal_outputs(found, expected)
    state = stream.get_initial_state(len(x))
    inputs = {name: as_array(v) for name, v in state.items()}
    inputs["tokens"] = x[:, 0]
    folder = tmp_path / "with the library"
    folder.mkdir()
    found = run_saved_model_cli(served.path, "step", inputs, folder)
    assert set(found) == {"outputs_0", "outputs_1", *stream.state_shapes}
    assert_equal_outputs([found["outputs_0"]], [expected[0][:, 0]])


@pytest.mark.slow
def test_ten_thousand_streams_equal_the_whole(tmp_path):
    served = Served(tagger(), tmp_path, chunkings=10_000)
    test_streams_in_any_pieces_equal_the_whole(served)


@pytest.mark.slow
@pytest.mark.skipif(BACKEND == "tensorflow", reason="not only the slow tests")
def test_every_recurrence_is_served_and_streamed(tmp_path):
    served = Served(tagger(), tmp_path, chunkings=24)
    for index in range(len(SIZES)):
        test_served_outputs_are_those_of_the_model(served, index)
    test_streams_in_any_pieces_equal_the_whole(served)


@pytest.mark.slow
def test_convolutions_are_served_and_streamed(tmp_path):
    served = Served(convolutions(), tmp_path, chunkings=24)
    for index in range(len(SIZES)):
        test_served_outputs_are_those_of_the_model(served, index)
    test_streams_in_any_pieces_equal_the_whole(served)


@pytest.mark.skipif(BACKEND != "tensorflow", reason="it writes for all")
def test_endpoints_are_compiled_by_xla_if_asked(tmp_path):
    keras.utils.set_random_seed(0)
    model, tokens = classifier(), padded_tokens(3, 9)
    path = tmp_path / "model"
    keras_ssm.export(
        model, path, endpoints=("serve", "init", "step"), jit_compile=True
    )
    assert b"_XlaMustCompile" in (path / "saved_model.pb").read_bytes()
    (found,) = consume(path, tmp_path, [("serve", (tokens,))])
    assert_equal_outputs(found, whole(model, tokens))


@pytest.mark.slow
def test_a_mask_is_an_input_where_the_model_has_one(tmp_path):
    model = forecaster()
    keras_ssm.export(model, tmp_path / "model", endpoints=ENDPOINTS)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(3, 9, 3)).astype("float32")
    x = {"x": x, "mask": padded_tokens(3, 9) > 0}
    (found,) = consume(tmp_path / "model", tmp_path, [("serve", (x,))])
    assert_equal_outputs(found, whole(model, x))


@pytest.mark.skipif(BACKEND == "tensorflow", reason="it needs no other process")
def test_a_layer_of_the_running_script_is_refused(tmp_path):
    layer = type("Mine", (keras.layers.Identity,), {"__module__": "__main__"})
    model = keras.Sequential([keras.Input((None, 6)), layer(name="mine")])
    with pytest.raises(NotImplementedError, match="The Mine 'mine'.* module"):
        keras_ssm.export(model, tmp_path / "model")
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(BACKEND != "torch", reason="the same on other backends")
def test_what_fails_in_the_other_process_is_an_error_of_this_one(
    tmp_path, monkeypatch
):
    run = writing.run
    monkeypatch.setattr(
        writing, "run", lambda *inputs: [1 + y for y in run(*inputs)]
    )
    model = keras.Sequential([keras.Input((None, 6)), keras.layers.Dense(2)])
    with pytest.raises(RuntimeError, match="'serve' of the file differs"):
        keras_ssm.export(model, tmp_path / "model")
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(BACKEND != "tensorflow", reason="where it is quick")
@pytest.mark.parametrize("endpoint", ["serve", "step", "steps"])
def test_a_wrong_file_is_noticed_and_nothing_is_left(
    endpoint, tmp_path, monkeypatch
):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "saved_model.pb").write_text("older")
    run = writing.run
    monkeypatch.setattr(
        writing, "run", lambda *inputs: [1.001 * y for y in run(*inputs)]
    )
    model = keras.Sequential([keras.Input((None, 6)), keras.layers.Dense(2)])
    with pytest.raises(RuntimeError, match=f"'{endpoint}' of the file differs"):
        keras_ssm.export(model, tmp_path / "model", endpoints=endpoint)
    assert [entry.name for entry in tmp_path.iterdir()] == ["model"]
    assert (tmp_path / "model" / "saved_model.pb").read_text() == "older"


def test_files_appear_whole_or_not_at_all(tmp_path):
    path = tmp_path / "model"
    for content in ("first", "second"):
        with written_whole(path) as folder:
            (folder / "model").mkdir()
            (folder / "model" / "saved_model.pb").write_text(content)
            (folder / "model.txt").write_text(content)
        assert (path / "saved_model.pb").read_text() == content
        assert (tmp_path / "model.txt").read_text() == content
    with pytest.raises(KeyError), written_whole(path) as folder:
        (folder / "model.txt").write_text("third")
        raise KeyError
    assert (tmp_path / "model.txt").read_text() == "second"
    assert len(list(tmp_path.iterdir())) == 2


def block(**options):
    return keras.Sequential(
        [keras.Input((None, 6), batch_size=2), MambaBlock(**options)]
    )


@pytest.mark.parametrize(
    ("error", "words", "arguments"),
    [
        (ValueError, "`format` must be one of", {"format": "pickle"}),
        (ValueError, "`endpoints` must be some of", {"endpoints": ("go",)}),
        (ValueError, "`endpoints` must be some of", {"endpoints": ()}),
        (
            ValueError,
            "`jit_compile=True` is for",
            {"path": "model.onnx", "format": "onnx", "jit_compile": True},
        ),
        (ValueError, "a folder that holds something else", {"path": "."}),
        (ValueError, "a folder that exists", {"path": "there/model"}),
        (ValueError, "known inputs", {"model": MambaBlock()}),
        (NotImplementedError, "is stateful", {"model": {"stateful": True}}),
        (
            NotImplementedError,
            "The MambaBlock .* cannot run as a stream",
            {"model": {"go_backwards": True}, "endpoints": "step"},
        ),
    ],
)
def test_what_cannot_be_exported_is_refused_at_once(
    error, words, arguments, tmp_path
):
    (tmp_path / "notes.txt").write_text("")
    model = arguments.pop("model", {})
    model = block(**model) if isinstance(model, dict) else model
    path = tmp_path / arguments.pop("path", "model")
    with pytest.raises(error, match=words):
        keras_ssm.export(model, path, **arguments)
    assert [entry.name for entry in tmp_path.iterdir()] == ["notes.txt"]


def test_consumers_do_not_know_this_library():
    source = pathlib.Path(consume.__globals__["CONSUMER"]).read_text()
    assert '"keras_ssm"' in source and "sys.modules[name] = None" in source
