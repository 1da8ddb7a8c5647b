"""The page: one file of HTML with its style, script and data inside, so that it asks for nothing."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from html import escape
from importlib.resources import files
from typing import Any

from rich.table import Table

from ..settings import Settings
from .collect import Data, Story, costs

_MARK = re.compile(r"\{\{(\w+)\}\}")


def page(stories: Sequence[Story], live: bool = False, version: int = 0) -> str:
    """The page of one run, or one that compares some; ``live`` lets it ask for what is newer than ``version``."""
    alone = len(stories) == 1
    title = stories[0].data["title"] if alone else f"{len(stories)} runs"
    parts = {
        "style": _file("style.css"),
        "script": _file("script.js"),
        "title": escape(title),
        "subtitle": escape(stories[0].name if alone else "compared"),
        "top": _facts(stories[0]) if alone else _comparison(stories),
        "tables": _one(stories[0]) if alone else "",
        "data": as_json(data(stories, live, version)),
        "connect": "'self'" if live else "'none'",
    }
    return _MARK.sub(lambda mark: parts[mark[1]], _file("page.html"))


def data(stories: Sequence[Story], live: bool, version: int) -> Data:
    """What the script draws; ``version`` grows as a run goes on."""
    return {
        "live": live,
        "version": version,
        "facts": stories[0].facts if len(stories) == 1 else [],
        "runs": [story.data for story in stories],
    }


def as_json(table: Data) -> str:
    """JSON that stands inside HTML."""
    return json.dumps(table, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")


def _file(name: str) -> str:
    return (files(__package__) / "html" / name).read_text(encoding="utf-8")


# ---- tables


def _one(story: Story) -> str:
    sections = [
        _section(title, what if isinstance(what, Table) else f"<p>{escape(what)}</p>")
        for title, what in costs(story.settings)
    ]
    sections.append(_section("Settings", _pairs(_settings(story.settings))))
    sections.append(_section("Environment", _pairs(story.environment.items())))
    return "".join(sections)


def _comparison(stories: Sequence[Story]) -> str:
    """A line a run: its error, the settings in which they differ, and what else came of them."""
    rows = [dict(_settings(story.settings)) for story in stories]
    differ = [key for key in rows[0] if len({row[key] for row in rows}) > 1]
    same = ", ".join(f"{key} {value}" for key, value in rows[0].items() if key not in differ)
    facts = [dict(story.facts) for story in stories]
    error, *others = dict.fromkeys(label for told in facts for label in told)  # problems have different unknowns
    lines = [
        [story.name, told[error], *(row[key] for key in differ), *(told.get(label, "") for label in others)]
        for story, row, told in zip(stories, rows, facts, strict=True)
    ]
    return _table(["run", error, *differ, *others], lines) + f'<p class="soft">The same in all: {escape(same)}.</p>'


def _section(title: str, what: Table | str) -> str:
    """A table of many columns takes the width of the page."""
    wide = ' class="wide"' if isinstance(what, Table) and len(what.columns) > 4 else ""
    text = _rich(what) if isinstance(what, Table) else what
    return f"<section{wide}><h2>{escape(title)}</h2>{text}</section>"


def _settings(settings: Settings) -> list[tuple[str, str]]:
    return [(key, _value(value)) for key, value in asdict(settings).items()]


def _value(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} = {_value(part)}" for key, part in value.items()) or "none"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(str, value))
    return "none" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def _facts(story: Story) -> str:
    pairs = (f"<div><dt>{escape(label)}</dt><dd>{escape(value)}</dd></div>" for label, value in story.facts)
    return f'<dl id="facts">{"".join(pairs)}</dl>'


def _pairs(pairs: Iterable[tuple[str, Any]]) -> str:
    return _table([], [[key, _value(value)] for key, value in pairs])


def _rich(table: Table) -> str:
    """A terminal's table as one of a page."""
    headings = [str(column.header) for column in table.columns]
    rows = [[str(cell) for cell in cells] for cells in zip(*(column.cells for column in table.columns), strict=True)]
    return _table(headings, rows, [row.end_section for row in table.rows])


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]], ends: Sequence[bool] = ()) -> str:
    """The first column names its row; ``ends`` marks rows that a line follows."""
    head = "".join(f'<th scope="col">{escape(heading)}</th>' for heading in headings)
    lines = []
    for number, (name, *cells) in enumerate(rows):
        mark = ' class="end"' if ends and ends[number] else ""
        rest = "".join(f"<td>{escape(cell)}</td>" for cell in cells)
        lines.append(f'<tr{mark}><th scope="row">{escape(name)}</th>{rest}</tr>')
    top = f"<thead><tr>{head}</tr></thead>" if headings else ""
    return f'<div class="table" tabindex="0"><table>{top}<tbody>{"".join(lines)}</tbody></table></div>'
