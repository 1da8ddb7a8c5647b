"""Run directories: what a run leaves on disk, written so that a kill or a full disk at any moment harms nothing.

=====================  ==========================================================================================
``config.toml``        the :class:`Settings`
``environment.json``   the machine and the versions that the run began on
``metrics.csv``        one line a step, complete up to the checkpoint: the loss and its terms, unknowns, the error
``ranges.csv``         a line a tensor and evaluation: how its numbers lie in their widths; empty for ``float32``
``checkpoint.npz``     the settings and the solver's state (arrays only, no pickles)
``result.json``        written at the end, as is ``solution.png``
=====================  ==========================================================================================
"""

from __future__ import annotations

import csv
import errno
import io
import json
import os
import platform
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from . import __version__
from .engine import Range
from .errors import PicopinnError, UsageError
from .settings import Settings

State = dict[str, NDArray[Any]]
Ranges = dict[int, list[Range]]  # by step

FORMAT = 3  # of checkpoint.npz and metrics.csv
RUNS = Path("runs")  # where runs without a name go
_CONFIG, _ENVIRONMENT, _METRICS, _CHECKPOINT = "config.toml", "environment.json", "metrics.csv", "checkpoint.npz"
_RANGES, _RESULT, _PICTURE = "ranges.csv", "result.json", "solution.png"
_FIRST, _LAST = ("step", "loss", "residual"), ("relative_l2", "seconds")  # columns of metrics.csv
_UNKNOWN = "unknown "  # begins the columns of unknowns; those of conditions have their names
_RANGES_HEADER = (
    "step,tensor,weights_low,weights_high,gradients_low,gradients_high,accumulator,saturations\n"  # exponents of two
)
_STATE = "state."  # prefix of the solver's arrays in a checkpoint


class RunExistsError(UsageError):
    """The run directory is there already."""


@dataclass(frozen=True)
class Row:
    """A line of ``metrics.csv``: what :class:`picopinn.solver.Progress` has, the relative L2 error (None if it was not
    measured at that step), and the seconds of training so far."""

    step: int
    loss: float
    residual: float
    conditions: Mapping[str, float]
    unknowns: Mapping[str, float]
    relative_l2: float | None
    seconds: float

    def header(self) -> list[str]:
        """Names of the cells."""
        return [*_FIRST, *self.conditions, *(_UNKNOWN + name for name in self.unknowns), *_LAST]

    def cells(self) -> list[Any]:
        """The row as it is written; floats keep every bit."""
        middle = (*self.conditions.values(), *self.unknowns.values())
        return [self.step, self.loss, self.residual, *middle, self.relative_l2, round(self.seconds, 3)]

    @classmethod
    def parse(cls, header: Sequence[str], cells: Sequence[str]) -> Row:
        """Inverse of :meth:`cells`; ValueError if it is none."""
        step, loss, residual, *middle, error, seconds = cells
        conditions, unknowns = {}, {}
        for name, value in zip(header[len(_FIRST) : -len(_LAST)], middle, strict=True):
            if name.startswith(_UNKNOWN):
                unknowns[name.removeprefix(_UNKNOWN)] = float(value)
            else:
                conditions[name] = float(value)
        numbers = int(step), float(loss), float(residual)
        return cls(*numbers, conditions, unknowns, float(error) if error else None, float(seconds))


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """Where a run stands.

    Attributes:
        settings: of the run.
        state: the solver's.
        seconds: of training so far.
        metrics_bytes: length of ``metrics.csv`` up to this step; what follows is of steps that will be taken again.
    """

    settings: Settings
    state: State
    seconds: float = 0.0
    metrics_bytes: int = 0

    @property
    def step(self) -> int:
        return int(self.state["step"])

    def to_bytes(self) -> bytes:
        """The file's content."""
        arrays: dict[str, Any] = {_STATE + name: array for name, array in self.state.items()}
        arrays |= {"format": FORMAT, "settings": self.settings.to_toml()}
        arrays |= {"seconds": self.seconds, "metrics_bytes": self.metrics_bytes}
        buffer = io.BytesIO()
        np.savez(buffer, **arrays)
        return buffer.getvalue()

    @classmethod
    def read(cls, path: Path) -> Checkpoint:
        """Read a checkpoint.

        Raises:
            PicopinnError: missing, damaged, or written by another version.
        """
        arrays = _arrays(path)
        version = arrays.get("format")
        if version is None:
            raise PicopinnError(f"{path} is not a checkpoint of picopinn: give the folder of a run")
        if int(version) != FORMAT:
            raise PicopinnError(
                f"{path} has checkpoint format {int(version)}, this picopinn {__version__} reads format {FORMAT}: "
                f"resume with the version named in {path.with_name(_ENVIRONMENT)}, or start a new run"
            )
        try:
            settings = Settings.from_toml(str(arrays["settings"]))
            state = {name.removeprefix(_STATE): array for name, array in arrays.items() if name.startswith(_STATE)}
            return cls(settings, state, float(arrays["seconds"]), int(arrays["metrics_bytes"]))
        except (KeyError, ValueError) as error:
            raise _damaged(path, error) from error


