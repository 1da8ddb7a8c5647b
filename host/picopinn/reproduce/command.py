"""``picopinn reproduce``: trains what has no result yet, then writes the page and its pictures."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from ..errors import PicopinnError, UsageError
from ..runs import RUNS, write_atomic
from . import pictures
from .cells import Cell, cells, load, train
from .page import page
from .rows import DEFAULT, MASKING_SIGMAS, Row, masking, wanted
from .summary import Line, comparisons, find, floors


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    app.command("reproduce")(_reproduce)


def _reproduce(
    problems: Annotated[list[str] | None, typer.Argument(help="Problems.", show_default="all")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Few steps, one seed: minutes.")] = False,
    out: Annotated[Path | None, typer.Option(help="Folder to write.", show_default="docs, quick: runs/quick")] = None,
    seeds: Annotated[int | None, typer.Option(help="Seeds a row, at most.", min=1, show_default="5")] = None,
    jobs: Annotated[int, typer.Option(help="Runs side by side.", min=1)] = 1,
    write_only: Annotated[bool, typer.Option("--write-only", help="Train nothing; write what there is.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print errors only.")] = False,
) -> None:
    """Train every row of the table of results, and write it. An interrupted call is continued by the same call."""
    folder = out or (RUNS / "quick" if quick else Path("docs"))
    rows = wanted(problems or [], quick)
    asked = cells(rows, seeds)
    results = folder / "results"
    console = Console(quiet=quiet)
    left = [cell for cell in asked if load(cell, results) is None]
    missing = "without a result" if write_only else "to train"
    console.print(f"{len(asked)} runs, {len(left)} {missing}", highlight=False)
    done = len(asked) - len(left)

    def show(cell: Cell, result: dict[str, Any]) -> None:
        nonlocal done
        done += 1
        found = result.get("failed") or f"relative L2 {result['relative_l2']:.2e} in {result['seconds']:.1f} s"
        name = f"{cell.row.problem}, {cell.row.name}, seed {cell.seed}"
        console.print(f"{done}/{len(asked)}  {name}: {found}", highlight=False, soft_wrap=True)

    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        train([] if write_only else asked, results, RUNS / "reproduce", jobs, show)
    except KeyboardInterrupt as error:
        raise PicopinnError("stopped; every finished run is kept: the same command continues") from error
    lines = [line for row in rows if (line := _line(row, asked, results)).results]
    if not lines:
        raise UsageError(f"there are no results in {results}: leave out --write-only, and they are trained")
    written = write(lines, folder, _command(problems, quick, seeds))
    if quick:
        check(lines)
    console.print(f"see {written}", highlight=False, soft_wrap=True)


def _command(problems: Sequence[str] | None, quick: bool, seeds: int | None) -> str:
    words = ["picopinn reproduce", *(problems or []), *(["--quick"] if quick else [])]
    return f"`{' '.join(words + ([f'--seeds {seeds}'] if seeds else []))}`"


def _line(row: Row, asked: Sequence[Cell], folder: Path) -> Line:
    found = [load(cell, folder) for cell in asked if cell.row is row]
    return Line(row, [result for result in found if result is not None])


def write(lines: Sequence[Line], folder: Path, command: str) -> Path:
    """Write ``results.md`` and its pictures to a folder; returns the page's path."""
    curve = {(row.problem, row.name) for row in masking()}
    masked = [line for line in lines if (line.row.problem, line.row.name) in curve]
    tables = [line for line in lines if line not in masked]
    drawn = {"results-steps.png": pictures.by_steps(tables), "results-bytes.png": pictures.by_bytes(tables)}
    if len(masked) == 3 * len(MASKING_SIGMAS):
        drawn["results-masking.png"] = pictures.masking(masked)
    for name, picture in drawn.items():
        write_atomic(folder / name, picture)
    path = folder / "results.md"
    write_atomic(path, page(tables, command, list(drawn)).encode())
    return path


def check(lines: Sequence[Line]) -> None:
    """That the orderings hold which a short run can show.

    Raises:
        PicopinnError: one does not, or a run failed.
    """
    for line in lines:
        failed = [result["failed"] for result in line.results if "failed" in result]
        if failed:
            raise PicopinnError(f"{line.row.problem}, {line.row.name} failed: {failed[0]}")
    told = [one for one in comparisons(lines) if one.bar > 1]
    for one in told:
        if not one.holds:
            raise PicopinnError(
                f"{one.claim}: on {one.problem} {one.worse!r} has {one.ratio:.2f} times the error of {one.better!r}, "
                f"expected {one.bar:g} times or more"
            )
    learned = find(lines, "poisson2d", DEFAULT)
    if learned and learned.mean > min(floors("poisson2d").values()):
        raise PicopinnError(f"the default run of poisson2d ends at {learned.mean:.2e}, above the best linear function")
