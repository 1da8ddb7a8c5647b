"""``picopinn report``: runs as a table in the terminal and as a page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from .. import describe
from ..errors import PicopinnError
from ..output import AsJson, show, show_json
from ..runs import Run, write_atomic
from .collect import story
from .page import page

PAGE = "report.html"


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    app.command("report")(_report)


def _report(
    runs: Annotated[list[Path], typer.Argument(help="Run directories.")],
    out: Annotated[
        Path | None, typer.Option(help="Page to write.", show_default=f"RUN/{PAGE}, or {PAGE} for several runs")
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="Write the page and print nothing.")] = False,
    json: AsJson = False,
) -> None:
    """Tell a run, or compare some: a table here and a page of HTML that holds all it needs."""
    found = [Run.open(path) for path in runs]
    figures = [_figures(run) for run in found]
    path = out or (runs[0] / PAGE if len(runs) == 1 else Path(PAGE))
    text = page([story(run, len(found)) for run in found])
    try:
        write_atomic(path, text.encode())
    except OSError as error:
        raise PicopinnError(f"cannot write {path}: {error.strerror or error}: choose another --out") from error
    if json:
        show_json({"runs": figures, "page": str(path)})
    elif not quiet:
        show(_table(figures))
        print(f"see {path}")


def _figures(run: Run) -> dict[str, Any]:
    """A run's line of the table; of one that has not ended the result is None."""
    settings, result = run.settings, run.result() or {}
    floors = result.get("trivial_floor")
    return {
        "run": str(run.path),
        "problem": settings.problem,
        "precision": settings.precision,
        "estimator": describe.estimator(settings),
        "parameters": result.get("parameters"),
        "step": run.checkpoint.step,
        "steps": settings.steps,
        "relative_l2": result.get("relative_l2"),
        "floor": min(floors.values()) if floors else None,
        "seconds": result.get("seconds"),
        "weights_sha256": result.get("weights_sha256"),
    }


def _table(figures: Sequence[dict[str, Any]]) -> Table:
    table = Table(box=None, pad_edge=False)
    for heading in ("run", "problem", "precision", "estimator"):
        table.add_column(heading, no_wrap=True)
    for heading in ("parameters", "steps", "relative L2", "floor", "seconds"):
        table.add_column(heading, no_wrap=True, justify="right")
    table.add_column("sha256", no_wrap=True)
    for one in figures:
        table.add_row(*map(escape, _cells(one)))
    return table


def _cells(one: dict[str, Any]) -> list[str]:
    cells = [one[name] for name in ("run", "problem", "precision", "estimator")]
    if one["relative_l2"] is None:
        return [*cells, "", f"{one['step']} of {one['steps']}"]
    return [
        *cells,
        f"{one['parameters']:,}",
        f"{one['steps']}",
        f"{one['relative_l2']:.2e}",
        f"{one['floor']:.2e}",
        f"{one['seconds']:.1f}",
        one["weights_sha256"][:12],
    ]