class Run:
    """A run directory; see :meth:`create` and :meth:`open`."""

    def __init__(self, path: Path, checkpoint: Checkpoint) -> None:
        self.path = path
        self.checkpoint = checkpoint
        self._written = self._mark()

    @property
    def settings(self) -> Settings:
        return self.checkpoint.settings

    @property
    def picture(self) -> Path:
        return self.path / _PICTURE

    @classmethod
    def create(cls, path: Path | None, settings: Settings, state: State) -> Run:
        """A new directory with all that resuming needs; by default ``runs/<problem>-<NNN>``.

        Raises:
            RunExistsError: the directory exists.
            PicopinnError: it cannot be written; then nothing is.
        """
        checkpoint = Checkpoint(settings, state)
        if path is not None:
            return cls._publish(path, checkpoint)
        number = 1
        while True:
            try:
                return cls._publish(RUNS / f"{settings.problem}-{number:03d}", checkpoint)
            except RunExistsError:  # also when another process was faster
                number += 1

    @classmethod
    def _publish(cls, path: Path, checkpoint: Checkpoint) -> Run:
        """Write a hidden draft beside ``path`` and rename it, so that a run directory is never incomplete."""
        if os.path.lexists(path):
            raise _exists(path)
        draft = path.with_name(f".{path.name}.{os.getpid()}")
        with _explained(path, "nothing was written; choose another --run, or make room"):
            draft.mkdir(parents=True)
            try:
                write_atomic(draft / _CONFIG, checkpoint.settings.to_toml().encode())
                write_atomic(draft / _ENVIRONMENT, _json(environment()))
                write_atomic(draft / _METRICS, b"")
                write_atomic(draft / _RANGES, _RANGES_HEADER.encode())
                write_atomic(draft / _CHECKPOINT, checkpoint.to_bytes())
                _claim(draft, path)
            finally:
                shutil.rmtree(draft, ignore_errors=True)  # gone already if all went well
        return cls(path, checkpoint)

    @classmethod
    def open(cls, path: Path) -> Run:
        """The directory of an earlier run, as of its last checkpoint.

        Raises:
            UsageError: there is no such directory.
            PicopinnError: its files are missing, damaged, changed, or of another version.
        """
        if not path.is_dir():
            raise UsageError(f"there is no run directory {path}: give the folder that picopinn train wrote")
        run = cls(path, Checkpoint.read(path / _CHECKPOINT))
        if run._read(_CONFIG) != run.settings.to_toml().encode():
            raise PicopinnError(
                f"{path / _CONFIG} was changed since the run began: undo that, or start a new run with other options"
            )
        if len(run._read(_METRICS)) < run.checkpoint.metrics_bytes:
            raise PicopinnError(f"{path / _METRICS} was cut short: restore it from a copy, or start a new run")
        return run

    def save(self, rows: Sequence[Row], state: State, seconds: float, ranges: Ranges | None = None) -> None:
        """Append rows to the metrics, and ranges to theirs, and move the checkpoint.

        An error leaves the last one as it was.

        Raises:
            PicopinnError: the directory cannot be written, or another process trains in it.
        """
        if self._mark() not in (self._written, None):
            raise PicopinnError(
                f"another process has gone on with {self.path}: this one leaves the run to it; "
                "for a second run choose another --run"
            )
        if ranges:
            lines = [_range_line(step, one) for step, found in (self.ranges() | ranges).items() for one in found]
            self._write(_RANGES, "".join([_RANGES_HEADER, *lines]).encode())
        path = self.path / _METRICS
        with self._writing(path), open(path, "r+b") as file:
            file.truncate(self.checkpoint.metrics_bytes)
            file.seek(0, os.SEEK_END)
            file.write(_lines(rows, headed=file.tell() > 0).encode())
            _sync(file)
            length = file.tell()
        checkpoint = Checkpoint(self.settings, state, seconds, length)
        self._write(_CHECKPOINT, checkpoint.to_bytes())
        self.checkpoint, self._written = checkpoint, self._mark()

    def rows(self) -> list[Row]:
        """The metrics up to the checkpoint."""
        lines = self._read(_METRICS)[: self.checkpoint.metrics_bytes].decode(errors="replace").splitlines()
        try:
            header, *rows = csv.reader(lines) if lines else [[]]
            return [Row.parse(header, cells) for cells in rows]
        except (ValueError, csv.Error) as error:
            raise _damaged(self.path / _METRICS, error) from error

    def ranges(self) -> Ranges:
        """How numbers lay in their widths, up to the checkpoint."""
        path, found = self.path / _RANGES, Ranges()
        try:
            for line in _read(path).decode(errors="replace").splitlines()[1:]:
                step, one = _parse_range(line)
                if step <= self.checkpoint.step:  # later ones are of steps that will be taken again
                    found.setdefault(step, []).append(one)
        except ValueError as error:
            raise _damaged(path, error) from error
        return found

    def finish(self, result: Mapping[str, Any], picture: bytes) -> None:
        """Write the result and the picture."""
        self._write(_PICTURE, picture)
        self._write(_RESULT, _json(result))

    def result(self) -> dict[str, Any] | None:
        """What :meth:`finish` wrote, or None if the run has not ended."""
        if not (self.path / _RESULT).exists():
            return None
        try:
            return dict(json.loads(self._read(_RESULT)))
        except (ValueError, TypeError) as error:
            raise PicopinnError(
                f"{self.path / _RESULT} is damaged ({error}): write it again with picopinn train --resume {self.path}"
            ) from error

    def environment(self) -> dict[str, Any]:
        """The machine and the versions that the run began on."""
        try:
            return dict(json.loads(self._read(_ENVIRONMENT)))
        except (ValueError, TypeError) as error:
            raise _damaged(self.path / _ENVIRONMENT, error) from error

    def _mark(self) -> tuple[int, ...] | None:
        """What tells this checkpoint from one that another process wrote; None if it is gone."""
        try:
            stat = (self.path / _CHECKPOINT).stat()
        except FileNotFoundError:
            return None
        return stat.st_ino, stat.st_mtime_ns, stat.st_size

    def _read(self, name: str) -> bytes:
        return _read(self.path / name)

    def _write(self, name: str, data: bytes) -> None:
        with self._writing(self.path / name):
            write_atomic(self.path / name, data)

    @contextmanager
    def _writing(self, path: Path) -> Iterator[None]:
        saved = f"the checkpoint of step {self.checkpoint.step} is intact"
        then = f"{saved}; make room, then picopinn train --resume {self.path}"
        with _explained(path, then):
            yield


