"""The project's chores; ``invoke --list`` names them. CI calls nothing else."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from invoke.context import Context
from invoke.exceptions import Exit
from invoke.tasks import task

from firmware.tools import natmod
from firmware.tools import sizes as module_sizes
from picopinn import boards, image, toolchain
from picopinn.errors import PicopinnError

ROOT = Path(__file__).parent
KERNELS = ROOT / "kernels_c"
PYTHON = f'"{sys.executable}"'
BENCHES = ("step_profile", "board_step", "products --threads 1 --rounds 5")
LEFTOVERS = ("build", "dist", "host/picopinn.egg-info", ".mypy_cache", ".pytest_cache", ".ruff_cache", ".hypothesis")


def _run(c: Context, command: str) -> None:
    with c.cd(str(ROOT)):
        c.run(command, echo=True, pty=sys.stdout.isatty())


@task(help={"board": "kind of board to build MicroPython for"})
def setup(c: Context, board: str = "rp2040") -> None:
    """Put the toolchain in place: Debian's compilers and browser, MicroPython built from source, TFLite runtimes."""
    missing = toolchain.missing_packages()
    if missing:
        _install(c, missing)
    with _one_line():
        print(f"MicroPython for this computer: {toolchain.unix_port(build=True)}", flush=True)
        print(f"MicroPython for {board}: {toolchain.board_firmware(board, build=True)}", flush=True)
        for name in toolchain.RUNTIMES:
            print(f"{name}: {toolchain.runtime(name, build=True).packages}", flush=True)


def _install(c: Context, packages: list[str]) -> None:
    sudo = "" if hasattr(os, "geteuid") and os.geteuid() == 0 else "sudo -n "
    install = f"apt-get install -y -q --no-install-recommends {' '.join(packages)}"
    may = shutil.which("apt-get") and (not sudo or c.run("sudo -n true", hide=True, warn=True).ok)
    if not (may and c.run(f"{sudo}apt-get update -q && {sudo}{install}", echo=True, warn=True).ok):
        raise Exit(f"please install {' '.join(packages)} (names of Debian's packages), then run `invoke setup` again")


@contextmanager
def _one_line() -> Iterator[None]:
    """Errors that name their cause and what to do need no traceback."""
    try:
        yield
    except PicopinnError as error:
        raise Exit(str(error)) from None


@task(help={"board": "make a UF2 image for such a board instead, in build/"})
def build(c: Context, board: str = "") -> None:
    """Install the package into this environment, kernels compiled, sources editable; or make a board's image."""
    if not board:
        _run(c, f"{PYTHON} -m pip install -q -e '.[test]'")
        return
    with _one_line():
        kind = boards.load(board)
        contents = image.build(kind, image.micropython_of(kind, None))
    path = ROOT / "build" / f"picopinn-{board}.uf2"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(contents)
    print(f"{path}: {len(contents)} bytes")


@task(
    help={
        "board": "kind of board",
        "volume": "with BOOTSEL held",
        "port": "with MicroPython on it",
        "solver": "finished run to put on it, too",
    }
)
def flash(c: Context, board: str, volume: str = "", port: str = "", solver: str = "") -> None:
    """Put picopinn on a board, as `picopinn flash` does."""
    options = {"volume": volume, "port": port, "solver": solver}
    places = [f'--{name} "{value}"' for name, value in options.items() if value]
    _run(c, f"{PYTHON} -m picopinn.cli flash --board {board} {' '.join(places)}")


@task
def prebuild(c: Context) -> None:
    """Compile the native modules into firmware/prebuilt, for boards that are flashed without a compiler."""
    with _one_line():
        natmod.prebuild()
    for arch in natmod.TARGETS:
        print(f"{natmod.prebuilt(arch)}: {natmod.prebuilt(arch).stat().st_size} bytes")


@task
def lint(c: Context) -> None:
    """Check style and types: ruff, clang-format, mypy."""
    folders = (KERNELS, ROOT / "host/native", ROOT / "firmware/natmod", ROOT / "tests/c")
    found = [path for folder in folders for path in folder.rglob("*.[ch]")]
    sources = " ".join(f'"{path.relative_to(ROOT)}"' for path in sorted(found))
    _run(c, f"{PYTHON} -m ruff check")
    _run(c, f"{PYTHON} -m ruff format --check")
    _run(c, f"clang-format --dry-run -Werror {sources}")
    _run(c, f"{PYTHON} -m mypy")


@task(lint)
def test(c: Context) -> None:
    """Check everything: lint, then the tests on all cores. CI also trains a small table of results, and prints what a
    training step and the native modules cost a board, and where its cycles go."""
    if os.environ.get("CI") == "true":
        _run(c, f"{PYTHON} -m picopinn.cli reproduce --quick --jobs {os.cpu_count()}")
        _run(c, f"{PYTHON} benchmarks/board_step.py")
        _run(c, f"{PYTHON} benchmarks/step_profile.py --body board")
        sizes(c)
    _run(c, f"{PYTHON} -m pytest -q -n auto")


@task
def docs(c: Context) -> None:
    """Build the pages of docs/ into build/docs; a warning is an error."""
    _run(c, f"{PYTHON} -m sphinx -q -W --keep-going docs build/docs")
    print(ROOT / "build/docs/index.html")


@task(help={"frames": "how many"})
def fuzz(c: Context, frames: int = 10_000_000) -> None:
    """Send a device that many frames, good and bad, under sanitizers: a few minutes."""
    os.environ["PICOPINN_FUZZ_FRAMES"] = str(frames)
    _run(c, f"{PYTHON} -m pytest -q tests/test_fuzz.py")


@task(help={"name": "such a file of benchmarks/, or all of them (half an hour; some need PyTorch)"})
def bench(c: Context, name: str = "") -> None:
    """Print where a training step's time goes, what it costs a board, and our products beside others: two minutes."""
    every = sorted(path.stem for path in (ROOT / "benchmarks").glob("*.py") if "def main" in path.read_text())
    if name not in ("", "all", *every):
        raise Exit(f"no benchmark {name!r}: choose {', '.join(every)} or all")
    for command in {"": BENCHES, "all": every}.get(name, [name]):
        script, *options = command.split()
        _run(c, f"{PYTHON} benchmarks/{script}.py {' '.join(options)}")


@task
def sizes(c: Context) -> None:
    """Print what the native modules take in memory and stack; fail where that is over budget."""
    print(f"{'architecture':14}{'memory':>8}{'stack':>7}  largest frames")
    over = []
    with _one_line():
        for arch, budget in module_sizes.BUDGETS.items():
            found = module_sizes.measure(arch)
            frames = ", ".join(f"{name} {size:,}" for name, size in list(found.frames.items())[:4])
            print(f"{arch:14}{found.memory:8,}{found.stack:7,}  {frames}")
            over += found.over(budget)
    if over:
        raise Exit("\n".join(over))


@task
def clean(c: Context) -> None:
    """Remove what builds and tests leave behind."""
    for name in LEFTOVERS:
        shutil.rmtree(ROOT / name, ignore_errors=True)
    for path in (ROOT / "host").rglob("_kernels*"):
        path.unlink()
