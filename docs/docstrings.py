"""Makes our docstrings and packages known to mkdocstrings."""

import re
import textwrap

import griffe

CALL = re.compile(r"^Call arguments:$", re.MULTILINE)
# A title, and the text below it if that is indented.
PLAIN = re.compile(
    r"^(Example|Reference):\n((?:(?: {4}.*)?\n)*(?: {4}.*)?)", re.MULTILINE
)


class Ours(griffe.Extension):
    """Rewrites sections that the Google style lacks, and finds functions.

    An op's module is called like the op, and a package has one member of a
    name: here it is the function.
    """

    def on_package(self, *, pkg, **kwargs):
        self._visit(pkg)

    def _visit(self, parent):
        if parent.docstring is not None:
            parent.docstring.value = sections(parent.docstring.value)
        for name, member in list(parent.members.items()):
            if member.is_alias:
                continue
            self._visit(member)
            if parent.is_module and _is_exported(parent, name, member):
                function = member.members[name]
                alias = griffe.Alias(name, function, parent=parent)
                parent.members[name] = alias


def sections(text):
    """A docstring with titles that its parser knows."""
    text = CALL.sub("Args: Call arguments", text)
    return PLAIN.sub(
        lambda found: f"**{found[1]}**\n\n{textwrap.dedent(found[2])}", text
    )


def _is_exported(package, name, member):
    exports = [str(export) for export in package.exports or ()]
    return member.is_module and name in exports and name in member.members
