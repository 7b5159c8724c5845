"""Writes `notebooks/` from the scripts in `examples/tutorials/`.

    python examples/make_notebooks.py          # writes, as `make notebooks`
    python examples/make_notebooks.py --check  # fails if they are out of date

The scripts are in Jupytext's percent format and are the source; notebooks have
no outputs, and cells keep their ids while they stay as they are, so that a
change of a script is a change of a few lines.
"""

import argparse
import hashlib
import pathlib

import jupytext
import nbformat

HERE = pathlib.Path(__file__).resolve().parent
SCRIPTS = sorted((HERE / "tutorials").glob("*.py"))
FOLDER = HERE.parent / "notebooks"

# Where a notebook is opened, it asks for a GPU.
METADATA = {
    "accelerator": "GPU",
    "colab": {"gpuType": "T4", "provenance": []},
    "kaggle": {
        "accelerator": "nvidiaTeslaT4",
        "isGpuEnabled": True,
        "isInternetEnabled": True,
        "language": "python",
        "sourceType": "notebook",
    },
    "kernelspec": {
        "display_name": "Python 3",
        "language": "python",
        "name": "python3",
    },
    "language_info": {"name": "python"},
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    if options.check:
        stale = ", ".join(out_of_date())
        raise SystemExit(
            f"Out of date, run `make notebooks`: {stale}" if stale else 0
        )
    FOLDER.mkdir(exist_ok=True)
    for script in SCRIPTS:
        path_of(script).write_text(render(script), encoding="utf-8")


def out_of_date() -> list[str]:
    """Returns the names of notebooks that are not what their script gives."""
    wanted = {path_of(script): render(script) for script in SCRIPTS}
    there = {path: path.read_text("utf-8") for path in FOLDER.glob("*.ipynb")}
    paths = sorted(wanted.keys() | there.keys())
    return [p.name for p in paths if wanted.get(p) != there.get(p)]


def path_of(script) -> pathlib.Path:
    return FOLDER / f"{script.stem}.ipynb"


def render(script) -> str:
    """Returns the notebook of a script, as it is in its file."""
    notebook = jupytext.read(script, fmt="py:percent")
    notebook.metadata = METADATA
    for cell in notebook.cells:
        # Jupytext draws ids at random.
        digest = hashlib.sha256(cell.source.encode()).hexdigest()
        cell["id"] = digest[:8]
    return nbformat.writes(notebook) + "\n"


if __name__ == "__main__":
    main()
