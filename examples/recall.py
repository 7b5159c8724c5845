r"""
Title: What a network can remember
Description: Where Mamba is enough, and where one layer of attention helps.

Three tasks, drawn without end. Selective copying and induction heads are what
Mamba was made for: it picks out what matters, and goes on to lengths that it
has never been trained at. Associative recall asks for any of many pairs, which
a state of fixed size cannot hold; a block of attention among those of Mamba
looks them up.

    KERAS_BACKEND=torch python examples/recall.py --task copying
    KERAS_BACKEND=torch python examples/recall.py --task induction
    python examples/recall.py --task association --width 16 32 --pairs 16 64

Every model has two blocks: two of Mamba, Mamba and attention, or two of
attention (`--model`). Training ends when nearly all is right, or after
`--steps`. Each run leaves its numbers in `--output` as JSON; the table and the
picture show all the runs that the folder has, so that several commands can
share it.
"""

import argparse
import functools
import itertools
import os
import sys
import time

from text import files, tables  # first: it says what is not installed

# isort: split
import keras
from memory import figure, models, tasks

# At these lengths the induction heads are tested, trained at one of them.
LENGTHS = tuple(2**power for power in range(6, 15))
COPIED = 16
TEST_TOKENS = 2**20  # of all rows of a test, but for the number of them
TEST_ROWS = (128, 1024)
BATCH_TOKENS = 2**14


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line; bad input ends in a sentence and code 2."""
    options = parse(arguments)
    try:
        check(options)
        run(options)
    except tables.InputError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def run(options) -> list[dict]:
    """Trains, tests and draws; returns all results of the folder."""
    tables.check_writable(f"{options.output}/results.png")
    os.makedirs(options.output, exist_ok=True)
    for task, model, width, pairs in grid(options):
        results = run_one(task, model, width, pairs, options)
        sizes = f"{width}_{pairs}" if task == "association" else f"{width}"
        name = f"{task}_{model}_{sizes}_seed{options.seed}.json"
        files.write_json(os.path.join(options.output, name), results)
    found = figure.read(options.output)
    figure.draw(os.path.join(options.output, "results.png"), found)
    print(figure.table(found))
    print(f"Picture and numbers: {options.output}")
    return found


def grid(options):
    """Every `(task, model, width, pairs)`; only one task has pairs."""
    for task, model, width in itertools.product(
        options.task, options.model, options.width
    ):
        for pairs in options.pairs if task == "association" else (0,):
            yield task, model, width, pairs


def run_one(task: str, model_name: str, width: int, pairs: int, options):
    """Trains a model for a task and tests it on fresh rows."""
    keras.utils.set_random_seed(options.seed)
    draw = {
        "copying": functools.partial(
            tasks.copying, length=options.length, numbers=COPIED
        ),
        "induction": functools.partial(tasks.induction, length=options.length),
        "association": functools.partial(tasks.association, pairs=pairs),
    }[task]
    model = models.build(model_name, tasks.SIZES[task], width)
    print(
        f"{task}{f', {pairs} pairs' if pairs else ''}: {model_name}, width "
        f"{width}, {model.count_params():,} parameters"
    )
    start = time.perf_counter()
    draws = models.Draws(draw, options.batch_size, options.seed)
    history = models.train(model, draws, options)
    results = {
        "task": task,
        "model": model_name,
        "width": width,
        "pairs": pairs,
        "length": options.length,
        "learning_rate": options.learning_rate,
        "seed": options.seed,
        "backend": keras.config.backend(),
        "parameters": model.count_params(),
        "steps": len(history["loss"]) * models.STEPS_AN_EPOCH,
        "seconds": time.perf_counter() - start,
        "history": history["accuracy"],
        "accuracy": test(model, draw, options.length),
    }
    if task == "induction":
        results["by_length"] = {
            length: test(
                model, functools.partial(tasks.induction, length=length), length
            )
            for length in options.test_lengths
        }
    print(f"  {results['accuracy']:7.2%}  {model_name}")
    return results


def test(model, draw, length: int) -> float:
    """Accuracy on rows that no training has seen."""
    fewest, most = TEST_ROWS
    rows = max(fewest, min(most, TEST_TOKENS // length))
    batch_size = max(1, min(rows, BATCH_TOKENS // length))
    return models.accuracy(model, draw, rows, batch_size, seed=1)


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(
        description="Measures what networks remember.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    several = {"nargs": "+"}
    names = tuple(tasks.SIZES)
    add("--task", **several, choices=names, default=names, help="to learn")
    add(
        "--model",
        **several,
        choices=models.PATTERNS,
        default=("mamba", "hybrid", "attention"),
        help="two blocks",
    )
    add("--width", **several, type=int, default=(64,), help="of the blocks")
    add("--pairs", **several, type=int, default=(16, 64), help="to associate")
    add("--length", type=int, default=256, help="to train at, but for pairs")
    add(
        "--test-lengths",
        **several,
        type=int,
        default=LENGTHS,
        help="for the induction heads",
    )
    add("--steps", type=int, default=20_000, help="at most")
    add("--seconds", type=float, default=0.0, help="budget; 0: no limit")
    add("--enough", type=float, default=0.9995, help="accuracy to stop at")
    add("--batch-size", type=int, default=64, help="rows")
    add("--learning-rate", type=float, default=2e-3, help="the highest")
    add("--output", default="runs/recall", help="folder")
    add("--seed", type=int, default=0, help="of weights and numbers")
    add("--verbose", type=int, choices=(0, 1, 2), default=1, help="as Keras")
    return parser.parse_args(arguments)


def check(options):
    """Refuses sizes that a task cannot have."""
    if options.length < COPIED or min(options.test_lengths) < 3:
        raise tables.InputError(
            f"--length must be at least {COPIED} and --test-lengths 3. "
            f"Received: {options.length} and {options.test_lengths}."
        )
    if not 0 < min(options.pairs) <= max(options.pairs) <= tasks.KEYS:
        raise tables.InputError(
            f"--pairs must be between 1 and {tasks.KEYS}. "
            f"Received: {options.pairs}."
        )


if __name__ == "__main__":
    sys.exit(main())
