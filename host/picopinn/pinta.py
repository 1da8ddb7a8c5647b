"""``picopinn workload`` and ``picopinn pinta``: training steps as operations, and what an accelerator makes of them."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table
from typer.core import TyperGroup

import pinta_model
from pinta_model import plots
from pinta_model.baselines import claimed, rp2040_watts
from pinta_model.compare import Rung, ladder
from pinta_model.energy import areas_mm2
from pinta_model.explore import Sweep, sweep
from pinta_model.report import csv_text, figure, json_text, rows, summary

from . import boards, fit, workload
from .errors import UsageError
from .estimators import Estimator, Kind
from .network import DEFAULT_PRECISION, Activation, Network, Precision
from .output import AsJson, show, show_json
from .problems import REGISTRY
from .settings import Settings
from .smx import blocks_of


@dataclass(frozen=True)
class Setting:
    """How a problem is trained: its network and points, and the directions of the published Stein estimator."""

    dimensions: int
    hidden: int
    layers: int
    activation: Activation
    tt: tuple[int, ...]
    rank: int
    interior: int
    boundary: int
    pairs: int
    sigma: float

    def network(self, dense: bool = False) -> Network:
        """Its network; the hidden square layers as tensor trains unless ``dense``."""
        return Network(
            self.dimensions,
            hidden=self.hidden,
            layers=self.layers,
            tt=None if dense else self.tt,
            rank=self.rank,
            activation=self.activation,
        )


# Antithetic pairs and sigma: He et al. (AISTATS 2023) for poisson2d and heat100d, Zhao et al. (arXiv 2308.09858) for
# hjb20d. Networks and points are those of `picopinn train`, which are theirs but for the tensor trains.
_PUBLISHED = {"poisson2d": (512, 0.01), "hjb20d": (1024, 0.1), "heat100d": (1024, 0.01)}


def setting_of(problem: str) -> Setting:
    """What `picopinn train` takes for a problem, and published pairs; where there are none, as many as dimensions.

    Raises:
        UsageError: no such problem.
    """
    if problem not in REGISTRY:
        known = ", ".join(sorted(REGISTRY))
        raise UsageError(f"problem {problem!r} is unknown: the problems are {known}, or give a workload file")
    settings = Settings.of(problem)
    network, conditions = settings.network(), len(settings.pde().conditions())
    pairs, sigma = _PUBLISHED.get(problem, (network.inputs, Estimator.sigma))
    return Setting(
        network.inputs,
        network.hidden,
        network.layers,
        network.activation,
        network.tt or (network.hidden,),
        network.rank,
        settings.batch,
        settings.batch * conditions,
        pairs,
        sigma,
    )


def workload_text(
    problem: str,
    estimator: Estimator,
    precision: str = DEFAULT_PRECISION,
    dense: bool = False,
    batch: int | None = None,
) -> str:
    """A training step of a problem as JSON; ``batch`` points inside, and as many on the boundary if it has any there.

    Raises:
        UsageError: no such problem, or a size that cannot be.
    """
    setting = setting_of(problem)
    if batch is not None:
        if batch < 1:
            raise UsageError(f"batch must be at least 1, got {batch}")
        setting = replace(setting, interior=batch, boundary=batch if setting.boundary else 0)
    program = setting.network(dense).program(Precision.parse(precision), estimator.mode())
    directions = estimator.count(setting.dimensions)
    return workload.to_json(problem, program, setting.interior, setting.boundary, directions, setting.dimensions)


class _CompareFirst(TyperGroup):
    """``picopinn pinta poisson2d`` means ``picopinn pinta compare poisson2d``."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in self.commands and not args[0].startswith("-"):
            args = ["compare", *args]
        return super().parse_args(ctx, args)


app = typer.Typer(cls=_CompareFirst, no_args_is_help=True, help="A model of an accelerator for these training steps.")

