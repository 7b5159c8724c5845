"""Brings what lies outside docs/ into the site, and mends links to it.

A link in a page points to a file of the repository, so that it works wherever
the page is read. Of what is not in docs/, the site has `BROUGHT`; of a link to
anything else, such as a folder, the site keeps the text.
"""

import os
import pathlib
import re

from mkdocs.structure.files import File, InclusionLevel

ROOT = pathlib.Path(__file__).resolve().parents[1]
BROUGHT = (
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "benchmarks/README.md",
    "examples/README.md",
    "benchmarks/results/*.png",
    "benchmarks/*.py",
    "examples/*.py",
    "examples/tutorials/*.py",
    "notebooks/*.ipynb",
)
# [text](target#anchor), and not ](https://...
LINK = re.compile(r"\[([^\]]*)\]\(([^)#:\s]+)(#[^)\s]*)?\)")


def on_files(files, config):
    for pattern in BROUGHT:
        for path in sorted(ROOT.glob(pattern)):
            name = path.relative_to(ROOT).as_posix()
            file = File.generated(config, name, abs_src_path=str(path))
            file.inclusion = InclusionLevel.INCLUDED
            files.append(file)
    return files


def on_page_markdown(markdown, page, config, files):
    source = pathlib.Path(page.file.abs_src_path)
    here = os.path.dirname(page.file.src_uri) or "."

    def mend(link):
        text, target, anchor = link[1], link[2], link[3] or ""
        path = pathlib.Path(os.path.normpath(source.parent / target))
        if not path.exists():
            return link[0]  # MkDocs says what is wrong with it.
        name = _name(path, config)
        if files.get_file_from_path(name) is None:
            return text
        return f"[{text}]({os.path.relpath(name, here)}{anchor})"

    return LINK.sub(mend, markdown)


def _name(path, config):
    """What the site calls a file of the repository."""
    docs = pathlib.Path(config.docs_dir)
    top = docs if path.is_relative_to(docs) else ROOT
    return path.relative_to(top).as_posix()
