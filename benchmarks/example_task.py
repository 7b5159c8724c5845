"""A task of the examples: its rows in the table and what gave them."""

import dataclasses
import json
import pathlib
import re
import shlex
import textwrap

import report

RESULTS = pathlib.Path(__file__).resolve().parent / "results"


@dataclasses.dataclass(frozen=True)
class Row:
    """A row of the table, behind its first cell: a column for each field."""

    model: str
    score: str
    _: dataclasses.KW_ONLY
    lstm: str = ""
    transformer: str = ""
    simplest: str = ""
    published: str = ""
    parameters: int
    time: str


@dataclasses.dataclass(frozen=True)
class Task:
    """Rows of the table about one task, and how to repeat them.

    Args:
        title: The heading of its section.
        data: A word for it.
        rows: The rows.
        text: What the numbers are, and where those of papers stand.
        commands: What gave them.
    """

    title: str
    data: str
    rows: list[Row]
    text: str
    commands: list[str]

    def lines(self) -> list[str]:
        """The lines of the table."""
        first = f"[{self.title}](#{anchor(self.title)}), {self.data}"
        lines = []
        for row in self.rows:
            shown = dataclasses.replace(row, parameters=f"{row.parameters:,}")
            cells = [cell or "–" for cell in dataclasses.astuple(shown)]
            lines.append(report.row("" if lines else first, *cells))
        return lines

    def section(self) -> str:
        commands = "\n".join(over_seeds(self.commands))
        text = textwrap.fill(
            self.text, 120, break_long_words=False, break_on_hyphens=False
        )
        return f"### {self.title}\n\n{text}\n\n```\n{commands}\n```\n"


def anchor(title: str) -> str:
    """What a link to a heading ends with."""
    return re.sub(r"[^a-z0-9 -]", "", title.lower()).replace(" ", "-")


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
