r"""
Title: A language model of bytes
Description: Mamba, attention, or both by a pattern, learn to write.

Every byte is a token, so that any text file will do:

    KERAS_BACKEND=torch python examples/language_model.py --data text.txt

Without `--data` it is the million bytes of Shakespeare that Keras downloads.
`--pattern` names the mixer of each block, and the same time and nearly as many
parameters are a fair comparison of patterns:

    python examples/language_model.py --pattern mamba mamba mamba mamba
    python examples/language_model.py --pattern mamba mamba attention mamba
    python examples/language_model.py --pattern attention attention \
        --feed-forward 512

The end of the file is held back: its bits per byte are what is printed, and
then a sample. `--output` receives the model, the sample and all numbers as
JSON.
"""

import argparse
import os
import sys
import time

from text import files, tables  # first: it says what is not installed

# isort: split
import keras
import numpy as np
from text.training import TimeBudget

from keras_ssm import models

ADDRESS = (
    "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/"
    "tinyshakespeare/input.txt"
)
BYTES = 256
HELD_BACK = 0.1
HEADS = 4
MIXERS = ("mamba", "mamba2", "mamba3", "griffin", "attention")
STEPS_AN_EPOCH = 100


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
    """Reads, trains, writes; returns the numbers of `results.json`."""
    tables.check_writable(f"{options.output}/results.json")
    if not options.prompt:
        raise tables.InputError("--prompt must have at least one character.")
    keras.utils.set_random_seed(options.seed)
    text = read(options)
    start = round(len(text) * (1 - HELD_BACK))
    model = build(options)
    print(
        f"{start:,} bytes to learn from, {len(text) - start:,} held back; "
        f"{' '.join(options.pattern)}: {model.count_params():,} parameters."
    )
    began = time.perf_counter()
    history = train(model, Windows(text[:start], options), options)
    seconds = time.perf_counter() - began
    bits = evaluate(model, text[start:], options)
    sample = write(model, options)
    results = {
        "pattern": options.pattern,
        "backend": keras.config.backend(),
        "parameters": model.count_params(),
        "bits_per_byte": bits,
        "seconds": seconds,
        "history": history,
        "options": vars(options),
    }
    save(model, results, sample, options.output)
    print(f"{sample}\n\n{bits:.3f} bits per byte of what was held back")
    print(f"Model, sample and numbers: {options.output}")
    return results


def read(options):
    """The bytes of the file, as numbers."""
    path = options.data or keras.utils.get_file(
        "shakespeare.txt", ADDRESS, cache_subdir="datasets"
    )
    try:
        text = np.fromfile(path, "uint8")
    except OSError as error:
        raise tables.InputError(
            f"--data: {path} cannot be read: {error}."
        ) from error
    # Of both parts, one window and one more byte.
    needed = round((options.length + 1) / HELD_BACK) + 1
    if len(text) < needed:
        raise tables.InputError(
            f"--data: {path} has {len(text)} bytes. A length of "
            f"{options.length} needs at least {needed}: shorten `--length`."
        )
    return text


def build(options):
    """A language model of bytes, without padding."""
    attention = {"heads": HEADS, "kv_heads": 1}
    if set(options.pattern) == {"attention"}:
        attention["rotary_base"] = 1e4  # nothing else knows of positions
    backbone = models.HybridBackbone(
        BYTES,
        options.width,
        options.pattern,
        mixers={"attention": attention}
        if "attention" in options.pattern
        else {},
        feed_forward=(
            {"units": options.feed_forward} if options.feed_forward else None
        ),
        padding_id=None,
        dropout=options.dropout,
        seed=options.seed,
    )
    return models.CausalLM(backbone)


class Windows(keras.utils.PyDataset):
    """Pieces of a text from places that are drawn when they are asked for.

    Args:
        text: The bytes, as numbers.
        options: With `length`, `batch_size` and `seed`.
    """

    def __init__(self, text, options):
        super().__init__()
        self.text, self.options = text, options
        self.random = np.random.default_rng(options.seed)

    def __len__(self):
        return STEPS_AN_EPOCH

    def __getitem__(self, index):
        length = self.options.length + 1
        starts = self.random.integers(
            0, len(self.text) - length + 1, self.options.batch_size
        )
        return self.text[starts[:, None] + np.arange(length)].astype("int32")


def train(model, windows, options) -> dict:
    """Compiles and fits the model; returns the history of Keras."""
    model.compile(
        keras.optimizers.AdamW(
            options.learning_rate, weight_decay=0.1, global_clipnorm=1.0
        ),
        weighted_metrics=[models.BitsPerToken(name="bits_per_byte")],
    )
    epochs = -(-options.steps // STEPS_AN_EPOCH)
    budget = TimeBudget(
        options.seconds, epochs * STEPS_AN_EPOCH, options.learning_rate
    )
    history = model.fit(
        windows,
        epochs=epochs,
        shuffle=False,
        verbose=options.verbose,
        callbacks=[budget],
    )
    return history.history


def evaluate(model, text, options) -> float:
    """Bits per byte, each from at most `length` bytes before it."""
    length = options.length
    count = (len(text) - 1) // length
    rows = np.arange(count)[:, None] * length + np.arange(length + 1)
    found = model.evaluate(
        text[rows].astype("int32"),
        batch_size=options.batch_size,
        return_dict=True,
        verbose=0,
    )
    return float(found["bits_per_byte"])


def write(model, options) -> str:
    """A prompt with what the model makes of it."""
    prompt = list(options.prompt.encode())
    written = model.generate(
        prompt,
        max_length=len(prompt) + options.sample,
        sampler=models.TopPSampler(0.95),
        seed=options.seed,
    )
    return bytes(written.tolist()).decode(errors="replace")


def save(model, results, sample, folder):
    """Fills a folder: model, sample, numbers."""
    os.makedirs(folder, exist_ok=True)
    with files.written_whole(os.path.join(folder, "model.keras")) as path:
        model.save(path)
    with files.written_whole(os.path.join(folder, "sample.txt")) as path:
        with open(path, "w", encoding="utf-8") as file:
            file.write(sample)
    files.write_json(os.path.join(folder, "results.json"), results)


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(
        description="Learns to write, byte by byte.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--data", help="text file; or download")
    add(
        "--pattern",
        nargs="+",
        choices=MIXERS,
        default=["mamba", "mamba", "attention", "mamba"],
        help="mixer of each block",
    )
    add("--width", type=int, default=128, help="of the blocks")
    add("--feed-forward", type=int, default=0, help="units; 0: none")
    add("--length", type=int, default=256, help="bytes that are learned from")
    add("--dropout", type=float, default=0.0, help="rate, in the blocks")
    add("--seconds", type=float, default=300.0, help="budget; 0: no limit")
    add("--steps", type=int, default=20_000, help="at most")
    add("--batch-size", type=int, default=16, help="pieces of text")
    add("--learning-rate", type=float, default=3e-3, help="the highest")
    add("--prompt", default="\n", help="that the sample begins with")
    add("--sample", type=int, default=500, help="bytes to write")
    add("--output", default="runs/language_model", help="folder")
    add("--seed", type=int, default=0, help="of weights, pieces and sample")
    add("--verbose", type=int, choices=(0, 1, 2), default=1, help="as Keras")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
