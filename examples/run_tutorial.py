r"""
Title: Run a tutorial
Description: A script of `tutorials/` with other parameters, as a program.

    python examples/run_tutorial.py forecasting MODEL=s4d DATA=ETTh1.csv

The assignments take the place of those in the cell tagged `parameters`, as
papermill does in a notebook. What the tutorial shows and saves goes to the
folder `--output`: its pictures, its files, and `results.json` with the numbers
in its variable `results`, the parameters, and the seconds it took, by the clock
and of the processor.
"""

import argparse
import ast
import json
import os
import pathlib
import re
import sys
import time

FOLDER = pathlib.Path(__file__).resolve().parent / "tutorials"
CELL = re.compile(r"^# %%.*\n", re.MULTILINE)
TAG = 'tags=["parameters"]'


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line; bad input ends in a sentence and code 2."""
    options = parse(arguments)
    path = FOLDER / f"{options.tutorial}.py"
    source = path.read_text(encoding="utf-8")
    try:
        parameters = read_parameters(source, options.parameters)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    results = run(path, inject(source, parameters), options.output)
    results |= {"tutorial": options.tutorial, "given": parameters}
    text = json.dumps(results, indent=1) + "\n"
    (options.output / "results.json").write_text(text, encoding="utf-8")
    print(f"Pictures, files and numbers: {options.output}")
    return 0


def run(path, source: str, folder) -> dict:
    """Executes a tutorial in a folder of its own.

    Returns:
        What it left in `results`, and `seconds`, `cpu_seconds` and `backend`.
    """
    import matplotlib

    matplotlib.use("Agg")
    import keras
    import matplotlib.pyplot as plt

    folder.mkdir(parents=True, exist_ok=True)
    before, show = os.getcwd(), plt.show
    plt.show = saver(folder.resolve())
    names = {"__name__": "__main__"}
    start, cpu_start = time.perf_counter(), time.process_time()
    os.chdir(folder)
    try:
        exec(compile(source, str(path), "exec"), names)
    finally:
        os.chdir(before)
        plt.show = show
        plt.close("all")
    return names["results"] | {
        "seconds": time.perf_counter() - start,
        "cpu_seconds": time.process_time() - cpu_start,
        "backend": keras.config.backend(),
    }


def saver(folder):
    """Returns a function that saves the open figures instead of showing."""
    import matplotlib.pyplot as plt

    numbers = iter(range(1, 100))

    def show():
        for number in plt.get_fignums():
            figure = plt.figure(number)
            figure.savefig(folder / f"figure_{next(numbers)}.png", dpi=110)
            plt.close(figure)

    return show


def inject(source: str, parameters: dict) -> str:
    """Puts assignments behind the cell tagged `parameters`."""
    _, end = parameters_cell(source)
    lines = [f"{name} = {value!r}\n" for name, value in parameters.items()]
    return source[:end] + "".join(lines) + source[end:]


def parameters_cell(source: str) -> tuple[int, int]:
    """Returns where the cell tagged `parameters` begins and ends."""
    cells = list(CELL.finditer(source))
    [number] = [i for i, cell in enumerate(cells) if TAG in cell.group()]
    return cells[number].end(), cells[number + 1].start()


def read_parameters(source: str, assignments: list[str]) -> dict:
    """Reads `NAME=VALUE`s, each of the type that the tutorial's value has.

    Raises:
        ValueError: If the tutorial has no such parameter, or it is of another
            type.
    """
    begin, end = parameters_cell(source)
    defaults = {
        line.targets[0].id: ast.literal_eval(line.value)
        for line in ast.parse(source[begin:end]).body
    }
    found = {}
    for assignment in assignments:
        name, _, text = assignment.partition("=")
        if name not in defaults:
            raise ValueError(
                f"The tutorial has no parameter {name!r}. It has: "
                f"{', '.join(defaults)}."
            )
        found[name] = read_value(name, text, defaults[name])
    return found


def read_value(name: str, text: str, default):
    """Reads a value of the type of `default`; files get their whole path."""
    if isinstance(default, str):
        return os.path.abspath(text) if os.path.exists(text) else text
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        value = text
    if isinstance(default, float) and isinstance(value, int):
        value = float(value)
    if type(value) is not type(default):
        raise ValueError(
            f"{name} must be of the type {type(default).__name__}, as "
            f"{default!r} is. Received: {text}."
        )
    return value


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Reads the command line."""
    names = sorted(path.stem for path in FOLDER.glob("*.py"))
    parser = argparse.ArgumentParser(
        description="Runs a tutorial with other parameters."
    )
    add = parser.add_argument
    add("tutorial", choices=names, help="which")
    add("parameters", nargs="*", metavar="NAME=VALUE", help="its parameters")
    add("--output", type=pathlib.Path, help="folder; runs/NAME if None")
    options = parser.parse_args(arguments)
    if options.output is None:
        options.output = pathlib.Path("runs") / options.tutorial
    return options


if __name__ == "__main__":
    sys.exit(main())