Problems = Annotated[list[str], typer.Argument(help="Problems whose steps on other machines were counted.")]
Config = Annotated[Path | None, typer.Option(help="Architecture file.", show_default="pinta-default")]
KindOption = Annotated[Kind, typer.Option("--estimator", help="How derivatives are estimated.")]
Directions = Annotated[int | None, typer.Option(help="Directions K.", show_default="D; gaussian: 64")]
Widths = Annotated[str, typer.Option(help="Mantissa widths.")]
Dense = Annotated[bool, typer.Option("--dense", help="Plain hidden layers, no tensor trains.")]


def add_to(parent: typer.Typer) -> None:
    """Add both commands to the command line."""
    parent.command("workload")(_workload)
    parent.add_typer(app, name="pinta")


def _workload(
    problem: Annotated[str, typer.Argument(help="Name of a problem.")],
    estimator: KindOption = "jet",
    directions: Directions = None,
    precision: Widths = DEFAULT_PRECISION,
    dense: Dense = False,
    batch: Annotated[
        int | None, typer.Option(help="Points inside, and on the boundary.", show_default="as trained")
    ] = None,
    json: AsJson = False,  # as `picopinn pinta` reads it
) -> None:
    """Print one training step as a list of operations."""
    text = workload_text(problem, Estimator(estimator, directions=directions), precision, dense, batch)
    if json:
        print(text)
        return
    table = Table(box=None, pad_edge=False)
    for heading in ("section", "operation", "phase", "stream"):
        table.add_column(heading)
    for heading in ("m x k x n, or numbers", "widths, or unit", "times"):
        table.add_column(heading, justify="right")
    for section, operation in pinta_model.loads(text, problem).operations():
        if isinstance(operation, pinta_model.workload.Gemm):
            size, width = f"{operation.m} x {operation.k} x {operation.n}", f"{operation.bits_a} x {operation.bits_b}"
        else:
            size, width = f"{operation.elements}", operation.unit
        cells = (section.name, operation.name, operation.phase, operation.stream, size, width, str(section.repeat))
        table.add_row(*cells)
    show(table)


@app.command("cost")
def _cost(
    problem: Annotated[str, typer.Argument(help="A problem, or a workload file (.json).")],
    config: Config = None,
    estimator: KindOption = "jet",
    directions: Directions = None,
    precision: Widths = DEFAULT_PRECISION,
    dense: Dense = False,
    by: Annotated[str, typer.Option(help="Sum over what: layer, phase, operation, level.")] = "layer",
    csv: Annotated[Path | None, typer.Option(help="Write every operation here.")] = None,
    json: AsJson = False,
    stepped: Annotated[bool, typer.Option("--stepped", help="Simulate cycle by cycle; slow.")] = False,
) -> None:
    """Cycles, stalls, bytes and picojoules of one training step, layer by layer."""
    design = design_of(config)
    step = _load(problem, Estimator(estimator, directions=directions), precision, dense)
    report = pinta_model.evaluate(step, design, stepped=stepped)
    if csv is not None:
        csv.write_text(csv_text(report), encoding="utf-8")
    if json:
        print(json_text(report))
        return
    table = Table(box=None, pad_edge=False)
    headings, lines = rows(report, by)
    for heading in headings:
        table.add_column(heading, justify="left" if heading in ("layer", "phase", "operation", "level") else "right")
    for line in lines:
        table.add_row(*line)
    show(table)
    print(summary(report))


@app.command("compare")
def _compare(
    problems: Problems,
    config: Config = None,
    plot: Annotated[Path | None, typer.Option(help="Write a picture of what each change gains.")] = None,
    json: AsJson = False,
) -> None:
    """Time and energy of a training step against a GPU, a CPU and a microcontroller (the default command)."""
    design, claim = design_of(config), claimed()
    ladders = {problem: _ladder(problem, design) for problem in problems}
    if plot is not None:
        plot.write_bytes(plots.waterfall(ladders, claim))
    if json:
        rungs_told = {problem: [_rung(rung) for rung in rungs] for problem, rungs in ladders.items()}
        areas = {name: float(area) for name, area in areas_mm2(design).items()}
        show_json({"design": design.name, "area_mm2": areas, "stated": asdict(claim), "problems": rungs_told})
        return
    for problem, rungs in ladders.items():
        show(_ladder_table(problem, rungs))
        print(_verdict(rungs))
    speed, energy = ("{:g}x to {:g}x".format(*span) for span in (claim.speedup, claim.energy_ratio))
    print(f"the literature states {speed} and {energy} for its own accelerator and problems ({claim.source})")
    parts = ", ".join(f"{name} {float(area):.2f}" for name, area in areas_mm2(design).items())
    print(f"{design.name}: {float(sum(areas_mm2(design).values())):.2f} mm2 ({parts})")


