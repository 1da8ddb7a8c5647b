"""``picopinn workload`` and ``picopinn pinta``: training steps as operations, and what an accelerator makes of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

import pinta_model
from pinta_model.report import csv_text, json_text, rows, summary

from . import workload
from .errors import UsageError
from .estimators import Estimator, Kind
from .network import DEFAULT_PRECISION, Activation, Network, Precision
from .problems import REGISTRY


@dataclass(frozen=True)
class Setting:
    """How a published work trained a problem: dense network, batch, directions of its Stein estimator."""

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
    source: str

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


# Sizes, batches and directions are those of the sources; the tensor trains are this project's, of hjb20d its rank.
_HE = "He et al., AISTATS 2023"
SETTINGS = {
    "poisson2d": Setting(2, 256, 3, "tanh", (16, 16), 8, 100, 100, 512, 0.01, _HE),
    "hjb20d": Setting(21, 512, 2, "sine", (16, 32), 2, 100, 0, 1024, 0.1, "Zhao et al., tensor-train PINNs"),
    "heat100d": Setting(101, 256, 3, "tanh", (16, 16), 8, 50, 100, 1024, 0.01, _HE),
}


def setting_of(problem: str) -> Setting:
    """The published setting of a problem, or this project's defaults for one that has none.

    Raises:
        UsageError: no such problem.
    """
    if problem in SETTINGS:
        return SETTINGS[problem]
    if problem not in REGISTRY:
        known = ", ".join(sorted({*SETTINGS, *REGISTRY}))
        raise UsageError(f"problem {problem!r} is unknown: the problems are {known}, or give a workload file")
    dimensions = REGISTRY[problem].dimensions
    plain = Network(dimensions)
    tt = plain.tt or (plain.hidden,)
    return Setting(
        dimensions, plain.hidden, plain.layers, plain.activation, tt, plain.rank, 100, 100, dimensions, 0.01, "defaults"
    )


def workload_text(problem: str, estimator: Estimator, precision: str = DEFAULT_PRECISION, dense: bool = False) -> str:
    """A training step of a problem as JSON."""
    setting = setting_of(problem)
    program = setting.network(dense).program(Precision.parse(precision), estimator.mode)
    directions = estimator.count(setting.dimensions)
    return workload.to_json(problem, program, setting.interior, setting.boundary, directions, setting.dimensions)


app = typer.Typer(no_args_is_help=True, help="A model of an accelerator for these very training steps.")

Problems = Annotated[list[str], typer.Argument(help="Problems, or workload files (.json).")]
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
    json: Annotated[bool, typer.Option("--json", help="The whole list, as `picopinn pinta` reads it.")] = False,
) -> None:
    """Print one training step as a list of operations."""
    text = workload_text(problem, Estimator(estimator, directions=directions), precision, dense)
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
    by: Annotated[str, typer.Option(help="Sum over what: layer, phase, operation.")] = "layer",
    csv: Annotated[Path | None, typer.Option(help="Write every operation here.")] = None,
    json: Annotated[Path | None, typer.Option(help="Write every operation and the totals here.")] = None,
    stepped: Annotated[bool, typer.Option("--stepped", help="Simulate cycle by cycle; slow.")] = False,
) -> None:
    """Cycles, stalls, bytes and picojoules of one training step, layer by layer."""
    design = design_of(config)
    step = _load(problem, Estimator(estimator, directions=directions), precision, dense)
    report = pinta_model.evaluate(step, design, stepped=stepped)
    for path, text in ((csv, csv_text), (json, json_text)):
        if path is not None:
            path.write_text(text(report), encoding="utf-8")
    table = Table(box=None, pad_edge=False)
    headings, lines = rows(report, by)
    for heading in headings:
        table.add_column(heading, justify="left" if heading in ("layer", "phase", "operation") else "right")
    for line in lines:
        table.add_row(*line)
    show(table)
    print(summary(report))


def design_of(config: Path | None) -> pinta_model.Architecture:
    """The architecture of a file, or the default."""
    return pinta_model.default() if config is None else pinta_model.read(config)


def _load(problem: str, estimator: Estimator, precision: str, dense: bool) -> pinta_model.Workload:
    if problem.endswith(".json"):
        return pinta_model.load(Path(problem))
    return pinta_model.loads(workload_text(problem, estimator, precision, dense), problem)


def show(table: Table) -> None:
    """Print a table; outside a terminal as wide as it needs."""
    console = Console()
    (console if console.is_terminal else Console(width=200)).print(table)
