"""The command line."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, fields
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from pinta_model import PintaError

from . import __version__, boards, describe, export, fit, flash, image, pinta, train
from .device.addresses import FORMS, LOCAL, open_device, open_session
from .device.meter import Meter
from .device.remote import RemoteDevice
from .errors import PicopinnError, UsageError
from .estimators import STEPLESS, Estimator, Kind, Quantization, Squared
from .network import DEFAULT_PRECISION, Activation, Contraction, Init
from .output import AsJson, show, show_json
from .problems import get, names
from .report import command as report
from .report.server import watching
from .reproduce import command as reproduce
from .runs import Row, Run
from .settings import FLOAT, Settings, parse_tt
from .solver import Solver

app = typer.Typer(pretty_exceptions_enable=False)
pinta.add_to(app)
report.add_to(app)
reproduce.add_to(app)


def _option(text: str, panel: str, *, flag: str | None = None, show_default: bool | str = True) -> Any:
    spelled = [flag] if flag else []  # a flag that has no --no-flag
    return typer.Option(*spelled, help=text, rich_help_panel=panel, show_default=show_default)


_METHOD, _NETWORK, _TRAINING, _RUN = "Method", "Network", "Training", "Run"


def _known(incomplete: str) -> list[str]:
    """Names of problems, for a shell that completes them."""
    return [name for name in names() if name.startswith(incomplete)]


_problem = typer.Argument(help="Name of a problem; `picopinn problems` lists them.", autocompletion=_known)
ProblemName = Annotated[str, _problem]
Option = Annotated[list[str] | None, _option("Option of the problem, as NAME=NUMBER.", _METHOD, flag="--set")]
EstimatorKind = Annotated[Kind, _option("How derivatives are estimated.", _METHOD)]
Sigma = Annotated[float, _option("Size of finite steps.", _METHOD)]
Directions = Annotated[int | None, _option("Directions K a step.", _METHOD, show_default="of space, gaussian: 64")]
Quantized = Annotated[Quantization, _option("How finite steps are quantized.", _METHOD)]
Squares = Annotated[Squared, _option("How |grad u|^2 is estimated from few directions.", _METHOD)]
Widths = Annotated[str, _option(f"Mantissa widths such as {DEFAULT_PRECISION}, or {FLOAT}.", _METHOD)]
Hidden = Annotated[int, _option("Width of the hidden layers.", _NETWORK)]
Layers = Annotated[int, _option("Number of hidden layers.", _NETWORK)]
Tt = Annotated[str | None, _option("Modes of the hidden tensor trains.", _NETWORK, show_default="16x16")]
Rank = Annotated[int, _option("TT rank.", _NETWORK)]
Dense = Annotated[bool, _option("Plain hidden layers, no tensor trains.", _NETWORK, flag="--dense")]
ActivationName = Annotated[Activation, _option("Activation function.", _NETWORK)]
ContractionName = Annotated[Contraction, _option("How tensor trains are applied.", _NETWORK)]
Omega = Annotated[
    float | None, _option("Wave number that the first layer starts with.", _NETWORK, show_default="Glorot")
]
Start = Annotated[Init, _option("How TT cores start.", _NETWORK)]
Steps = Annotated[int, _option("Length of the run.", _TRAINING)]
Seed = Annotated[int, _option("Decides weights, points and rounding.", _TRAINING)]
Batch = Annotated[int, _option("Interior points, and points of each soft condition, a step.", _TRAINING)]
LearningRate = Annotated[float, _option("Adam's at the first step; it falls to zero.", _TRAINING)]
Settle = Annotated[
    float | None, _option("Part of the steps after which matrices rest.", _TRAINING, show_default="none do")
]
Threads = Annotated[int | None, _option("Threads; they change no bit of the result.", _RUN, show_default="all cores")]
Address = Annotated[str, _option(f"What computes: {FORMS}.", _RUN)]
Cores = Annotated[int | None, _option("Cores of a board; they change no bit of the result.", _RUN, show_default="all")]
BoardName = Annotated[str, typer.Option(help=f"Kind of board: {', '.join(boards.names())}.")]
RunPath = Annotated[Path | None, _option("Directory to write.", _RUN, show_default="runs/PROBLEM-NNN")]
Resume = Annotated[Path | None, _option("Continue the run in this directory.", _RUN)]
Quiet = Annotated[bool, _option("Print errors and warnings only.", _RUN, flag="--quiet")]

Watching = Annotated[bool, _option("Serve a live page of the run, on this computer only.", _RUN, flag="--watch")]
Port = Annotated[int | None, _option("Of that page.", _RUN, show_default="a free one")]


@app.callback(invoke_without_command=True)
def _start(
    ctx: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    """Neural PDE solvers that train in 4x4-block integers."""
    if version:
        print(f"picopinn {__version__}")
        raise typer.Exit
    if ctx.invoked_subcommand is None:
        print(ctx.get_help())
        raise typer.Exit(2)


# Options that decide bits are read from the context by their names in Settings.
@app.command("train")
def _train(
    ctx: typer.Context,
    problem: Annotated[str | None, _problem] = None,
    options: Option = None,
    estimator: EstimatorKind = Settings.estimator,
    sigma: Sigma = Estimator.sigma,
    directions: Directions = None,
    quantization: Quantized = Estimator.quantization,
    squared: Squares = Estimator.squared,
    precision: Widths = Settings.precision,
    hidden: Hidden = Settings.hidden,
    layers: Layers = Settings.layers,
    tt: Tt = None,
    rank: Rank = Settings.rank,
    dense: Dense = False,
    activation: ActivationName = Settings.activation,
    contraction: ContractionName = Settings.contraction,
    omega: Omega = None,
    init: Start = Settings.init,
    steps: Steps = Settings.steps,
    seed: Seed = Settings.seed,
    batch: Batch = Settings.batch,
    learning_rate: LearningRate = Settings.learning_rate,
    settle: Settle = None,
    threads: Threads = None,
    device: Address = LOCAL,
    cores: Cores = None,
    run: RunPath = None,
    resume: Resume = None,
    quiet: Quiet = False,
    watch: Watching = False,
    port: Port = None,
    json: AsJson = False,
) -> None:
    """Train a solver: a run directory with weights, metrics and a picture."""
    count = _cores() if threads is None else threads
    if port is not None and not watch:
        raise UsageError("--port is where --watch serves its page: add --watch, or leave out --port")
    if resume is not None:
        current = _resumable(ctx, resume)
        settings = current.settings
    else:
        current, settings = None, _settings(ctx)
    board = (
        None if device == LOCAL else open_device(device, microbatches=sum(settings.microbatches()), cores=cores or 255)
    )
    solver = settings.solver(count, board)
    if current is None:
        current = Run.create(run, settings, solver.state())
    else:
        solver.restore(current.checkpoint.state)
    meter = Meter(board, solver.step_number) if isinstance(board, RemoteDevice) else None
    quiet = quiet or json
    result = _follow(current, solver, Console(quiet=quiet), quiet, meter, (port or 0) if watch else None)
    if json:
        show_json({"run": current.path, **result})


@app.command("flash")
def _flash(
    board: BoardName,
    volume: Annotated[Path | None, typer.Option(help="Volume of a board with BOOTSEL held.")] = None,
    port: Annotated[str | None, typer.Option(help="Serial port of a board with MicroPython.")] = None,
    micropython: Annotated[Path | None, typer.Option(help="UF2 file of MicroPython.", show_default="built")] = None,
    solver: Annotated[list[Path] | None, typer.Option(help="Finished run to put on it, too; may be repeated.")] = None,
    quiet: Quiet = False,
) -> None:
    """Put picopinn on a board."""
    kind = boards.load(board)
    solvers = export.for_board([export.Trained.of(Run.open(run)) for run in solver or []], kind)
    if volume and port:
        raise UsageError("a board is at a volume or at a port: give one of --volume and --port")
    with train.progress(Console(quiet=quiet)) as tell:
        flash.flash(kind, lambda: image.micropython_of(kind, micropython), _ask, tell, volume, port, solvers)


def _ask(port: str) -> dict[str, Any]:
    session = open_session(f"serial:{port}")
    try:
        return session.connect()
    finally:
        session.close()


@app.command("devices")
def _devices(json: AsJson = False) -> None:
    """List the devices that there are."""
    from .device.survey import survey  # looks at toolchains and USB

    if json:
        show_json([asdict(found) for found in survey()])
        return
    table = Table(box=None, pad_edge=False)
    for heading in ("address", "device", "note"):
        table.add_column(heading)
    for found in survey():
        table.add_row(*map(escape, (found.address, found.title, found.note)))
    show(table)


@app.command("latency")
def _latency(
    device: Annotated[str, typer.Option(help=f"One of {FORMS}, but local.")] = "serial:auto",
    count: Annotated[int, typer.Option(help="Round trips.", min=1)] = 200,
    json: AsJson = False,
) -> None:
    """Measure the link to a device."""
    from .link.latency import measure

    session = open_session(device)
    found = measure(session, count)
    session.close()
    if json:
        show_json({"device": device, **asdict(found)})
        return
    print(f"round trip     min {found.minimum_ms:.2f}  median {found.median_ms:.2f}", end="  ")
    print(f"p99 {found.p99_ms:.2f}  max {found.maximum_ms:.2f} ms")
    print(f"throughput     {found.bytes_per_second / 1e3:.0f} kB/s out and back at once")


@app.command("evaluate")
def _evaluate(run: Annotated[Path, typer.Argument(help="A run directory.")], json: AsJson = False) -> None:
    """Measure the error of a run's last checkpoint."""
    current = Run.open(run)
    solver = current.settings.solver(_cores())
    solver.restore(current.checkpoint.state)
    if json:
        show_json(
            {
                "run": run,
                "settings": asdict(current.settings),
                "step": solver.step_number,
                "steps": solver.steps,
                "relative_l2": solver.evaluate(),
                "unknowns": solver.unknowns,
                "trivial_floor": solver.problem.trivial_floor(),
                "weights_sha256": solver.weights_sha256(),
            }
        )
        return
    print(f"{describe.title(current.settings)}, step {solver.step_number} of {solver.steps}")
    print(f"relative L2    {solver.evaluate():.4e}")
    for line in _unknowns(solver):
        print(line)
    print(f"floors         {_floors(solver.problem.trivial_floor())}")
    print(f"weights sha256 {solver.weights_sha256()}")


