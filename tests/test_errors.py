"""Every error that a person can cause, in one table: what was done, how it ends, its cause and the next step.

Commands end with one line on stderr, nothing on stdout, and every file as it was. Others raise.
"""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import serial

import pinta_model
from picopinn import (
    Estimator,
    Network,
    Precision,
    Problem,
    Solver,
    boards,
    cli,
    fit,
    flash,
    image,
    kernels,
    pinta,
    problems,
    smx,
    toolchain,
    uf2,
)
from picopinn.errors import PicopinnError, UsageError
from picopinn.link import emulator, ports
from picopinn.link.session import LinkLostError, Session
from picopinn.problems import Condition, Constraint, Field, check, linearize
from picopinn.runs import FORMAT, Run
from picopinn.settings import Settings
from picopinn.smx import SMX

SMALL = "--hidden 16 --layers 2 --tt 4x4 --rank 2 --batch 8 --steps 3 --precision float32"
BOARD = boards.load("rp2040")
PICO = (boards.firmware_folder() / "boards/rp2040.toml").read_text()
DESIGN = pinta_model.configs()["pinta-default"].read_text()
ODD = {"name": "s", "repeat": 1, "operations": [{"op": "convolve"}]}
STEP = json.dumps({"format": 1, "name": "x", "tensors": [], "sections": [ODD]})
ALL = "evaluate run | report run | train --resume run"


