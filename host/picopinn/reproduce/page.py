"""The page of results: tables in Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ..problems import get
from ..settings import Settings
from .blocks import costs
from .rows import DEFAULT
from .summary import Line, against_float, comparisons, find, floors, processor

_HEAD = """# Results

Written by {command}; every row's command trains its first seed, `--seed 1` and so on the others. Errors are relative
L2 at the problem's test points: mean, sample standard deviation, seeds. "to float" divides the mean by that of dense
float32 with the same steps and points, over the seeds that both have. Bytes are those of the parameters as they travel.
Milliseconds a step are processor time on one thread, the median of the seeds that ran on the processor which most of
the default row's seeds had. A floor is what the best constant or linear function reaches. Each run's result lies in
`results/`, one file each; the same command trains the seeds that a row lacks.
"""
_COLUMNS = ("row", "parameters", "bytes", "relative L2", "std", "seeds", "to float", "ms/step", "command")


def page(tables: Sequence[Line], command: str, pictures: Iterable[str]) -> str:
    """The whole page.

    Args:
        tables: rows with results, in order, problem by problem.
        command: that wrote it.
        pictures: file names beside the page.
    """
    parts = [_HEAD.format(command=command), _machines(tables)]
    for problem in dict.fromkeys(line.row.problem for line in tables):
        parts.append(_problem(problem, [line for line in tables if line.row.problem == problem]))
    parts += [_claims(tables), _blocks(tables)]
    parts += [f"![{name.removesuffix('.png')}]({name})\n" for name in pictures]
    return "\n".join(part for part in parts if part)


def _machines(lines: Sequence[Line]) -> str:
    seen = dict.fromkeys(
        f"{e['cpu']}, {e['platform']}, Python {e['python']}, NumPy {e['numpy']}, picopinn {e['picopinn']}"
        for line in lines
        for result in line.results
        for e in (result["environment"],)
    )
    return "Machine and versions: " + "; ".join(seen) + ".\n"


def _problem(problem: str, lines: Sequence[Line]) -> str:
    kind = get(problem)
    told = ", ".join(f"best {name} {error:.2e}" for name, error in floors(problem).items())
    cpu = processor(lines)
    text = f"## {problem}\n\n{kind.description}. Default: {_default(problem)}. Floors: {told}. Times: {cpu}.\n\n"
    text += _table(_COLUMNS, [_cells(lines, line, cpu) for line in lines])
    for name, true in kind.true_unknowns.items():
        text += f"\n`{name}` is {true:g}:\n\n" + _table(
            ("row", "found, by seed", "largest error"), [_found(line, name, true) for line in lines if line.errors]
        )
    return text


def _default(problem: str) -> str:
    """What the row of this name trains."""
    s = Settings.of(problem)
    layers = f"{s.layers} hidden layers of {s.hidden}, TT {'x'.join(map(str, s.tt or ()))} rank {s.rank}"
    layers += ", orthogonal at first" if s.init == "orthogonal" else ""
    length = f"{s.steps:,} steps of {s.batch} points, learning rate {s.learning_rate:g}"
    return f"{s.precision}, {layers}, {s.activation}, {s.estimator} K = {s.directions}, {length}"


def _cells(lines: Sequence[Line], line: Line, cpu: str) -> list[str]:
    first, ratio, time = line.results[0], against_float(lines, line), line.milliseconds(cpu)
    failed = [result["failed"] for result in line.results if "failed" in result]
    error = f"failed: {failed[0]}" if failed else f"{line.mean:.2e}"
    return [
        line.row.name,
        f"{first['parameters']:,}" if "parameters" in first else "",
        f"{first['bytes']:,}",
        error,
        f"{line.deviation:.1e}" if len(line.errors) > 1 else "",
        str(len(line.results)),
        f"{ratio:.2f}" if ratio is not None and not failed else "",
        "" if time is None else f"{time:.3g}",
        f"`{line.row.command}`",
    ]


def _found(line: Line, name: str, true: float) -> list[str]:
    values = line.unknown(name)
    worst = max(abs(value / true - 1) for value in values)
    return [line.row.name, ", ".join(f"{value:.4f}" for value in values), f"{worst:.2%}"]


def _claims(lines: Sequence[Line]) -> str:
    rows = [
        [one.claim, one.problem, one.worse, one.better, f"{one.ratio:.3g}x", "yes" if one.holds else "no"]
        for one in comparisons(lines)
    ]
    if not rows:
        return ""
    return "## What each part does\n\n" + _table(("claim", "problem", "error of", "against", "ratio", "holds"), rows)


def _blocks(lines: Sequence[Line]) -> str:
    """SMX against one-dimensional blocks, of the default row of each problem."""
    rows = []
    for problem in dict.fromkeys(line.row.problem for line in lines):
        if (line := find(lines, problem, DEFAULT)) is None:
            continue
        square, twice = costs(Settings.of(problem, **line.row.given))
        rows.append([
            problem,
            f"{square.elements:,}",
            f"{twice.elements:,}",
            f"{square.nbytes:,}",
            f"{twice.nbytes:,}",
            f"{twice.nbytes / square.nbytes:.2f}x",
        ])  # fmt: skip
    columns = ("problem", "quantized, SMX", "one-dimensional", "bytes, SMX", "one-dimensional", "ratio")
    text = "One square block instead of two copies along either axis, counted for a training step:\n\n"
    return text + _table(columns, rows) if rows else ""


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