@app.command("export")
def _export(
    run: Annotated[Path, typer.Argument(help="Directory of a finished run.")],
    to: Annotated[str, typer.Option(help=export.FORMS + ".")],
    int8: Annotated[bool, typer.Option("--int8", help="TensorFlow Lite in INT8, not float32.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
    json: AsJson = False,
) -> None:
    """Write a trained solver for use elsewhere."""
    current = Run.open(run)
    path = export.target(to, current.settings.problem)
    written = {file: file.stat().st_size for file in export.export(export.Trained.of(current), path, int8, force)}
    if json:
        show_json([{"file": file, "bytes": size} for file, size in written.items()])
        return
    for file, size in written.items():
        print(f"{file}: {size:,} bytes")


@app.command("problems")
def _problems(json: AsJson = False) -> None:
    """List the problems."""
    kinds = [get(name) for name in names()]
    if json:
        told = ("name", "dimensions", "time", "description", "options", "unknowns")
        show_json([{key: getattr(kind, key) for key in told} for kind in kinds])
        return
    table = Table(box=None, pad_edge=False)
    for heading in ("problem", "dimensions", "description"):
        table.add_column(heading)
    for kind in kinds:
        table.add_row(kind.name, str(kind.dimensions), kind.description)
    show(table)


@app.command("describe")
def _describe(
    ctx: typer.Context,
    problem: ProblemName,
    options: Option = None,
    estimator: EstimatorKind = Settings.estimator,
    directions: Directions = None,
    quantization: Quantized = Estimator.quantization,
    squared: Squares = Estimator.squared,
    precision: Widths = Settings.precision,
    hidden: Hidden = Settings.hidden,
    layers: Layers = Settings.layers,
    tt: Tt = None,
    rank: Rank = Settings.rank,
    dense: Dense = False,
    activation: ActivationName = Settings.activation,
    contraction: ContractionName = Settings.contraction,
    json: AsJson = False,
) -> None:
    """Tell what a network costs, layer by layer, and what it needs on a device."""
    settings = _settings(ctx)
    integers = precision != FLOAT
    program, directions = describe.program(settings)
    costs = describe.layers(settings.network(), program)
    if json:
        show_json({"settings": asdict(settings), **describe.figures(costs, program, directions, integers)})
        return
    show(describe.table(costs, integers))
    if integers:
        show(describe.device_table(program, directions))


@app.command("fit")
def _fit(
    ctx: typer.Context,
    problem: ProblemName,
    board: BoardName,
    options: Option = None,
    estimator: EstimatorKind = Settings.estimator,
    directions: Directions = None,
    quantization: Quantized = Estimator.quantization,
    squared: Squares = Estimator.squared,
    precision: Widths = Settings.precision,
    hidden: Hidden = Settings.hidden,
    layers: Layers = Settings.layers,
    tt: Tt = None,
    rank: Rank = Settings.rank,
    dense: Dense = False,
    activation: ActivationName = Settings.activation,
    contraction: ContractionName = Settings.contraction,
    batch: Batch = Settings.batch,
    cores: Cores = None,
    json: AsJson = False,
) -> None:
    """Tell what training takes on a board, before it is flashed."""
    kind = boards.load(board)
    memory, step = fit.training(_settings(ctx), kind, cores)
    if json:
        told = {**asdict(step), "seconds": step.busy / kind.clock_hz} if step else None
        show_json({"board": board, "memory": asdict(memory), "step": told})
        return
    show(fit.table(memory, step, kind))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code, having printed any error as one line."""
    try:
        code = app(args=arguments, prog_name="picopinn", standalone_mode=False)
    except train.InterruptedRunError as error:
        return _fail(error, error.exit_code, label="")
    except typer.TyperException as error:
        return _fail(_with_help(error), error.exit_code)
    except (UsageError, PintaError) as error:
        return _fail(error, 2)
    except PicopinnError as error:
        return _fail(error, 1)
    except OSError as error:
        what = f"cannot use {error.filename}: {error.strerror}" if error.filename else error
        return _fail(f"{what}: check the path, its rights and the room on the disk", 1)
    except MemoryError:
        return _fail("not enough memory: choose a smaller network or batch", 1)
    return code if isinstance(code, int) else 0


def _fail(error: object, code: int, label: str = "error: ") -> int:
    print(label + " ".join(str(error).split()), file=sys.stderr)
    return code


def _with_help(error: typer.TyperException) -> str:
    context = getattr(error, "ctx", None)
    path = context.command_path if context else "picopinn"
    said = error.format_message().rstrip(".").replace("Value error, ", "")  # Pydantic's words, no cause
    return f"{said}; see {path} --help"


def _given(ctx: typer.Context) -> set[str]:
    """Names of the parameters that the person wrote."""
    sources = {name: ctx.get_parameter_source(name) for name in ctx.params}
    return {name for name, source in sources.items() if source is not None and source.name == "COMMANDLINE"}


def _flags(parameters: set[str]) -> str:
    return ", ".join("--" + {"options": "set"}.get(name, name.replace("_", "-")) for name in sorted(parameters))


def _settings(ctx: typer.Context) -> Settings:
    """The settings that the options spell, with every default filled in."""
    given, options = _given(ctx), ctx.params
    if options["problem"] is None:
        raise UsageError(f"name a problem to train: picopinn train {names()[0]}, or picopinn problems for a list")
    if options["dense"] and (unused := given & {"tt", "rank", "contraction", "init"}):
        raise UsageError(f"{_flags(unused)} is for tensor trains, and --dense has none: leave out one or the other")
    if options["estimator"] in STEPLESS and (unused := given & {"sigma", "quantization"}):
        raise UsageError(
            f"the {options['estimator']} estimator takes no finite steps: leave out {_flags(unused)}, "
            "or add --estimator orthogonal"
        )
    values = {field.name: options[field.name] for field in fields(Settings) if field.name in given}
    if options["dense"]:
        values["tt"] = None
    elif "tt" in values:
        values["tt"] = parse_tt(values["tt"])
    values["options"] = dict(map(_option_given, options["options"] or ()))
    return Settings.of(**{"problem": options["problem"]} | values)


def _option_given(text: str) -> tuple[str, float]:
    name, _, number = text.partition("=")
    try:
        return name, float(number)
    except ValueError as error:
        raise UsageError(f"--set {text} is not understood: write NAME=NUMBER, such as --set frequency=4") from error


def _resumable(ctx: typer.Context, path: Path) -> Run:
    if conflicts := _given(ctx) - {"resume", "threads", "device", "cores", "quiet", "watch", "port", "json"}:
        named = _flags(conflicts - {"problem"}) or "PROBLEM"
        raise UsageError(f"--resume continues a run with its own settings: leave out {named}, or start a new run")
    return Run.open(path)


def _follow(
    run: Run, solver: Solver, console: Console, quiet: bool, meter: Meter | None, port: int | None
) -> dict[str, Any]:
    """Train to the end in front of a person, with a live page if there is a ``port`` (0: any); the run's result."""
    network = solver.network
    smaller = f"{network.dense_parameters / network.parameters:.1f}x fewer than dense"
    say = partial(console.print, highlight=False, soft_wrap=True)
    say(f"{describe.title(run.settings)}, {network.parameters:,} parameters ({smaller}), {run.path}")
    if meter is not None:
        say(meter.memory())
    with ExitStack() as stack:
        shows: list[Callable[[Row], None]] = []
        if port is not None:
            watch = stack.enter_context(watching(run, solver, port))
            say(f"watch it at {watch.address}")
            shows.append(watch.show)
        shows.append(stack.enter_context(train.reporting(console, solver.steps, solver.step_number, quiet, meter)))

        def show(row: Row) -> None:
            for each in shows:
                each(row)

        processor_ms = train.train(run, solver, show)
    result = train.finish(run, solver, processor_ms)
    for warning in solver.engine.warnings():
        print(f"warning: {warning}", file=sys.stderr)
    floors, seconds = _floors(result["trivial_floor"]), result["seconds"]
    for line in _unknowns(solver):
        say(line)
    say(f"relative L2 {result['relative_l2']:.2e} ({floors}) in {seconds:.1f} s; see {run.picture}")
    return result


def _unknowns(solver: Solver) -> list[str]:
    """A line for each coefficient that was found."""
    truth = solver.problem.true_unknowns
    return [
        f"{name} {value:.4f}" + (f" (true: {truth[name]:g})" if name in truth else "")
        for name, value in solver.unknowns.items()
    ]


def _floors(floors: dict[str, float]) -> str:
    return ", ".join(f"best {name} {error:.2e}" for name, error in floors.items())


def _cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


if __name__ == "__main__":
    sys.exit(main())
