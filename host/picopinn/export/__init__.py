"""A finished run as something to use elsewhere: TensorFlow Lite, C, NumPy or a file for a board (docs/export.md)."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from ppn import stored

from ..boards import Board
from ..errors import PicopinnError, UsageError
from ..runs import write_atomic
from . import board, c, npz, tflite
from .trained import Trained

__all__ = ["FORMS", "Trained", "export", "for_board", "target"]

SUFFIXES = {"tflite": ".tflite", "c": ".h", "npz": ".npz", "board": stored.SUFFIX}
FORMS = "FILE.tflite, FILE.h, FILE.npz or FILE.ppn; or tflite, c, npz or board for a file named after the problem"


def target(to: str, name: str) -> Path:
    """The file that ``--to`` names, or of a format alone: one named after the problem.

    Raises:
        UsageError: no such format.
    """
    if to in SUFFIXES:
        return Path(name + SUFFIXES[to])
    if Path(to).suffix not in SUFFIXES.values():
        raise UsageError(f"--to {to} is no format: give {FORMS}")
    return Path(to)


def export(trained: Trained, path: Path, int8: bool = False, force: bool = False) -> list[Path]:
    """Write the format that the path's suffix names; answers the files, which are there whole or not at all.

    Args:
        int8: a ``.tflite`` in INT8 instead of float32.
        force: replace files that are there.

    Raises:
        UsageError: the format does not do this, or a file is there.
        PicopinnError: it cannot be written.
    """
    if int8 and path.suffix != SUFFIXES["tflite"]:
        raise UsageError(f"--int8 is for {SUFFIXES['tflite']} files, and {path} is none: leave it out")
    contents = {path.with_suffix(suffix): content for suffix, content in _contents(trained, path, int8).items()}
    for file in contents:
        if not force and os.path.lexists(file):
            raise UsageError(f"{file} exists: choose another --to, or replace it with --force")
    for file, content in contents.items():
        try:
            write_atomic(file, content)
        except OSError as error:
            raise PicopinnError(
                f"cannot write {file}: {error.strerror or error}: choose another --to, or make room"
            ) from error
    return list(contents)


def for_board(solvers: Sequence[Trained], kind: Board) -> dict[str, bytes]:
    """The files that ``ppn.solver`` reads on a board, by name.

    Raises:
        UsageError: one computes in floats or does not fit, or two are of one problem.
    """
    files: dict[str, bytes] = {}
    for trained in solvers:
        name = trained.name + stored.SUFFIX
        if name in files:
            raise UsageError(f"two runs of {trained.name} would both be {name}: give --solver one of them")
        board.check_room(trained, kind)
        files[name] = board.write(trained)
    return files


def _contents(trained: Trained, path: Path, int8: bool) -> dict[str, bytes]:
    """What is written, by suffix."""
    if path.suffix == SUFFIXES["c"]:
        return c.write(trained, path.stem)
    one: dict[str, Callable[[], bytes]] = {
        SUFFIXES["tflite"]: lambda: tflite.write(trained, int8),
        SUFFIXES["npz"]: lambda: npz.write(trained),
        SUFFIXES["board"]: lambda: board.write(trained),
    }
    return {path.suffix: one[path.suffix]()}
