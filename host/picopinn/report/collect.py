"""What a page tells of a run: plain data for its script, facts and tables for its text."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from rich.table import Table

from .. import boards, describe, fit, pinta
from ..engine import Range
from ..errors import UsageError
from ..network import Floats
from ..problems import relative_l2
from ..runs import Ranges, Row, Run
from ..settings import FLOAT, Settings
from ..solver import Solver

BOARD = "rp2040"  # the board whose costs are told
_FEW = 16  # points a step that suit it
_STEPS = 2000  # points of a curve, about
_PLANE, _SLICE, _SLICES = 61, 41, 9  # points a side in two dimensions, and in more; slices
_SCATTER = 400  # test points that are drawn
_NOTHING = 0xFFFF  # stands for a number that is not finite

Data = dict[str, Any]  # what JSON holds


@dataclass(frozen=True)
class Story:
    """A run as it is told.

    Attributes:
        name, settings, environment: of the run.
        facts: what stands at the top, label and value.
        data: what the page's script draws.
    """

    name: str
    settings: Settings
    environment: Mapping[str, Any]
    facts: list[tuple[str, str]]
    data: Data


def story(run: Run, many: int = 1) -> Story:
    """What is told of a run as of its checkpoint; beside ``many`` others, less of each."""
    solver = run.settings.solver(1)
    solver.restore(run.checkpoint.state)
    floors = solver.problem.trivial_floor()
    return told(run, solver, floors, run.rows(), run.ranges(), run.checkpoint.seconds, many)


def told(
    run: Run,
    solver: Solver,
    floors: Mapping[str, float],
    rows: Sequence[Row],
    ranges: Ranges,
    seconds: float,
    many: int = 1,
) -> Story:
    """The same of a run whose solver, the floors of its problem, metrics and ranges are at hand."""
    data = {
        "name": str(run.path),
        "title": describe.title(run.settings),
        "steps": solver.steps,
        "floors": {name: _short(value) for name, value in floors.items()},
        **curves(rows, max(_STEPS // many, 200)),
        "true": dict(solver.problem.true_unknowns),
        "ranges": tensors(ranges),
        "field": field(solver, 1 if many > 1 else _SLICES),
    }
    return Story(str(run.path), run.settings, run.environment(), facts(solver, rows, floors, seconds), data)


def facts(solver: Solver, rows: Sequence[Row], floors: Mapping[str, float], seconds: float) -> list[tuple[str, str]]:
    """What stands at the top of the page."""
    network, truth = solver.network, solver.problem.true_unknowns
    errors = [row.relative_l2 for row in rows if row.relative_l2 is not None]
    fewer = network.dense_parameters / network.parameters
    return [
        ("relative L2 error", f"{errors[-1]:.2e}" if errors else "not measured yet"),
        *((f"best {name}", f"{value:.2e}") for name, value in floors.items()),
        ("step", f"{solver.step_number:,} of {solver.steps:,}"),
        ("seconds", f"{seconds:.1f}"),
        ("parameters", f"{network.parameters:,}" + (f", {fewer:.1f}x fewer than dense" if fewer > 1 else "")),
        *(
            (name, f"{value:.4f}" + (f" (true: {truth[name]:g})" if name in truth else ""))
            for name, value in solver.unknowns.items()
        ),
        ("weights sha256", solver.weights_sha256()[:12]),
    ]


# ---- curves


def curves(rows: Sequence[Row], most: int) -> Data:
    """Loss terms, unknowns and errors by step; of a long run every k-th step, and all that were evaluated."""
    every = -(-len(rows) // most) if rows else 1
    kept = [row for number, row in enumerate(rows) if number % every == 0 or row is rows[-1]]
    evaluated = [row for row in rows if row.relative_l2 is not None]
    terms = [{"loss": row.loss, "residual": row.residual, **row.conditions} for row in kept]
    return {
        "step": [row.step for row in kept],
        "loss": _columns(terms),
        "unknowns": _columns([row.unknowns for row in kept]),
        "error": {
            "step": [row.step for row in evaluated],
            "seconds": [round(row.seconds, 2) for row in evaluated],
            "relative_l2": [_short(row.relative_l2 or 0.0) for row in evaluated],
        },
    }


def _columns(rows: Sequence[Mapping[str, float]]) -> Data:
    """Lists by name."""
    return {name: [_short(row[name]) for row in rows] for name in (rows[0] if rows else ())}


def tensors(ranges: Ranges) -> Data | None:
    """How each tensor's numbers lay in their widths, by step; None if nothing was recorded."""
    by_tensor: dict[str, list[Range]] = {}
    for found in ranges.values():
        for one in found:
            by_tensor.setdefault(one.tensor, []).append(one)
    if not by_tensor:
        return None
    return {
        "step": list(ranges),
        "tensors": [
            {
                "name": name,
                "weights": [one.weights for one in found],
                "gradients": [one.gradients for one in found],
                "accumulator": [one.accumulator for one in found],
                "saturations": [one.saturations for one in found],
            }
            for name, found in by_tensor.items()
        ],
    }


