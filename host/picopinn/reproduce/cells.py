"""Cells of the table: one run each, in a process of its own, one result file each."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..describe import parameter_bytes
from ..errors import PicopinnError
from ..runs import Run, write_atomic
from ..settings import Settings, options_of
from .rows import Row

_POLL = 0.05  # seconds
_TAKEN = ("parameters", "relative_l2", "unknowns", "seconds", "processor_ms_per_step", "weights_sha256")
_SINGLE = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")


@dataclass(frozen=True)
class Cell:
    """One run of a row."""

    row: Row
    seed: int

    @property
    def name(self) -> str:
        """Of its files."""
        return re.sub(r"[^a-z0-9.]+", "-", f"{self.row.name} {self.seed}".lower())

    def file(self, folder: Path) -> Path:
        """Its result."""
        return folder / self.row.problem / f"{self.name}.json"


def cells(rows: Sequence[Row], seeds: int | None) -> list[Cell]:
    """All cells, first seeds first, so that an early stop leaves a thin table and not half of one."""
    counts = [min(row.seeds, seeds or row.seeds) for row in rows]
    return [
        Cell(row, seed)
        for seed in range(max(counts, default=0))
        for row, count in zip(rows, counts, strict=True)
        if seed < count
    ]


def load(cell: Cell, folder: Path) -> dict[str, Any] | None:
    """A cell's result, or None if there is none of these settings."""
    try:
        result: dict[str, Any] = json.loads(cell.file(folder).read_text())
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise PicopinnError(f"{cell.file(folder)} is damaged ({error}): delete it, and it is made again") from error
    older = _stored(Settings(cell.row.problem))  # a result knows no setting that is newer
    return result if older | result["settings"] == _stored(cell.row.settings(cell.seed)) else None


def _stored(settings: Settings) -> dict[str, Any]:
    """As JSON gives them back."""
    stored: dict[str, Any] = json.loads(json.dumps(asdict(settings)))
    return stored


class _Worker:
    """A cell that is being trained in a run directory; an interrupted one is continued."""

    def __init__(self, cell: Cell, runs: Path) -> None:
        self.cell = cell
        self.path = runs / cell.row.problem / cell.name
        given = {**cell.row.given, "seed": cell.seed}
        if self._continues():
            words = ["--resume", str(self.path)]
        else:
            shutil.rmtree(self.path, ignore_errors=True)
            self.path.parent.mkdir(parents=True, exist_ok=True)
            words = [cell.row.problem, *options_of(given), "--run", str(self.path)]
        command = [sys.executable, "-m", "picopinn.cli", "train", *words, "--quiet", "--threads", "1"]
        self._process = subprocess.Popen(
            command,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **_SINGLE},
            start_new_session=True,  # Ctrl-C is for this process, which then stops each run once
        )

    def _continues(self) -> bool:
        try:
            return Run.open(self.path).settings == self.cell.row.settings(self.cell.seed)
        except PicopinnError:
            return False

    @property
    def ended(self) -> bool:
        return self._process.poll() is not None

    def result(self) -> dict[str, Any]:
        """What the run found; a run that diverged is a result, too."""
        _, errors = self._process.communicate()
        run = Run.open(self.path)
        found: dict[str, Any] = {
            "problem": self.cell.row.problem,
            "row": self.cell.row.name,
            "seed": self.cell.seed,
            "settings": asdict(run.settings),
            "bytes": parameter_bytes(run.settings),
            "environment": run.environment(),
        }
        rows = [row for row in run.rows() if row.relative_l2 is not None]
        found["curve"] = [[row.step, row.relative_l2] for row in rows]
        if self._process.returncode == 0:
            own = run.result()
            assert own is not None
            return found | {key: own[key] for key in _TAKEN}
        if self._process.returncode != 1:
            raise PicopinnError(f"{self.cell.row.command} --seed {self.cell.seed} failed: {errors.strip()}")
        return found | {"failed": errors.strip().splitlines()[-1].removeprefix("error: ")}

    def stop(self) -> None:
        """Let it save, and end."""
        self._process.terminate()
        self._process.wait()


def train(
    wanted: Sequence[Cell], folder: Path, runs: Path, jobs: int, show: Callable[[Cell, dict[str, Any]], None]
) -> None:
    """Train the cells that have no result yet, so many side by side; ``show`` sees each result.

    Whatever ends it ends the running cells, once they have saved; the same call continues them.
    """
    waiting = [cell for cell in wanted if load(cell, folder) is None]
    running: list[_Worker] = []
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                running.append(_Worker(waiting.pop(0), runs))
            time.sleep(_POLL)
            for worker in [one for one in running if one.ended]:
                running.remove(worker)
                result = worker.result()
                _keep(worker, result, folder)
                show(worker.cell, result)
    finally:
        for worker in running:
            worker.stop()


def _keep(worker: _Worker, result: dict[str, Any], folder: Path) -> None:
    path = worker.cell.file(folder)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, (json.dumps(result) + "\n").encode())
    shutil.rmtree(worker.path)