def _rung(rung: Rung) -> dict[str, Any]:
    told = ("name", "change", "seconds", "joules", "limit")
    return {key: getattr(rung, key) for key in told}


def gains(problem: str) -> Table | None:
    """What each change gains on the way from a GPU to the accelerator; None if the problem's steps were not counted."""
    try:
        return _ladder_table(problem, _ladder(problem, design_of(None)))
    except (UsageError, pinta_model.PintaError):
        return None


def _ladder(problem: str, design: pinta_model.Architecture) -> list[Rung]:
    return ladder(problem, list(_on_chip(problem)), design, [on_a_board(problem)])


def _on_chip(problem: str) -> Iterator[tuple[str, str, pinta_model.Workload]]:
    """Name, change and workload of the accelerator's rungs."""
    setting = setting_of(problem)
    pairs = Estimator("gaussian", sigma=setting.sigma, directions=setting.pairs)
    jets = Estimator("jet")
    for name, change, estimator, precision in (
        ("PINTA, TT, SE, w8a8g12", "", pairs, DEFAULT_PRECISION),
        ("PINTA, TT, jets, w16a16g16", "PINTA", jets, "w16a16g16"),
        ("PINTA, TT, jets, w8a8g12", "SMX8", jets, DEFAULT_PRECISION),
    ):
        yield name, change, pinta_model.loads(workload_text(problem, estimator, precision), problem)


def on_a_board(problem: str) -> Rung:
    """The last rung's step on an RP2040: cycles as the emulator's were fitted, power of its data sheet."""
    setting, board = setting_of(problem), boards.load("rp2040")
    program = setting.network().program(Precision.parse(DEFAULT_PRECISION), "jet")
    interior, boundary = blocks_of(setting.interior), blocks_of(setting.boundary)
    passes = [(interior, setting.dimensions), *([(boundary, 0)] if boundary else [])]
    try:
        memory = fit.memory(program, setting.dimensions, board, interior + boundary, board.cores)
        told = fit.cycles(program, passes, board, memory)
        cycles, limit = told.busy if told else math.nan, f"fits, {memory.cores} of {board.cores} cores"
    except UsageError:
        cycles, limit = fit.kernel_cycles(program, passes, board), "does not fit: extrapolated, both cores"
    seconds = cycles / board.clock_hz
    return Rung(f"RP2040, TT, jets, {DEFAULT_PRECISION}", "", seconds, seconds * rp2040_watts(), limit)


def _ladder_table(problem: str, rungs: Sequence[Rung]) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column(problem)
    for heading in ("ms a step", "speedup", "mJ a step", "energy ratio", "W"):
        table.add_column(heading, justify="right")
    table.add_column("what decides")
    for rung in rungs:
        speedup, ratio = rungs[0].seconds / rung.seconds, rungs[0].joules / rung.joules
        figures = (rung.seconds * 1e3, speedup, rung.joules * 1e3, ratio, rung.joules / rung.seconds)
        cells = (figure(value, unit) for value, unit in zip(figures, ("", "x", "", "x", ""), strict=True))
        table.add_row(rung.name, *cells, rung.limit)
    return table