def _short(number: float) -> float | None:
    """Five digits; None for what is no number."""
    return float(f"{number:.5g}") if np.isfinite(number) else None


# ---- the solution


def field(solver: Solver, slices: int) -> Data:
    """Solution, reference and error on the box that the test points span: along a line, on a plane, or on slices of the
    first two coordinates, the last one moving and all others in the middle.
    """
    problem, points = solver.problem, solver.problem.test_points()
    low, high = points.min(axis=0), points.max(axis=0)
    names = [f"x{column + 1}" for column in range(problem.dimensions)]
    if problem.time:
        names[-1] = "t"
    shown = min(problem.dimensions, 2)
    side = _PLANE if problem.dimensions <= 2 else _SLICE
    at = [None] if problem.dimensions <= 2 else list(np.linspace(low[-1], high[-1], slices + 2)[1:-1])
    planes = [_plane(low, high, side, shown, place) for place in at]
    pairs = [(solver.predict(plane), problem.solution(plane)) for plane in planes]
    result: Data = {
        "axes": [[names[k], _short(low[k]), _short(high[k])] for k in range(shown)],
        "along": None if at == [None] else names[-1],
        "middle": problem.dimensions > 3,
        "side": side,
        "at": [None if place is None else _short(place) for place in at],
        "relative_l2": [_error(*pair) for pair in pairs],
        **_packed(pairs),
    }
    if problem.dimensions > 2:
        some = points[:_SCATTER]
        result["scatter"] = {
            "u": [_short(value) for value in solver.predict(some)],
            "reference": [_short(value) for value in problem.solution(some)],
        }
    return result


def _error(u: Floats, reference: Floats) -> float | None:
    """The relative L2 error; None where the reference is zero or not known."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return _short(relative_l2(u, reference))


def _plane(low: Floats, high: Floats, side: int, shown: int, last: float | None) -> Floats:
    """Points (side^shown, D), the first coordinate slowest."""
    points = np.tile((low + high) / 2, (side**shown, 1))
    axes = np.meshgrid(*(np.linspace(low[k], high[k], side) for k in range(shown)), indexing="ij")
    for k, axis in enumerate(axes):
        points[:, k] = axis.ravel()
    if last is not None:
        points[:, -1] = last
    return points


def _packed(pairs: Sequence[tuple[Floats, Floats]]) -> Data:
    """Both functions on one scale and their differences on another: 16 bits a number, base64."""
    both = np.concatenate([values for pair in pairs for values in pair])
    errors = [u - reference for u, reference in pairs]  # nan where a reference is not known
    limit = max(map(abs, _span(np.concatenate(errors))))
    spans = {"u": _span(both), "error": [-limit, limit]}
    slices = [
        {"u": _pack(u, spans["u"]), "reference": _pack(r, spans["u"]), "error": _pack(e, spans["error"])}
        for (u, r), e in zip(pairs, errors, strict=True)
    ]
    return {"spans": spans, "slices": slices}


def _span(values: Floats) -> list[float]:
    finite = values[np.isfinite(values)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
    return [low, high if high > low else low + (abs(low) or 1.0)]  # a constant needs some width


def _pack(values: Floats, span: Sequence[float]) -> str:
    low, high = span
    known = np.isfinite(values)
    share = (np.where(known, values, low) - low) / (high - low)
    levels = np.where(known, np.rint(share * (_NOTHING - 1)), _NOTHING)
    return base64.b64encode(levels.astype("<u2").tobytes()).decode()


# ---- tables of costs


def costs(settings: Settings) -> list[tuple[str, Table | str]]:
    """What such a network costs: titles with a table each, or the reason why there is none."""
    integers = settings.precision != FLOAT
    program, directions = describe.program(settings)
    found: list[tuple[str, Table | str]] = [
        ("Layers", describe.table(describe.layers(settings.network(), program), integers))
    ]
    if integers:
        found.append(("Memory of a device", describe.device_table(program, directions)))
        found += [(f"{boards.load(BOARD).title}, {settings.batch} points", _board(settings))]
        if settings.batch > _FEW:
            found.append((f"{boards.load(BOARD).title}, {_FEW} points", _board(replace(settings, batch=_FEW))))
    if (gains := pinta.gains(settings.problem)) is not None:
        found.append(("What an accelerator would gain (a model, at published settings)", gains))
    return found


def _board(settings: Settings) -> Table | str:
    board = boards.load(BOARD)
    try:
        memory, step = fit.training(settings, board)
    except UsageError as error:
        return str(error)
    return fit.table(memory, step, board)
