r"""
Title: Images one pixel at a time
Description: 784 steps to remember, for S4 and its relatives and for an LSTM.

An image of MNIST is a sequence of 784 pixels, row by row, and the class is to
be told at its end:

    KERAS_BACKEND=torch python examples/sequential_pixels.py --layer s4d

Keras downloads the data set; `--data FOLDER` reads the four IDX files of
MNIST, or of any other data set in that form, from a folder instead. The same
time for another layer, and for an LSTM of the same size:

    python examples/sequential_pixels.py --layer s5
    python examples/sequential_pixels.py --layer lstm

Training follows the clock (`--seconds`), as in `text_classification.py`; 5,000
images held back draw the learning curve, and the test set is looked at once.
`--output` receives the model, a picture with the confusion matrix and the
learning curve, and all numbers as JSON.
"""

import argparse
import sys
import time

from text import tables  # first: it says what is not installed

# isort: split
import keras
import numpy as np
from signals import idx, networks, training, training_options
from text.classifiers import accuracy

HELD_BACK = 5_000


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line; bad input ends in a sentence and code 2."""
    options = parse(arguments)
    try:
        run(options)
    except tables.InputError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def run(options) -> dict:
    """Reads, trains and reports; returns the numbers of `results.json`."""
    tables.check_writable(f"{options.output}/results.json")
    (images, labels), test = read(options)
    keras.utils.set_random_seed(options.seed)
    kept, held_back = split(len(images), options)
    model = networks.build(options.layer, int(labels.max()) + 1, options)
    print(
        f"{len(kept):,} images to learn from, {len(held_back):,} held back; "
        f"{options.layer} with {model.count_params():,} parameters."
    )
    start = time.perf_counter()
    history = training.train(
        model,
        batches(images[kept], labels[kept], options, options.seed),
        batches(images[held_back], labels[held_back], options),
        options,
    )
    seconds = time.perf_counter() - start
    predicted = training.predict(model, batches(*test, options))
    results = {
        "layer": options.layer,
        "backend": keras.config.backend(),
        "test_accuracy": accuracy(test[1], predicted),
        "validation_accuracy": history["val_accuracy"][-1],
        "parameters": model.count_params(),
        "seconds": seconds,
        "history": history,
    }
    print(f"Accuracy on {len(predicted):,} test images")
    print(f"  {results['test_accuracy']:7.2%}  {options.layer}")
    names = [str(name) for name in range(int(labels.max()) + 1)]
    training.write(
        model, results, test[1], predicted, names, options, options.output
    )
    return results


def read(options):
    """`(images, labels)` for training and testing; images `(count, h, w)`."""
    if options.data is not None:
        data = idx.read_folder(options.data)
    else:
        data = getattr(keras.datasets, options.dataset).load_data()
    rows = options.rows
    return [(x[:rows], y[:rows].astype("int32")) for x, y in data]


def split(count: int, options):
    """Rows to learn from, and rows held back for the learning curve."""
    order = np.random.default_rng(options.seed).permutation(count)
    held_back = min(HELD_BACK, count // 5)
    return order[held_back:], order[:held_back]


def batches(images, labels, options, seed=None):
    """Batches of pixels one after the other, black 0 and white 1."""
    pixels = images.reshape(len(images), -1).astype("float32") / 255
    return training.Batches(pixels, labels, options.batch_size, seed)


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(
        description="Learns to classify images one pixel at a time.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--data", help="folder with the IDX files of MNIST; or download")
    datasets = ("mnist", "fashion_mnist")
    add("--dataset", choices=datasets, default="mnist", help="to download")
    add("--rows", type=int, help="use only the first images")
    add("--layer", choices=networks.LAYERS, default="s4d", help="what to train")
    add("--output", default="runs/sequential_pixels", help="folder")
    training_options.add(
        parser,
        width=64,
        depth=3,
        dropout=0.0,
        seconds=1800.0,
        epochs=100,
        batch_size=50,
        learning_rate=8e-3,
        dynamics_factor=0.25,
        weight_decay=0.01,
    )
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