class Bench:
    """A folder, the working directory, and what a case may change around it."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch) -> None:
        self.folder, self.patch = folder, patch

    def write(self, name: str, content: str | bytes) -> Path:
        path = self.folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    def files(self) -> dict[str, bytes]:
        return {str(path): path.read_bytes() for path in self.folder.rglob("*") if path.is_file()}


@dataclass(frozen=True)
class Case:
    """``do``: commands, ``|`` between, or a function; ``ends``: exit code or exception; ``before``: what was there."""

    what: str
    do: str | Callable[[Bench], object]
    ends: int | type[Exception]
    cause: str
    then: str
    before: Callable[[Bench], object] | None = None


# -- the command line -------------------------------------------------------------------------------------------------

TRAIN = "train poisson2d"


def mmx(bench: Bench) -> None:
    kernels.kernels.cache_clear()  # of what the environment named before
    bench.patch.setenv("PICOPINN_VARIANT", "mmx")


CLI = [
    Case("no problem", "train", 2, "name a problem", "picopinn problems"),
    Case("an unknown problem", "train poison2d", 2, "'poison2d' is unknown", "did you mean poisson2d"),
    Case("a TT shape of another width", f"{TRAIN} --tt 16x17", 2, "16 x 17 = 272", "pass --tt 16x16"),
    Case("another width", f"{TRAIN} --hidden 512", 2, "16 x 16 = 256", "pass --tt 16x32, or --dense"),
    Case("a prime width", f"{TRAIN} --hidden 257", 2, "does not match --hidden 257", "--dense, or another --hidden"),
    Case("a TT text", f"{TRAIN} --tt 16by16", 2, "'16by16' is not understood", "such as 16x16"),
    Case("a TT mode of zero", f"{TRAIN} --tt 0x16", 2, "got 0x16", "1 to 4 positive modes"),
    Case("no width", f"{TRAIN} --hidden 0", 2, "got 0", "hidden must be at least 1"),
    Case("no layer", f"{TRAIN} --layers 0", 2, "got 0", "layers must be at least 1"),
    Case("no rank", f"{TRAIN} --rank 0", 2, "got 0", "rank must be at least 1"),
    Case("too few bits", f"{TRAIN} --precision w3a8g12", 2, "weights width 3", "4 to 16 bits"),
    Case("too many bits", f"{TRAIN} --precision w8a8g17", 2, "gradients width 17", "4 to 16 bits"),
    Case("a precision", f"{TRAIN} --precision int8", 2, "'int8' is not understood", "write w8a8g12"),
    Case("no step", f"{TRAIN} --steps 0", 2, "got 0", "steps must be at least 1"),
    Case("steps in words", f"{TRAIN} --steps many", 2, "--steps.*valid integer", "see picopinn train --help"),
    Case("no point", f"{TRAIN} --batch 0", 2, "got 0", "batch must be at least 1"),
    Case("a seed", f"{TRAIN} --seed -1", 2, "got -1", "seed must be 0 to"),
    Case("no thread", f"{TRAIN} --threads 0", 2, "got 0", "threads must be at least 1"),
    Case("a sigma of nothing", f"{TRAIN} --estimator gaussian --sigma nan", 2, "got nan", "must be a positive number"),
    Case("a sigma of zero", f"{TRAIN} --estimator orthogonal --sigma 0", 2, "got 0", "must be a positive number"),
    Case("where matrices settle", f"{TRAIN} --settle 0", 2, "got 0", "above 0 and at most 1"),
    Case("a learning rate", f"{TRAIN} --learning-rate inf", 2, "got inf", "must be a positive number"),
    Case("directions", f"{TRAIN} --directions 5", 2, "at most 2 directions in 2 dimensions", "take fewer"),
    Case("jets with a step", f"{TRAIN} --sigma 0.1", 2, "jet estimator takes no finite steps", "leave out --sigma"),
    Case("jets quantized", f"{TRAIN} --quantization naive", 2, "jet estimator", "add --estimator orthogonal"),
    Case("dense and TT", f"{TRAIN} --dense --tt 16x16 --rank 8", 2, "--rank, --tt is for tensor", "leave out one"),
    Case(
        "an estimator",
        f"{TRAIN} --estimator fd",
        2,
        "'--estimator': 'fd' is not one of",
        "'jet', 'laplacian', 'orthogonal'",
    ),
    Case("an option", f"{TRAIN} --sigam 1", 2, "No such option: --sigam", "see picopinn train --help"),
    Case("a command", "trian poisson2d", 2, "No such command 'trian'", "see picopinn --help"),
    Case("an option of a problem", f"{TRAIN} --set frequency=4", 2, "has no option 'frequency'", "it has none"),
    Case("an option without a number", f"{TRAIN} --set frequency", 2, "'?frequency'? is not", "write NAME=NUMBER"),
    Case("to resume nothing", "train --resume nowhere", 2, "no run directory nowhere", "give the folder"),
    Case("to resume otherwise", "train --resume a --steps 3", 2, "its own settings", "leave out --steps"),
    Case("to resume a problem", f"{TRAIN} --resume a", 2, "its own settings", "leave out PROBLEM"),
    Case("a port of no page", f"{TRAIN} --port 8000", 2, "--port is where --watch serves", "add --watch"),
    Case("to look at nothing", "evaluate nowhere | report nowhere", 2, "no run directory nowhere", "give the folder"),
    Case(
        "an instruction set", TRAIN, 2, "'mmx' does not run here", "choose portable.*unset PICOPINN_VARIANT", before=mmx
    ),
    Case("a network described", "describe poisson2d --hidden 64", 2, "does not match --hidden 64", "--tt 8x8"),
    Case(
        "floats that should fit",
        "fit poisson2d --board rp2040 --precision float32",
        2,
        "computes in integers",
        "widths",
    ),
    Case("a network too large", "fit poisson2d --board rp2040 --dense", 2, "does not fit", "smaller --hidden, --rank"),
    Case("an unmeasured board", "fit poisson2d --board rp2350", 2, "nobody has measured", "choose rp2040"),
    Case("a board", "fit poisson2d --board rp2041", 2, "no board 'rp2041'", "there are rp2040, rp2350, stm32f4"),
    Case("no problem of PINTA", "pinta cost burgers", 2, "'burgers' is unknown", "hjb20d.*or give a workload file"),
    Case("a grouping", "pinta cost poisson2d --by colour", 2, "--by 'colour'", "layer, phase, operation, level"),
    Case("no point of PINTA", "workload poisson2d --batch 0", 2, "got 0", "batch must be at least 1"),
    Case("a batch of PINTA", "workload poisson2d --batch 0", 2, "batch must be at least 1", "got 0"),
    Case("a width of PINTA", "pinta cost poisson2d --precision w8a8g20", 2, "gradients width 20", "4 to 16 bits"),
]

# -- files ------------------------------------------------------------------------------------------------------------


def cut(name: str, share: float) -> Callable[[Bench], object]:
    """Leaves a share of a run's file."""

    def spoil(bench: Bench) -> None:
        data = (bench.folder / "run" / name).read_bytes()
        bench.write(f"run/{name}", data[: int(share * len(data))])

    return spoil


def rewritten(**changes: Any) -> Callable[[Bench], object]:
    """Changes arrays of a run's checkpoint; None takes one away."""

    def spoil(bench: Bench) -> None:
        path = bench.folder / "run" / "checkpoint.npz"
        with np.load(path) as archive:
            arrays: dict[str, Any] = {**archive} | changes
        np.savez(path, **{name: array for name, array in arrays.items() if array is not None})

    return spoil


def without(name: str) -> Callable[[Bench], object]:
    return lambda bench: (bench.folder / "run" / name).unlink()


def edited(bench: Bench) -> None:
    text = (bench.folder / "run/config.toml").read_text()
    bench.write("run/config.toml", text.replace("steps = 3", "steps = 4"))


