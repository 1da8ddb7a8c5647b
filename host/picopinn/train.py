"""The training loop of the command line: progress for a person, checkpoints, and a stop that loses nothing."""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from types import FrameType
from typing import Any

import numpy as np
from rich.console import Console
from rich.live import Live
from rich.table import Table

from . import plots
from .device.meter import Meter
from .errors import DeviceGoneError, PicopinnError
from .runs import Ranges, Row, Run
from .solver import Solver

CHECKPOINT_SECONDS = 5.0
_EVALUATIONS = 20  # a run


class InterruptedRunError(PicopinnError):
    """A signal stopped the run, and it was saved."""

    def __init__(self, message: str, signal_number: int) -> None:
        super().__init__(message)
        self.exit_code = 128 + signal_number


@contextmanager
def reporting(
    console: Console, steps: int, first: int, quiet: bool, meter: Meter | None = None
) -> Iterator[Callable[[Row], None]]:
    """What shows a step: a live table on a terminal, plain lines elsewhere, nothing if quiet.

    Args:
        console: where to.
        steps: length of the run.
        first: step that it starts or resumes after.
        quiet: show nothing.
        meter: of a device whose costs are shown, too.
    """
    pace = _Pace(steps, first, meter)
    if quiet:
        yield lambda row: None
    elif console.is_terminal:
        board = _Board(pace, rows=max(console.height - 8, 1))
        with Live(console=console, get_renderable=board.table, refresh_per_second=5):
            yield board.show
            board.end()
    else:
        yield lambda row: _print_line(console, pace, row)


@contextmanager
def progress(console: Console) -> Iterator[Callable[[str, float | None], None]]:
    """What shows work of another kind: a line a text, with a share done on a terminal until it is whole."""
    said = ""
    with console.status("") as status:

        def show(text: str, share: float | None) -> None:
            nonlocal said
            if share is not None and share < 1:
                status.update(f"{text} {share:4.0%}")
            elif text != said:
                said = text
                console.print(text, highlight=False, soft_wrap=True)

        yield show


def train(run: Run, solver: Solver, show: Callable[[Row], None]) -> float | None:
    """Take the steps that are left, saving about every five seconds; ``show`` sees each.

    Returns:
        Processor milliseconds a step of this session, all threads together; None if there was no step left.

    Raises:
        InterruptedRunError: SIGINT or SIGTERM; the run was saved.
        DeviceGoneError: the device went away for good; the run was saved.
        PicopinnError: the loss is not finite, or the directory cannot be written.
    """
    every = math.ceil(solver.steps / _EVALUATIONS)
    start = time.monotonic() - run.checkpoint.seconds
    saved = time.monotonic()
    rows: list[Row] = []
    ranges = Ranges()
    first, processor = solver.step_number, time.process_time()
    with _noted_signals() as noted:
        while not solver.done:
            try:
                rows.append(_step(solver, every, start))
            except DeviceGoneError as error:
                run.save(rows, solver.state(), time.monotonic() - start, ranges)
                raise DeviceGoneError(f"{error}; {_saved(run, solver)}") from error
            if rows[-1].relative_l2 is not None and (found := solver.engine.ranges()):
                ranges[solver.step_number] = found
            show(rows[-1])
            if solver.done or noted or time.monotonic() - saved >= CHECKPOINT_SECONDS:
                run.save(rows, solver.state(), time.monotonic() - start, ranges)
                saved = time.monotonic()
                rows.clear()
                ranges.clear()
            if noted and not solver.done:
                raise _interrupted(run, solver, noted[0])
    taken = solver.step_number - first
    return 1e3 * (time.process_time() - processor) / taken if taken else None


def finish(run: Run, solver: Solver, processor_ms: float | None) -> dict[str, Any]:
    """Write the result and the picture of a run whose steps are all taken; returns the result.

    ``processor_ms`` is what :func:`train` returned.
    """
    rows = run.rows()
    result = {
        "problem": solver.problem.name,
        "settings": asdict(run.settings),
        "parameters": solver.network.parameters,
        "dense_parameters": solver.network.dense_parameters,
        "steps": solver.steps,
        "seed": solver.seed,
        "relative_l2": rows[-1].relative_l2,
        "unknowns": solver.unknowns,
        "trivial_floor": solver.problem.trivial_floor(),
        "seconds": round(run.checkpoint.seconds, 3),
        "processor_ms_per_step": processor_ms,
        "weights_sha256": solver.weights_sha256(),
    }
    run.finish(result, plots.picture(solver, rows))
    return result


