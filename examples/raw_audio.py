r"""
Title: Spoken digits from raw waveforms
Description: S4 hears 8,000 samples a second, and 4,000 without training again.

No spectrogram: the samples of a recording go into the network one by one, from
1,148 to 18,262 of them.

    KERAS_BACKEND=jax python examples/raw_audio.py --layer s4d

The recordings are those of the Free Spoken Digit Dataset, CC BY-SA 4.0, which
Keras downloads; `--data` reads a folder of WAV files, or an archive, instead.
Numbers 0 to 4 of each digit and speaker are for testing, as the authors of the
data set have it. The harder question, how well strangers are understood, takes
one training for each speaker:

    python examples/raw_audio.py --held-out-speaker all

The test recordings are also classified at half the sampling rate, with no
retraining: the same weights in layers with `rate=2`. A layer without a `rate`,
such as an LSTM, is given them as they are. `--output` receives the model, a
picture with the confusion matrix and the learning curve, and all numbers as
JSON.
"""

import argparse
import os
import sys
import time

from text import tables  # first: it says what is not installed

# isort: split
import keras
import numpy as np
from signals import audio, networks, training, training_options
from text.classifiers import accuracy

ADDRESS = (
    "https://github.com/Jakobovski/free-spoken-digit-dataset/archive/refs/tags/"
    "v1.0.10.tar.gz"
)
HELD_BACK = 0.1
DIGITS = 10


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line; bad input ends in a sentence and code 2."""
    options = parse(arguments)
    try:
        run(options)
    except tables.InputError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def run(options) -> list[dict]:
    """Reads, trains and reports; returns the numbers of each split."""
    tables.check_writable(f"{options.output}/results.json")
    path = options.data or keras.utils.get_file(
        "fsdd.tar.gz", ADDRESS, cache_subdir="datasets"
    )
    recordings = audio.read(path)
    splits = list(split(recordings, options))
    results = [
        run_split(name, recordings, held_out, options)
        for name, held_out in splits
    ]
    if len(results) > 1:
        print("Mean over the speakers")
        for key in ("test_accuracy", "half_rate_accuracy"):
            print(f"  {np.mean([r[key] for r in results]):7.2%}  {key}")
    return results


def split(recordings, options):
    """Yields a name and which recordings are for testing."""
    speaker = options.held_out_speaker
    speakers = sorted(set(recordings.speakers))
    if speaker is None:
        yield "official", recordings.numbers <= audio.LAST_OF_TEST
    elif speaker in speakers:
        yield speaker, recordings.speakers == speaker
    elif speaker == "all":
        for name in speakers:
            yield name, recordings.speakers == name
    else:
        raise tables.InputError(
            f"--held-out-speaker: there is nobody called {speaker}. There are: "
            f"{', '.join(speakers)}, or all of them in turn: all."
        )


def run_split(name: str, recordings, held_out, options) -> dict:
    """Trains one model and tests it at both sampling rates."""
    keras.utils.set_random_seed(options.seed)
    train, test = recordings.rows(~held_out), recordings.rows(held_out)
    if not len(train) or not len(test):
        raise tables.InputError(
            f"--data: the split {name!r} has {len(train)} recordings to learn "
            f"from and {len(test)} to test with. Both need some."
        )
    kept = np.random.default_rng(options.seed).random(len(train)) >= HELD_BACK
    model = build(options)
    print(
        f"{name}: {kept.sum():,} recordings to learn from, "
        f"{(~kept).sum():,} held back, {len(test):,} to test with; "
        f"{options.layer} with {model.count_params():,} parameters."
    )
    start = time.perf_counter()
    history = training.train(
        model,
        learn_from(train.rows(kept), options),
        batches(train.rows(~kept), options),
        options,
    )
    seconds = time.perf_counter() - start
    predicted = predict(model, test, options)
    halved = model
    if options.layer in networks.RATED:
        halved = build(options, rate=2.0)
        halved.set_weights(model.get_weights())
    at_half_rate = predict(halved, test.at_half_rate(), options)
    results = {
        "split": name,
        "layer": options.layer,
        "backend": keras.config.backend(),
        "test_accuracy": accuracy(test.digits, predicted),
        "half_rate_accuracy": accuracy(test.digits, at_half_rate),
        "parameters": model.count_params(),
        "seconds": seconds,
        "history": history,
    }
    print(f"Accuracy on {len(test):,} recordings")
    print(f"  {results['test_accuracy']:7.2%}  at 8,000 Hz")
    print(f"  {results['half_rate_accuracy']:7.2%}  at 4,000 Hz")
    names = [str(digit) for digit in range(DIGITS)]
    folder = options.output
    if options.held_out_speaker:
        folder = os.path.join(folder, name)
    training.write(
        model, results, test.digits, predicted, names, options, folder
    )
    return results


def build(options, **of_blocks):
    return networks.build(
        options.layer, DIGITS, options, padding=audio.PADDING, **of_blocks
    )


def learn_from(recordings, options):
    """Batches in a new order for every epoch, at changing speeds."""
    return audio.PaddedBatches(
        recordings,
        options.batch_size,
        options.seed,
        speed=options.speed,
        noise=options.noise,
    )


def batches(recordings, options):
    return audio.PaddedBatches(recordings, options.batch_size)


def predict(model, recordings, options):
    """The most probable digit of each recording, in their order."""
    sorted_ = batches(recordings, options)
    predicted = np.empty(len(recordings), int)
    predicted[sorted_.order] = training.predict(model, sorted_)
    return predicted


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(
        description="Learns to classify spoken digits from raw waveforms.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--data", help="folder or archive of WAV files; or download")
    add("--held-out-speaker", help="to test with instead; all: each in turn")
    add("--layer", choices=networks.LAYERS, default="s4d", help="what to train")
    add("--output", default="runs/raw_audio", help="folder")
    add("--speed", type=float, default=0.15, help="faster or slower by up to")
    add("--noise", type=float, default=0.1, help="beside a recording's 1")
    training_options.add(
        parser,
        width=64,
        depth=4,
        state_dim=64,
        dropout=0.1,
        seconds=0.0,
        epochs=30,
        batch_size=16,
        learning_rate=4e-3,
        dynamics_factor=0.25,
        weight_decay=0.05,
    )
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