def sealed(bench: Bench) -> None:
    """A folder that nothing can be written to, also where the tests may write anywhere."""

    def mkdir(*arguments: object, **options: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    bench.patch.setattr(Path, "mkdir", mkdir)


def files(**contents: str | bytes) -> Callable[[Bench], object]:
    """Files ``name__kind`` with these contents."""
    return lambda bench: [bench.write(name.replace("__", "."), content) for name, content in contents.items()]


def stepped(**changes: int) -> Callable[[Bench], object]:
    """Workloads: ``odd.json`` with an unknown operation, ``a.json`` with a change of its first product."""
    data = json.loads(pinta.workload_text("poisson2d", Estimator("jet")))
    operations = [operation for section in data["sections"] for operation in section["operations"]]
    next(one for one in operations if one["name"] == "stage0").update(changes)
    return files(a__json=json.dumps(data), odd__json=STEP)


def design(lines: str) -> Callable[[Bench], object]:
    """``a.toml``, the default architecture but for some lines."""
    return files(a__toml=f'extends = "pinta-default"\n{lines}\n')


NEW = "pinta cost poisson2d --config a.toml"
INTACT = "restore it from a copy, or start a new run"
FILES = [
    Case("a run that exists", f"{TRAIN} {SMALL} --run run", 2, "run exists", "--resume run, or choose another --run"),
    Case("a folder under a file", f"{TRAIN} {SMALL} --run f.x/run", 1, "Not a dir", "another --run", files(f__x="")),
    Case("a folder of others", f"{TRAIN} {SMALL} --run new", 1, "Permission denied", "another --run", sealed),
    Case("a cut checkpoint", ALL, 1, "checkpoint.npz is damaged or cut short", INTACT, cut("checkpoint.npz", 0.5)),
    Case("an empty checkpoint", ALL, 1, "checkpoint.npz is damaged or cut short", INTACT, cut("checkpoint.npz", 0)),
    Case("no checkpoint", ALL, 1, "checkpoint.npz is missing", INTACT, without("checkpoint.npz")),
    Case("no metrics", ALL, 1, "metrics.csv is missing", INTACT, without("metrics.csv")),
    Case("no settings", ALL, 1, "config.toml is missing", INTACT, without("config.toml")),
    Case("cut metrics", ALL, 1, "metrics.csv was cut short", INTACT, cut("metrics.csv", 0.9)),
    Case("changed settings", ALL, 1, "config.toml was changed", "undo that, or start a new run", edited),
    Case(
        "another version",
        ALL,
        1,
        f"checkpoint format {FORMAT + 1}, this picopinn .* reads",
        "environment.json, or start a new run",
        rewritten(format=FORMAT + 1),
    ),
    Case("something else", ALL, 1, "not a checkpoint of picopinn", "give the folder of a run", rewritten(format=None)),
    Case("a part missing", ALL, 1, "damaged or cut short", INTACT, rewritten(seconds=None)),
    Case("a pickle", ALL, 1, "damaged.*allow_pickle=False", INTACT, rewritten(settings=np.array([{}], dtype=object))),
    Case(
        "a result", "report run", 1, "result.json is damaged", "--resume run", lambda b: b.write("run/result.json", "{")
    ),
    Case("a place for CSV", "pinta cost poisson2d --csv no/x.csv", 1, "cannot use no/x.csv: No such", "check the path"),
    Case("a workload", "pinta cost a.json", 2, "a.json: not JSON", "line 1 column 2", files(a__json="{")),
    Case("no workload", "pinta explore no.json", 2, "no.json: cannot be read", "No such file"),
    Case("no design", "pinta poisson2d --config no.toml", 2, "no.toml: cannot be read", "No such file"),
    Case(
        "an operation", "pinta cost odd.json", 2, "unknown operation 'convolve' in section 's'", "gemm, unit", stepped()
    ),
    Case(
        "a width in a file",
        "pinta cost a.json",
        2,
        "a.json: operation 'stage0'",
        "width 17 is .* 4 to 16",
        stepped(bits_a=17),
    ),
    Case(
        "a size in a file",
        "pinta cost a.json",
        2,
        "a.json: operation 'stage0'",
        "sizes must be at least 1",
        stepped(k=0),
    ),
    Case("a shape in a file", "pinta cost a.json", 2, "a.json: operation 'stage0'", "but tensor", stepped(m=10**6)),
    Case("narrow elements", NEW, 2, "a.toml: array.widest_bits = 8", "'stage1", design("[array]\nwidest_bits = 8")),
    Case(
        "a small buffer",
        NEW,
        2,
        "a.toml: buffers.weight.size_bytes = 64",
        "tile",
        design("[buffers.weight]\nsize_bytes = 64"),
    ),
    Case(
        "no rows", NEW, 2, "a.toml: array.rows must be a whole number", "from 1 on, got 0", design("[array]\nrows = 0")
    ),
    Case(
        "a design with a gap",
        NEW,
        2,
        "a.toml: ",
        "energy.dram_64b_pj.scale is missing",
        files(a__toml=DESIGN.replace("[energy.dram_64b_pj]", "[energy.other]")),
    ),
]


def described(old: str, new: str) -> Callable[[Bench], object]:
    """Reads the description of a board with a change."""
    assert old in PICO
    return lambda bench: boards.read(bench.write("mine.toml", PICO.replace(old, new)))


FILES += [
    Case(
        "a board without a key",
        described('arch = "armv6m"', ""),
        UsageError,
        "mine.toml: 'arch' is missing",
        "known are",
    ),
    Case(
        "a key of no board", described("cores = 2", "colour = 1"), UsageError, "unknown key 'colour'", "known are name"
    ),
    Case("no core", described("cores = 2", "cores = 0"), UsageError, "mine.toml: cores = 0", "not a number above 0"),
    Case("truth for cores", described("cores = 2", "cores = true"), UsageError, "cores = True", "not a number above 0"),
    Case("a part without a key", described("blocks = 352", ""), UsageError, r"\[filesystem\] 'blocks' is", "known are"),
    Case("a part", described("[bootloader]", "bootloader = 1\n[other]"), UsageError, "mine.toml", "is not a table"),
    Case("a USB id", described('"2e8a:0005"', '"2E8A/5"'), UsageError, "mine.toml: usb", "ids such as '2e8a:0005'"),
    Case("a text", described('arch = "armv6m"', "arch = 6"), UsageError, "mine.toml: arch = 6", "is not a text"),
    Case("no TOML", described("cores = 2", "cores ="), UsageError, "mine.toml: Invalid value", "line 5"),
]

# -- exports ----------------------------------------------------------------------------------------------------------


def begun(bench: Bench) -> None:
    """A run with all its steps before it."""
    settings = Settings.from_toml((bench.folder / "run/config.toml").read_text())
    Run.create(bench.folder / "begun", settings, settings.solver(1).state())


NOWHERE = "export nowhere --to npz | flash --board rp2040 --solver nowhere"
UNDER_WAY = "export begun --to npz | flash --board rp2040 --solver begun"
AS_INTEGERS = "export run --to c | export run --to board | flash --board rp2040 --solver run"
EXPORT = [
    Case("to export nothing", NOWHERE, 2, "no run directory nowhere", "give the folder"),
    Case("a run under way", UNDER_WAY, 1, "begun stands at step 0 of 3", "picopinn train --resume begun", begun),
    Case("a format", "export run --to onnx | export run --to u.onnx", 2, "is no format", "or tflite, c, npz or board"),
    Case("no format", "export run", 2, "Missing option.*--to", "see picopinn export --help"),
    Case("INT8 elsewhere", "export run --to u.h --int8", 2, "--int8 is for .tflite files", "leave it out"),
    Case("a file there", "export run --to u.npz", 2, "u.npz exists", "replace it with --force", files(u__npz="mine")),
    Case("no folder", "export run --to no/u.npz", 1, "cannot write no/u.npz: No such", "choose another --to"),
    Case("under a file", "export run --to f.x/u.npz", 1, "f.x/u.npz: Not a dir", "another --to", files(f__x="")),
    Case("floats as integers", AS_INTEGERS, 2, "computes in integers", "as .tflite or .npz.* --precision w8a8g12"),
]

# -- the library ------------------------------------------------------------------------------------------------------


class Mine(Problem):
    dimensions = 3

    def residual(self, x: Any, u: Field) -> Any:
        return u.laplacian + u.value

    def boundary(self, x: Any) -> Any:
        return np.zeros(len(x))


class Fast(Mine):
    options: ClassVar = {"speed": 1.0}


def problem(**changes: Any) -> Callable[[Bench], object]:
    """Checks a problem that has other attributes than ``Mine``."""
    return lambda bench: check(type("Changed", (Mine,), changes)())


def solver(**options: Any) -> Solver:
    given = {"network": Network(2, hidden=4, layers=1, tt=None), "precision": "float32", "steps": 1, "batch": 4}
    return Solver(problems.get("poisson2d")(), **given | options)


def restored(**changes: Any) -> Callable[[Bench], object]:
    """Restores a state with changes."""

    def act(bench: Bench) -> None:
        one = solver()
        one.restore({name: array for name, array in {**one.state(), **changes}.items() if array is not None})

    return act


def trained_on(bench: Bench) -> None:
    one = solver()
    one.train()
    one.step()


def diverged(bench: Bench) -> None:
    one = solver()
    one.master[0] = np.inf
    one.step()


def lied(x: Any) -> Constraint:
    zero = np.zeros(len(x))
    return Constraint(Field(x[:, 0], np.zeros(x.shape), zero), Field(zero + 1, np.zeros(x.shape), zero))


def singular(bench: Bench) -> None:
    one = type("Singular", (Mine,), {"residual": lambda self, x, u: u.value / x[:, 0]})()
    with np.errstate(divide="ignore", invalid="ignore"):
        linearize(one, np.zeros((2, 3)), Field(np.ones(2)))


def unbuilt(bench: Bench) -> object:
    bench.patch.setenv("PICOPINN_CACHE", str(bench.folder))
    bench.patch.delenv("PICOPINN_MICROPYTHON", raising=False)
    return toolchain.unix_port()


SQUARE = smx.encode(np.ones((4, 8)), 8)
WIDE = Condition("initial", 1.0, lambda rng, n: rng.random((3, n)), lambda x: np.zeros(len(x)))
API: list[Case] = [
    Case(
        "a class for a problem",
        lambda b: check(Mine),
        UsageError,
        "an instance of a Problem subclass",
        "call the class",
    ),
    Case("no dimensions", problem(dimensions=None), UsageError, "needs dimensions", "dimensions = 2 in its class"),
    Case("time without space", problem(dimensions=1, time=True), UsageError, "no space", "counts both, 2 or more"),
    Case("no residual", problem(residual=Problem.residual), UsageError, "has no PDE", "define residual"),
    Case("no solution", problem(boundary=Problem.boundary), UsageError, "no reference solution", "define solution"),
    Case(
        "abs of u", problem(residual=lambda s, x, u: abs(u.value)), UsageError, "is not analytic in u", "replace np.abs"
    ),
    Case(
        "a function of reals",
        problem(residual=lambda s, x, u: np.arctan2(u.value, u.laplacian)),
        UsageError,
        "fails on complex numbers.*arctan2",
        "use analytic NumPy functions",
    ),
    Case(
        "a column",
        problem(residual=lambda s, x, u: u.value[:, None]),
        UsageError,
        r"\(6, 1\) for 6",
        "return one number",
    ),
    Case(
        "axes",
        problem(interior=lambda s, r, n: r.random((3, n))),
        UsageError,
        r"interior .*\(3, 6\)",
        r"expected \(6, 3\)",
    ),
    Case(
        "wide", problem(boundary=lambda s, x: x), UsageError, r"boundary .* returns shape \(6, 3\)", r"expected \(6,\)"
    ),
    Case(
        "points",
        problem(conditions=lambda s: (WIDE,)),
        UsageError,
        r"condition 'initial'.*\(3, 6\)",
        r"expected \(6, 3\)",
    ),
    Case(
        "a derivative",
        problem(constraint=lambda s, x: lied(x)),
        UsageError,
        "is not the gradient of its",
        "derive it again",
    ),
    Case("a division by zero", singular, UsageError, r"not finite at x = \[0", "look there for a division by zero"),
    Case("another part", lambda b: Field(np.zeros(1)).time, UsageError, "u.time is not there", "reads the same parts"),
    Case("no part", lambda b: Field(np.zeros(1)).curl, AttributeError, "no part 'curl'", "it has value, gradient"),
    Case("a keyword", lambda b: Mine(speed=2), UsageError, "has no option 'speed'", "it has none"),
    Case("a misspelt option", lambda b: Fast(sped=2), UsageError, "has no option 'sped'", "its options are speed"),
    Case("a kind", lambda b: Estimator("fd"), UsageError, "'fd' is unknown", "choose one of jet, laplacian"),
    Case("steps", lambda b: Estimator(quantization="even"), UsageError, "'even' is unknown", "choose .*odd-even"),
    Case("a square", lambda b: Estimator(squared="twice"), UsageError, "'twice' is unknown", "choose .*plain"),
    Case("no direction", lambda b: Estimator(directions=0), UsageError, "got 0", "directions must be at least 1"),
    Case(
        "a sparse grid",
        lambda b: Estimator("smolyak", directions=3),
        UsageError,
        "as many .* as it has nodes",
        "leave out",
    ),
    Case(
        "an activation", lambda b: Network(2, activation="relu"), UsageError, "'relu' is unknown", "choose tanh or sine"
    ),
    Case("a contraction", lambda b: Network(2, contraction="all"), UsageError, "'all' is unknown", "choose prs or seq"),
    Case(
        "a wide layer", lambda b: Network(2, hidden=5000, tt=None), UsageError, "got 5000", "takes at most 4096 inputs"
    ),
    Case("a rank", lambda b: Network(2, rank=300), UsageError, "rank 300 exceeds", "no larger rank"),
    Case(
        "a last mode",
        lambda b: Network(2, hidden=6, tt=(6,), rank=1, contraction="sequential"),
        UsageError,
        "got 6",
        "of 4",
    ),
    Case(
        "inputs", lambda b: solver(network=Network(3)), UsageError, "2 dimensions, the network 3", r"use Network\(2, "
    ),
    Case("outputs", lambda b: solver(network=Network(2, outputs=2)), UsageError, "got 2", "one output u"),
    Case("one step more", trained_on, UsageError, "the run's 1 steps are taken", "a new solver with more steps"),
    Case("a loss without end", diverged, PicopinnError, "loss is nan at step 1", "try a smaller learning rate"),
    Case(
        "points to predict",
        lambda b: solver().predict(np.zeros((5, 3))),
        UsageError,
        r"got \(5, 3\)",
        r"shape \(n, 2\)",
    ),
    Case(
        "weights", restored(master=np.zeros(3)), UsageError, "has 3 parameters, the network", "resume with the network"
    ),
    Case("moments", restored(**{"adam.mean": np.zeros(3)}), UsageError, "3 values for", "resume with the network"),
    Case("a later step", restored(step=np.array(5)), UsageError, "step 5 of a run of 1", "raise steps"),
    Case("no step number", restored(step=None), UsageError, "the checkpoint lacks step", "start a new run"),
    Case("bits", lambda b: smx.encode(np.ones((4, 4)), 3), UsageError, "width 3 is out of range", "4 to 16 bits"),
    Case("a vector", lambda b: smx.encode(np.ones(4), 8), UsageError, r"array of shape \(4,\)", "reshape it first"),
    Case("no number", lambda b: smx.encode([[np.nan]], 8), UsageError, "found nan at row 0", "encodes finite values"),
    Case("inner sizes", lambda b: kernels.matmul(SQUARE, SQUARE), UsageError, "4 x 8 times 4 x 8", "transpose one"),
    Case(
        "an inner size",
        lambda b: kernels.matmul(*[smx.encode(np.ones((1, 4097)), 8)] * 2, transpose_b=True),
        UsageError,
        "got 4097",
        "at most 4096",
    ),
    Case(
        "a width made by hand",
        lambda b: kernels.matmul(SMX(SQUARE.blocks, SQUARE.exponents, SQUARE.shape, 17), SQUARE, transpose_b=True),
        UsageError,
        "a mantissa width",
        r"outside 4\.\.16",
    ),
    Case("one by name", lambda b: kernels.kernels("mmx"), UsageError, "'mmx' does not run here", "choose portable"),
    Case("MicroPython unbuilt", unbuilt, PicopinnError, "no MicroPython .* is built", "run `invoke setup`"),
    Case(
        "MicroPython for others",
        lambda b: toolchain.board_firmware("stm32f4"),
        PicopinnError,
        "not stm32f4",
        "is built for",
    ),
]

# -- flashing ---------------------------------------------------------------------------------------------------------


def quiet(text: str, share: float | None) -> None:
    """Reports are for people."""


def volume(bench: Bench, board_id: str | None = "RPI-RP2") -> Path:
    """What a board with BOOTSEL held looks like, or a stick."""
    place = bench.folder / "volume"
    place.mkdir()
    if board_id:
        bench.write(f"volume/{flash.INFO}", f"Board-ID: {board_id}\r\n")
    return place


def copied(board_id: str | None = "RPI-RP2", board: str = "rp2040") -> Callable[[Bench], object]:
    return lambda bench: flash.copy(boards.load(board), bytes(100_000), volume(bench, board_id), quiet)


def unplugged(bench: Bench) -> None:
    place = volume(bench)
    left = iter(range(2))

    def fsync(_file: int) -> None:
        if next(left, None) is None:
            shutil.rmtree(place)
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    bench.patch.setattr(os, "fsync", fsync)
    flash.copy(BOARD, bytes(100_000), place, quiet)


def altered(bench: Bench) -> None:
    bench.patch.setattr(os, "fsync", lambda file: os.pwrite(file, b"X", 0))
    flash.copy(BOARD, bytes(1000), volume(bench), quiet)


def boards_here(volumes: tuple[str, ...] = (), at: tuple[str, ...] = ()) -> Callable[[Bench], object]:
    def set_up(bench: Bench) -> None:
        bench.patch.setattr(flash, "find_volumes", lambda board: [Path(place) for place in volumes])
        bench.patch.setattr(flash, "find_ports", lambda board: list(at))

    return set_up


def firmware(contents: Mapping[int, bytes], cut_to: int | None = None, family: int = 0) -> Callable[[Bench], object]:
    """Takes MicroPython out of a UF2 file with these contents."""
    assert BOARD.bootloader
    data = uf2.encode(contents, family or BOARD.bootloader.family)
    return lambda bench: image.micropython_of(BOARD, bench.write("a.uf2", data[:cut_to]))


def silent(bench: Bench) -> None:
    bench.patch.setattr(flash, "_RETURN", 0.3)
    ours, theirs = os.openpty()
    try:
        flash.push(BOARD, {}, os.ttyname(theirs), quiet)
    finally:
        os.close(ours)
        os.close(theirs)


def refused(text: str, number: int | None = None) -> Callable[[Bench], object]:
    """Every port refuses, as pyserial tells it."""

    def set_up(bench: Bench) -> None:
        def refuse(*arguments: object, **options: object) -> None:
            raise serial.SerialException(*([number] if number else []), text)

        bench.patch.setattr(serial, "serial_for_url", refuse)

    return set_up


def lacking(module: str) -> Callable[[Bench], object]:
    def act(bench: Bench) -> object:
        bench.patch.setitem(__import__("sys").modules, module, None)
        return image.require(module)

    return act


class Prompt:
    """MicroPython at a port that says it is something."""

    def __init__(self, said: bytes) -> None:
        self.exec = lambda code: said


def at_prompt(said: bytes) -> Callable[[Bench], object]:
    return lambda bench: flash._check_machine(BOARD, "/dev/ttyACM0", Prompt(said))


FLASH = [
    Case("two places", "flash --board rp2040 --volume v --port p", 2, "at a volume or at a port", "give one of"),
    Case("no board to flash", "flash --board rp2040", 2, "no Raspberry Pi Pico is here", "BOOTSEL held", boards_here()),
    Case(
        "two boards",
        "flash --board rp2040",
        2,
        "several boards",
        "add --volume V or --port P",
        boards_here(("V",), ("P",)),
    ),
    Case("an unknown board", "flash --board pico", 2, "no board 'pico'", "there are rp2040"),
    Case("a folder", "flash --board rp2040 --volume .", 2, "no boot loader's volume", "hold BOOTSEL"),
    Case(
        "a board without a boot loader",
        "flash --board stm32f4 --volume .",
        2,
        "no such boot loader",
        "then give --port",
    ),
    Case("no port", "flash --board rp2040 --port /dev/none", 2, "/dev/none is not there", "plug the board in"),
    Case("a stick", copied(None), UsageError, "no INFO_UF2.TXT", "hold BOOTSEL while plugging the board in"),
    Case("a Pico 2", copied("RP2350"), UsageError, "belongs to a board RP2350, not RPI-RP2", "use --board rp2350"),
    Case("a stranger", copied("SAMD21"), UsageError, "belongs to a board SAMD21", "picopinn knows no such board"),
    Case(
        "an unplugged board", unplugged, PicopinnError, "failed after 49152 of 100000 bytes", "plug the board in again"
    ),
    Case("a bad cable", altered, PicopinnError, "reads back differently", "plug the board in with BOOTSEL held"),
    Case("a silent port", silent, UsageError, "no MicroPython answers at", "plug the board in with BOOTSEL held"),
    Case(
        "another machine",
        at_prompt(b"Pico 2 with RP2350|0"),
        UsageError,
        "is Pico 2 .*, not Raspberry",
        "use --board rp2350",
    ),
    Case(
        "old MicroPython", at_prompt(b"Pico with RP2040|1"), UsageError, "reads other modules", "put 1.25 on the board"
    ),
    Case(
        "no firmware",
        lambda b: image.micropython_of(BOARD, Path("no.uf2")),
        UsageError,
        "no.uf2: No such",
        "--micropython",
    ),
    Case("a cut firmware", firmware({0x10000000: b"x"}, 700), UsageError, "a.uf2: .*cut short", "copy the file anew"),
    Case(
        "firmware of others",
        firmware({0x10000000: b"x"}, family=7),
        UsageError,
        "family 0x7",
        "take a file for this kind",
    ),
    Case(
        "other firmware",
        firmware({0x10100000: b"x"}),
        UsageError,
        "nothing at the start of flash",
        "take MicroPython for",
    ),
    Case(
        "large firmware",
        lambda b: image.build(BOARD, bytes(0xA0001)),
        UsageError,
        "reaches into the file",
        "take MicroP",
    ),
    Case(
        "no image",
        lambda b: image.build(boards.load("stm32f4"), b""),
        UsageError,
        "takes no image",
        "flash with --port",
    ),
    Case("no module", lambda b: image.application("vax"), UsageError, "no .*native-vax.mpy", "`invoke prebuild`"),
    Case(
        "no mpremote", lacking("mpremote"), UsageError, "mpremote is not installed", r"pip install 'picopinn\[board\]'"
    ),
]

# -- the link ---------------------------------------------------------------------------------------------------------


def here(*names: str) -> Callable[[Bench], object]:
    """As if these boards were plugged in."""

    class Found:
        vid, pid, serial_number = 0x2E8A, 5, None

        def __init__(self, device: str) -> None:
            self.device = device

    return lambda bench: bench.patch.setattr(ports.list_ports, "comports", lambda: [Found(name) for name in names])


def mute(bench: Bench) -> None:
    ours, theirs = os.openpty()
    try:
        Session(partial(ports.open_port, os.ttyname(theirs)), "the board", patience=0.2).connect()
    finally:
        os.close(ours)
        os.close(theirs)


def without_emulator(bench: Bench) -> object:
    bench.patch.setattr(emulator.importlib.util, "find_spec", lambda name: None)
    return emulator.EmulatedBoard(Path("image.uf2"))


BUSY = refused("could not open port: [Errno 16] Device or resource busy", errno.EBUSY)
DENIED = refused("could not open port: [Errno 13] Permission denied", errno.EACCES)
PORT = "latency --device serial:/dev/ttyACM9"
LINK = [
    Case("an address", f"{TRAIN} --device usb0", 2, "device 'usb0' is not understood", "one of local, unix"),
    Case("no board", f"{TRAIN} --device serial:auto", 2, "no board is here", "plug one in", here()),
    Case("boards", f"{TRAIN} --device serial:auto", 2, "several boards", "serial:/a or serial:/b", here("/a", "/b")),
    Case("a port of nothing", PORT, 1, "serial:/dev/ttyACM9 is not there", "plug it in", here()),
    Case("a busy port", PORT, 2, "/dev/ttyACM9 is in use", "close the program that has it open", BUSY),
    Case("a port of others", PORT, 2, "/dev/ttyACM9 is not yours to open", "join its group", DENIED),
    Case("no such serial", "latency --device serial:id:E66", 1, "serial:id:E66 is not there", "plug it in", here()),
    Case(
        "a closed socket", "latency --device socket://127.0.0.1:1", 1, "Connection refused", "see that it is connected"
    ),
    Case("no round trip", "latency --count 0", 2, "--count.*greater than or equal to 1", "see picopinn latency --help"),
    Case(
        "another emulator",
        f"{TRAIN} {SMALL} --precision w8a8g12 --device emulated:rp2350",
        2,
        "no emulator of",
        "use emul",
    ),
    Case(
        "floats to a device",
        f"{TRAIN} --precision float32 --device unix",
        2,
        "float32 runs on this computer",
        "leave out",
    ),
    Case(
        "no answer",
        mute,
        LinkLostError,
        "the board does not answer: is picopinn on it",
        "`invoke flash --board rp2040`",
    ),
    Case("no emulator", without_emulator, UsageError, "no RP2040 emulator", r"pip install 'picopinn\[emulator\]'"),
    Case(
        "no emulated image",
        lambda b: emulator.EmulatedBoard(Path("no.uf2")),
        UsageError,
        "no image no.uf2",
        "`invoke build",
    ),
    Case(
        "too many directions",
        lambda b: fit.memory(Network(2).program(Precision(), "jet"), 5000, BOARD, 1, 1),
        UsageError,
        "kernels refuse this",
        "more than 4095 directions",
    ),
]

ERRORS = CLI + FILES + EXPORT + API + FLASH + LINK


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was trained to its end."""
    path = tmp_path_factory.mktemp("finished") / "run"
    assert cli.main([*f"{TRAIN} {SMALL} --quiet --run".split(), str(path)]) == 0
    return path


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, finished: Path) -> Bench:
    """An empty folder but for ``run``."""
    shutil.copytree(finished, tmp_path / "run")
    monkeypatch.chdir(tmp_path)
    return Bench(tmp_path, monkeypatch)


@pytest.mark.parametrize("case", ERRORS, ids=lambda case: case.what)
def test_an_error_tells_its_cause_and_what_to_do(case: Case, bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    if case.before:
        case.before(bench)
    said = _commands(case, bench, capsys) if isinstance(case.do, str) else [_raised(case, bench)]
    for text in said:
        assert re.search(case.cause, text), text
        assert re.search(case.then, text), text


def _commands(case: Case, bench: Bench, capsys: pytest.CaptureFixture[str]) -> list[str]:
    """What each command says; one line, and no file changes."""
    assert isinstance(case.do, str)
    before, said = bench.files(), []
    for command in case.do.split(" | "):
        assert cli.main(command.split()) == case.ends
        out, err = capsys.readouterr()
        assert out == "" and err.startswith("error: ") and err.count("\n") == 1, err
        said.append(err)
    assert bench.files() == before
    return said


def _raised(case: Case, bench: Bench) -> str:
    assert callable(case.do) and isinstance(case.ends, type)
    with pytest.raises(case.ends) as caught:
        case.do(bench)
    assert type(caught.value) is case.ends or issubclass(type(caught.value), PicopinnError)
    assert "\n" not in str(caught.value).strip()
    return str(caught.value)


def test_every_error_is_listed_once() -> None:
    names = [case.what for case in ERRORS]
    assert len(names) == len(set(names)) >= 40
