"""README and docs/ tell the truth: their code runs, what they name is there."""

import contextlib
import pathlib
import re
import unittest

import keras
import pytest
import sybil
from harness import BACKEND, needs_gradients
from sybil.parsers.markdown import PythonCodeBlockParser, SkipParser

ROOT = pathlib.Path(__file__).parents[2]
OUTSIDE = ("README.md", "CONTRIBUTING.md", "benchmarks/README.md")
PAGES = [
    str(path.relative_to(ROOT))
    for path in (*map(ROOT.joinpath, OUTSIDE), *ROOT.glob("docs/**/*.md"))
]
PYTHON = sybil.Sybil([PythonCodeBlockParser(), SkipParser()])
FOLDERS = "benchmarks|docs|examples|keras_ssm|notebooks|tests"


def read(page):
    return (ROOT / page).read_text()


each_page = pytest.mark.parametrize("page", sorted(PAGES))
each_page_with_python = pytest.mark.parametrize(
    "page", [page for page in sorted(PAGES) if "```python" in read(page)]
)


@pytest.fixture
def clean_room(tmp_path, monkeypatch):
    """An empty folder, and the dtype policy as it was."""
    monkeypatch.chdir(tmp_path)
    policy = keras.config.dtype_policy()
    yield
    keras.config.set_dtype_policy(policy)


@needs_gradients
@each_page_with_python
def test_its_python_runs(page, clean_room):
    document = PYTHON.parse(ROOT / page)
    document.namespace["BACKEND"] = BACKEND
    for example in document.examples():
        with contextlib.suppress(unittest.SkipTest):
            example.evaluate()


# MkDocs follows links within docs/, and only there.
@each_page
def test_its_links_point_somewhere(page):
    for link in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", read(page)):
        if not link.startswith("https://"):
            assert (ROOT / page).parent.joinpath(link).exists(), link


@each_page
def test_the_files_in_it_exist(page):
    for name in re.findall(rf"`((?:{FOLDERS})/[\w./-]*)`", read(page)):
        assert (ROOT / name).exists(), name


@each_page
def test_the_make_commands_in_it_exist(page):
    makefile = (ROOT / "Makefile").read_text()
    commands = re.findall(r"(?:^|`)make ([a-z][^`#\n]*)", read(page), re.M)
    for word in " ".join(commands).split():
        name, is_variable, _ = word.partition("=")
        defined = rf"^{name} \?=" if is_variable else rf"^{name}:"
        assert re.search(defined, makefile, re.M), word


@each_page
def test_the_scripts_in_it_take_these_options(page):
    command = rf"((?:{FOLDERS})/[\w/]+\.py)((?:\\\n|[^`#\n])*)"
    for script, words in re.findall(command, read(page)):
        assert (ROOT / script).exists(), script
        folder = (ROOT / script).parent
        code = "".join(path.read_text() for path in folder.glob("**/*.py"))
        for option in set(re.findall(r"--[a-z][\w-]*", words)) - {"--help"}:
            assert f'"{option}"' in code, f"{script} {option}"
