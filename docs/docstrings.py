"""Makes our docstrings and packages known to mkdocstrings."""

import re
import textwrap

import griffe

CALL = re.compile(r"^Call arguments:$", re.MULTILINE)
KEYWORD = griffe.ParameterKind.keyword_only
# An entry of a section, `name: what it is`.
ARGUMENT = re.compile(r"^ {4}(\w+): ", re.MULTILINE)
# A title, and the text below it if that is indented.
PLAIN = re.compile(
    r"^(Example|Reference):\n((?:(?: {4}.*)?\n)*(?: {4}.*)?)", re.MULTILINE
)


class Ours(griffe.Extension):
    """Rewrites sections that the Google style lacks, and completes signatures.

    An op's module is called like the op, and a package has one member of a
    name: here it is the function. What a class hands on as `**kwargs` to its
    bases is in its signature, if its docstring has it.
    """

    def on_package(self, *, pkg, **kwargs):
        self._visit(pkg)
        for package in pkg.modules.values():
            for module in package.modules.values():
                for class_ in module.classes.values():
                    if not class_.is_alias and class_.docstring is not None:
                        complete(class_)

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


def complete(class_):
    """Adds to a signature what its docstring says and its bases take."""
    init = class_.members.get("__init__")
    *own, last = init.parameters if init else [None]
    if not last or last.kind is not griffe.ParameterKind.var_keyword:
        return
    bases = reversed(list(_bases(class_)))
    known = {p.name: p for base in bases for p in base.parameters}
    known |= {p.name: p for p in own}
    names = ARGUMENT.findall(class_.docstring.value)
    keywords = [
        *(known[name] for name in names if name in known),
        *(p for p in own if p.name not in names),
    ]
    positional = [p for p in own if p.kind is not KEYWORD]
    keywords = [p for p in keywords if p not in positional]
    init.parameters = griffe.Parameters(*positional, *keywords, last)


def _bases(class_):
    """Those of this library, the nearest first."""
    for base in class_.resolved_bases:
        yield base
        yield from _bases(base)


def _is_exported(package, name, member):
    exports = [str(export) for export in package.exports or ()]
    return member.is_module and name in exports and name in member.members
