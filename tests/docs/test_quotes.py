"""Pages quote what is measured; tests/docs/ run their code."""

import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[2]


def test_matrices_and_figures_are_those_of_the_code_and_the_results():
    subprocess.run(
        [sys.executable, ROOT / "benchmarks" / "readme.py", "--check"],
        check=True,
    )
