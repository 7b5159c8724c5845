"""A task of the examples: its rows in the table and what gave them."""

import dataclasses
import json
import pathlib
import re
import shlex
import textwrap

import report

RESULTS = pathlib.Path(__file__).resolve().parent / "results"


@dataclasses.dataclass
class Task:
    """Rows of the table about one task, and how to repeat them.

    Args:
        title: The heading of its section.
        rows: Cells of each row behind the first, in the order of the headings.
        text: What the numbers are, and where those of papers stand.
        commands: What gave them.
    """

    title: str
    rows: list[tuple]
    text: str
    commands: list[str]

    def lines(self) -> list[str]:
        anchor = re.sub(r"[^a-z0-9 -]", "", self.title.lower())
        link = f"[{self.title}](#{anchor.replace(' ', '-')})"
        return [
            report.row(link if i == 0 else "", *(cell or "–" for cell in row))
            for i, row in enumerate(self.rows)
        ]

    def section(self) -> str:
        commands = "\n".join(over_seeds(self.commands))
        text = textwrap.fill(
            self.text, 120, break_long_words=False, break_on_hyphens=False
        )
        return f"### {self.title}\n\n{text}\n\n```\n{commands}\n```\n"


def over_seeds(commands: list[str]) -> list[str]:
    """Commands that differ in their seeds alone, as one loop of a shell."""
    seeds = {}
    for command in commands:
        match = re.search(r"--seed (\d+)", command)
        same = command.replace(match[0], "--seed $seed") if match else command
        seeds.setdefault(same, []).append((match and match[1], command))
    return [
        found[0][1]
        if len(found) == 1
        else f"for seed in {' '.join(s for s, _ in found)}; do {same}; done"
        for same, found in seeds.items()
    ]


def load(name: str) -> dict:
    return json.loads((RESULTS / name).read_text("utf-8"))


def percent(share: float) -> str:
    return f"{share:.2%}"


def flags(options: dict) -> str:
    """Options of a run as they are written on a command line."""
    parts = []
    for name, value in options.items():
        if value is not None:
            values = value if isinstance(value, list) else [value]
            parts += [f"--{name.replace('_', '-')}", *map(str, values)]
    return " ".join(map(_quoted, parts))


def _quoted(part: str) -> str:
    if part.isprintable():
        return shlex.quote(part)
    return f"$'{part.encode('unicode_escape').decode()}'"


def program(script: str, backend: str, options: dict) -> str:
    """The command that runs an example."""
    return (
        f"KERAS_BACKEND={backend} python examples/{script}.py {flags(options)}"
    )
