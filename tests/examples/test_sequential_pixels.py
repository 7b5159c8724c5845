"""The example reads IDX files, learns, and writes what it has found."""

import gzip
import json

import keras
import numpy as np
import pytest
import sequential_pixels
from signals import idx, networks, training
from text.tables import InputError

if keras.config.backend() == "numpy":
    pytest.skip("numpy cannot train", allow_module_level=True)

SIZE = 5  # pixels of an edge
SMALL = (
    "--width 8 --depth 1 --state-dim 4 --batch-size 8 --dropout 0 "
    "--seconds 0 --learning-rate 0.03 --dynamics-factor 1 --verbose 0"
).split()


def images(count: int, seed: int):
    """Dark and light images, and which of them is light."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, 2, count)
    noise = random.integers(0, 60, (count, SIZE, SIZE))
    return (noise + 150 * labels[:, None, None]).astype("uint8"), labels


def write_idx(path, array):
    header = bytes((0, 0, 8, array.ndim))
    header += np.array(array.shape, ">i4").tobytes()
    opened = gzip.open if path.suffix == ".gz" else open
    with opened(path, "wb") as file:
        file.write(header + array.astype("uint8").tobytes())


@pytest.fixture
def folder(tmp_path):
    """A data set in the form of MNIST, its test images compressed."""
    for part, count, ending in (("train", 64, ""), ("test", 20, ".gz")):
        for name, array in zip(
            idx.NAMES[part], images(count, len(part)), strict=True
        ):
            write_idx(tmp_path / (name + ending), array)
    return tmp_path


@pytest.mark.parametrize("layer", ["s4d", "lstm"])
def test_it_learns_and_writes_its_results(folder, tmp_path, capsys, layer):
    output = tmp_path / "output"
    arguments = ["--data", folder, "--layer", layer, "--output", output]
    arguments = [*map(str, arguments), *SMALL, "--epochs", "8"]
    assert sequential_pixels.main(arguments) == 0
    results = json.loads((output / "results.json").read_text())
    assert results["test_accuracy"] >= 0.9
    assert np.sum(results["confusion"]) == 20
    assert len(results["history"]["val_accuracy"]) == 8
    assert f"{results['test_accuracy']:.2%}  {layer}" in capsys.readouterr().out
    assert (output / "report.png").read_bytes().startswith(b"\x89PNG")
    model = keras.models.load_model(output / "model.keras", compile=False)
    pixels, labels = images(20, len("test"))
    predicted = model(pixels.reshape(20, -1, 1).astype("float32") / 255)
    found = np.argmax(keras.ops.convert_to_numpy(predicted), -1)
    assert np.mean(found == labels) == results["test_accuracy"]


@pytest.mark.parametrize("layer", networks.LAYERS)
def test_every_layer_makes_a_classifier_of_about_one_size(layer):
    options = sequential_pixels.parse(["--width", "16", "--state-dim", "16"])
    model = networks.build(layer, 10, options)
    assert model(np.zeros((2, 9, 1), "float32")).shape == (2, 10)
    if layer == "lstm":
        s4d = networks.build("s4d", 10, options).count_params()
        assert abs(model.count_params() / s4d - 1) < 0.1


def test_an_epoch_takes_every_row_in_an_order_of_its_own():
    signals, labels = np.arange(10)[:, None], np.arange(10)
    kept = training.Batches(signals, labels, 4)
    assert [len(y) for _, y in (kept[i] for i in range(len(kept)))] == [4, 4, 2]
    shuffled = training.Batches(signals, labels, 5, seed=0)
    epochs = []
    for _ in range(2):
        epochs.append(np.concatenate([shuffled[i][1] for i in range(2)]))
        shuffled.on_epoch_end()
    assert sorted(epochs[0]) == sorted(epochs[1]) == list(range(10))
    assert list(epochs[0]) != list(epochs[1])


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("train-images-idx3-ubyte", None, "there is no train-images"),
        ("train-images-idx3-ubyte", b"nothing", "is no IDX file"),
        (
            "train-labels-idx1-ubyte",
            bytes((0, 0, 8, 1, 0, 0, 0, 9)) + b"123",
            "should hold 9 bytes behind its header, but holds 3",
        ),
        ("t10k-labels-idx1-ubyte.gz", b"not compressed", "cannot be read"),
    ],
)
def test_bad_files_get_a_sentence(folder, capsys, name, content, sentence):
    if content is None:
        (folder / name).unlink()
    else:
        (folder / name).write_bytes(content)
    with pytest.raises(InputError, match=sentence):
        idx.read_folder(str(folder))
    arguments = ["--data", str(folder), "--output", str(folder / "output")]
    assert sequential_pixels.main(arguments) == 2
    assert sentence in capsys.readouterr().err
    assert not (folder / "output" / "results.json").exists()