def _step(solver: Solver, every: int, start: float) -> Row:
    progress = solver.step()
    evaluated = solver.done or progress.step % every == 0
    error = _error(solver) if evaluated else None
    seconds = time.monotonic() - start
    return Row(**vars(progress), relative_l2=error, seconds=seconds)


def _error(solver: Solver) -> float:
    with np.errstate(over="ignore", invalid="ignore"):  # told by the error itself
        error = solver.evaluate()
    if not math.isfinite(error):
        raise PicopinnError(f"the solution is not finite at step {solver.step_number}: try a smaller learning rate")
    return error


def _interrupted(run: Run, solver: Solver, number: int) -> InterruptedRunError:
    return InterruptedRunError(f"stopped, {_saved(run, solver)}", number)


def _saved(run: Run, solver: Solver) -> str:
    where = f"saved at step {solver.step_number} of {solver.steps}"
    return f"{where}: continue with picopinn train --resume {run.path}"


@contextmanager
def _noted_signals() -> Iterator[list[int]]:
    """Collects the first SIGINT or SIGTERM, so that a step ends whole; the second acts as it always did."""
    noted: list[int] = []

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def note(number: int, frame: FrameType | None) -> None:
        noted.append(number)
        restore()

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield noted
    finally:
        restore()


class _Pace:
    """Speed and time left, from the steps of this session, and what a device spends."""

    def __init__(self, steps: int, first: int, meter: Meter | None) -> None:
        self.steps, self._meter = steps, meter
        self._first, self._start = first, time.monotonic()

    def speed(self, step: int) -> float:
        """Steps a second."""
        return (step - self._first) / max(time.monotonic() - self._start, 1e-9)

    def left(self, step: int) -> str:
        """Minutes and seconds to the end."""
        minutes, seconds = divmod(round((self.steps - step) / max(self.speed(step), 1e-9)), 60)
        return f"{minutes}:{seconds:02d}"

    @property
    def headings(self) -> tuple[str, ...]:
        """Of :meth:`cells`."""
        return ("step", "loss", "relative L2", "steps/s", "time left", *(self._meter.headings if self._meter else ()))

    def cells(self, row: Row) -> tuple[str, ...]:
        """Step, loss, error, steps a second, time left, and a device's costs."""
        error = "" if row.relative_l2 is None else f"{row.relative_l2:.2e}"
        speed = self.speed(row.step)
        cells = f"{row.step}", f"{row.loss:.2e}", error, f"{speed:.{0 if speed >= 10 else 1}f}", self.left(row.step)
        if self._meter is None:
            return cells
        if row.relative_l2 is not None:
            self._meter.look(row.step)
        return (*cells, *self._meter.cells())


def _print_line(console: Console, pace: _Pace, row: Row) -> None:
    """A line an evaluation, for files and pipes."""
    if row.relative_l2 is None:
        return
    step, loss, error, speed, left, *costs = pace.cells(row)
    text = f"step {step:>{len(str(pace.steps))}}/{pace.steps}  loss {loss}  relative L2 {error}"
    told = [f"{cost} {unit}" for cost, unit in zip(costs, pace.headings[5:], strict=True) if cost]
    console.print("  ".join([text, f"{speed} steps/s", f"{left} left", *told]), highlight=False, soft_wrap=True)


class _Board:
    """A table that grows with the evaluations, under it the present step."""

    def __init__(self, pace: _Pace, rows: int) -> None:
        self._pace, self._rows = pace, rows
        self._history: list[tuple[str, ...]] = []
        self._now: tuple[str, ...] | None = None

    def show(self, row: Row) -> None:
        """A step was taken."""
        self._now = self._pace.cells(row)
        if row.relative_l2 is not None:
            self._history.append(self._now)

    def end(self) -> None:
        """The present step is the last of the history."""
        self._now = None

    def table(self) -> Table:
        """What the terminal shows now."""
        table = Table()
        for heading in self._pace.headings:
            table.add_column(heading, justify="right", min_width=9)
        for cells in self._history[-self._rows :]:
            table.add_row(*cells)
        if self._now is not None:
            table.add_section()
            table.add_row(*self._now, style="bold")
        return table
