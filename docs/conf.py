"""How Sphinx builds these pages; ``invoke docs`` runs it."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from contextlib import redirect_stdout
from unittest import mock

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective
from typer.main import get_command

from picopinn import __version__, cli

project = "picopinn"
release = __version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
html_theme = "furo"
html_title = f"picopinn {release}"
html_show_copyright = False
default_role = "literal"
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
napoleon_use_ivar = True
myst_heading_anchors = 3


class Commands(SphinxDirective):
    """A section with the help of each command."""

    def run(self) -> list[nodes.Node]:
        return [self._section(words) for words in _paths(get_command(cli.app), ())]

    def _section(self, words: tuple[str, ...]) -> nodes.section:
        title = " ".join(("picopinn", *words))
        section = nodes.section(ids=[nodes.make_id(title)])
        section += nodes.title(text=title)
        section += nodes.literal_block(text=_help(words), language="text")
        return section


def _paths(command: object, words: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    """The words of every command below one; of a group also the group itself."""
    if words:
        yield words
    for name, child in getattr(command, "commands", {}).items():
        yield from _paths(child, (*words, name))


def _help(words: tuple[str, ...]) -> str:
    with redirect_stdout(io.StringIO()) as out, mock.patch.dict(os.environ, COLUMNS="100", NO_COLOR="1"):
        cli.main([*words, "--help"])
    return "\n".join(line.rstrip() for line in out.getvalue().strip().splitlines())


def setup(app: Sphinx) -> None:
    """Called by Sphinx."""
    app.add_directive("commands", Commands)