def _lines(rows: Sequence[Row], headed: bool) -> str:
    """Lines of ``metrics.csv``, the first ones after their header."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    if rows and not headed:
        writer.writerow(rows[0].header())
    writer.writerows(row.cells() for row in rows)
    return text.getvalue()


def _range_line(step: int, one: Range) -> str:
    spans = [number for span in (one.weights, one.gradients) for number in (span or ("", ""))]
    return ",".join(map(str, (step, one.tensor, *spans, one.accumulator, one.saturations))) + "\n"


def _parse_range(line: str) -> tuple[int, Range]:
    """Inverse of :func:`_range_line`; ValueError if it is none."""
    step, tensor, *spans, accumulator, saturations = line.split(",")
    weights, gradients = ((int(low), int(high)) if low else None for low, high in (spans[:2], spans[2:]))
    return int(step), Range(tensor, weights, gradients, int(accumulator), int(saturations))


def write_atomic(path: Path, data: bytes) -> None:
    """Replace a file as a whole: it holds its old content or the new, whatever happens."""
    draft = path.with_name(f".{path.name}.draft")
    try:
        with open(draft, "wb") as file:
            file.write(data)
            _sync(file)
        os.replace(draft, path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise


def environment() -> dict[str, Any]:
    """The machine and the versions, for ``environment.json``."""
    return {
        "picopinn": __version__,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "platform": platform.platform(),
        "cpu": _cpu(),
        "kernels": _kernels(),
    }


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


def _kernels() -> list[str]:
    """Instruction sets of the kernels that run here; none if they are not built, which ``float32`` does not need."""
    try:
        from .kernels import variants
    except PicopinnError:
        return []
    return variants()


def _arrays(path: Path) -> State:
    data = io.BytesIO(_read(path))
    try:
        with np.load(data, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    # A damaged archive makes zipfile and NumPy raise nearly anything.
    except Exception as error:
        raise _damaged(path, error) from error


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise PicopinnError(f"{path} is missing: restore it from a copy, or start a new run") from error


def _damaged(path: Path, error: Exception) -> PicopinnError:
    cause = " ".join(str(error).split()) or type(error).__name__
    return PicopinnError(f"{path} is damaged or cut short ({cause}): restore it from a copy, or start a new run")


def _claim(draft: Path, path: Path) -> None:
    try:
        draft.rename(path)
    except OSError as error:
        raise _exists(path) if error.errno in (errno.EEXIST, errno.ENOTEMPTY) else error from error


def _exists(path: Path) -> RunExistsError:
    return RunExistsError(f"{path} exists: continue it with --resume {path}, or choose another --run")


@contextmanager
def _explained(path: Path, then: str) -> Iterator[None]:
    """Turn what the operating system refuses into one line with the next step."""
    try:
        yield
    except OSError as error:
        raise PicopinnError(f"cannot write {path}: {error.strerror or error}: {then}") from error


def _sync(file: IO[bytes]) -> None:
    file.flush()
    os.fsync(file.fileno())


def _json(table: Mapping[str, Any]) -> bytes:
    return (json.dumps(table, indent=2) + "\n").encode()