def _verdict(rungs: Sequence[Rung]) -> str:
    """Whether the last rung lies in the stated ranges, and what it gains over the same step on other machines."""
    claim, last = claimed(), rungs[-1]
    parts = []
    for what, ratio, (low, high) in (
        ("speedup", rungs[0].seconds / last.seconds, claim.speedup),
        ("energy ratio", rungs[0].joules / last.joules, claim.energy_ratio),
    ):
        where = "below" if ratio < low else "above" if ratio > high else "inside"
        parts.append(f"{what} {figure(ratio, 'x')} {where} the stated {low:g}x to {high:g}x")
    same = [rung for rung in rungs[:-1] if "TT, jets" in rung.name and rung.report is None]
    others = "; ".join(_times(rung, last) for rung in same)
    return f"{'; '.join(parts)}\nthe same method elsewhere: {others}"


def _times(rung: Rung, last: Rung) -> str:
    """How often the last rung's time and energy another takes."""
    time = f"{rung.name.partition(',')[0]} {figure(rung.seconds / last.seconds, 'x')} the time"
    return time if math.isnan(rung.joules) else f"{time}, {figure(rung.joules / last.joules, 'x')} the energy"


@app.command("explore")
def _explore(
    problem: Annotated[str, typer.Argument(help="A problem, or a workload file (.json).")],
    config: Config = None,
    estimator: KindOption = "jet",
    directions: Directions = None,
    precisions: Annotated[str, typer.Option("--precisions", help="Widths to try, comma between.")] = "w8a8g12,w8a8g8",
    csv: Annotated[Path, typer.Option(help="Every design.")] = Path("designs.csv"),
    plot: Annotated[Path, typer.Option(help="Energy against time.")] = Path("designs.png"),
    json: AsJson = False,
) -> None:
    """Sweep grid size, widths, buffers, dataflow and clock; write every design and a picture."""
    design = design_of(config)
    widths = ["its own"] if problem.endswith(".json") else precisions.split(",")  # a file says its widths
    stein = Estimator(estimator, directions=directions)
    steps = {precision: _load(problem, stein, precision, False) for precision in widths}
    start = time.perf_counter()
    found = sweep(steps, design)
    seconds = time.perf_counter() - start
    own = pinta_model.evaluate(next(iter(steps.values())), design)
    csv.write_text(found.csv_text(), encoding="utf-8")
    plot.write_bytes(plots.pareto(found, problem, (float(own.seconds), float(own.pj) * 1e-12)))
    if json:
        frontier = [{key: values[row] for key, values in found.columns.items()} for row in found.frontier]
        show_json({"designs": len(found), "refused": found.refused, "seconds": seconds, "frontier": frontier})
        return
    show(_frontier_table(found))
    refused = f", {found.refused} refused (buffers too small for a tile)" if found.refused else ""
    print(f"{len(found):,} designs in {seconds:.1f} s{refused}; see {csv} and {plot}")
    print(summary(own))


def _frontier_table(found: Sweep) -> Table:
    table = Table(box=None, pad_edge=False)
    shown = ("widths", "rows", "cols", "slice_multipliers", "clock_mhz", "activation_kib", "dataflow")
    for heading in (*shown, "ms", "uJ", "mm2", "utilization", "bottleneck"):
        table.add_column(heading, justify="left" if heading in ("widths", "dataflow", "bottleneck") else "right")
    columns = found.columns
    for row in found.frontier:
        figures = (
            figure(columns["seconds"][row] * 1e3),
            figure(columns["pj"][row] * 1e-6),
            f"{columns['area_mm2'][row]:.2f}",
            f"{columns['utilization'][row]:.1%}",
        )
        table.add_row(*(f"{columns[key][row]}" for key in shown), *figures, str(columns["bottleneck"][row]))
    return table


def design_of(config: Path | None) -> pinta_model.Architecture:
    """The architecture of a file, or the default."""
    return pinta_model.default() if config is None else pinta_model.read(config)


def _load(problem: str, estimator: Estimator, precision: str, dense: bool) -> pinta_model.Workload:
    if problem.endswith(".json"):
        return pinta_model.load(Path(problem))
    return pinta_model.loads(workload_text(problem, estimator, precision, dense), problem)
