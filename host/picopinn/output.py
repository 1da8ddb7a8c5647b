"""What commands print: tables for a person, or JSON and nothing else for a machine."""

from __future__ import annotations

import json
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")]


def show(table: Table) -> None:
    """Print a table; outside a terminal as wide as it needs."""
    console = Console()
    (console if console.is_terminal else Console(width=200)).print(table)


def show_json(value: dict[str, Any] | list[Any]) -> None:
    """Print an object or a list; numbers that JSON lacks (NaN, infinities) become null."""
    text = json.dumps(value, default=_plain)
    print(json.dumps(json.loads(text, parse_constant=lambda name: None), indent=2))


def _plain(value: Any) -> Any:
    """NumPy's numbers as numbers, paths as texts."""
    return value.item() if isinstance(value, np.generic) else str(value)
