"""The native module of each architecture: ``firmware/natmod`` and ``kernels_c`` as one ``.mpy``.

Compiled with gcc, linked once by ``ld -r`` (which takes the few helpers from libgcc and drops what nothing calls), and
turned into a ``.mpy`` by MicroPython's own ``mpy_ld.py``. The bytes depend on sources and compiler alone.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from picopinn import toolchain
from picopinn.toolchain import ToolchainError

ROOT = Path(__file__).parents[2]
PREBUILT = ROOT / "firmware/prebuilt"
SOURCES = ("firmware/natmod", "kernels_c/src")
FLAGS = (
    "-std=c11 -Wall -Wextra -Werror -Wno-unused-parameter -DNDEBUG -DNO_QSTR -DMICROPY_ENABLE_DYNRUNTIME -fpic"
    " -fno-common -fno-stack-protector -U_FORTIFY_SOURCE -ffunction-sections -fdata-sections -fno-jump-tables"
    " -fno-tree-loop-distribute-patterns"
)
SMALL, FAST = "-Os", "-O2"
HOT = {"backward.c", "chain.c", "cortexm0.c", "cortexm4.c", "frame.c"}  # where speed is worth memory


@dataclass(frozen=True)
class Target:
    """How to compile for an architecture, as MicroPython's py/dynruntime.mk does."""

    cross: str
    flags: str
    floats: str  # MicroPython's own choice there: its ABI, not ours


TARGETS = {
    "armv6m": Target("arm-none-eabi-", "-mthumb -mcpu=cortex-m0plus", "NONE"),
    "armv7emsp": Target("arm-none-eabi-", "-mthumb -mcpu=cortex-m4 -mfpu=fpv4-sp-d16 -mfloat-abi=hard", "FLOAT"),
    "x64": Target("", "-m64", "DOUBLE"),
}


def build(arch: str, root: Path = ROOT) -> bytes:
    """The module for ``arch``, a key of ``TARGETS``, from the sources under ``root``.

    Raises:
        ToolchainError: a source does not compile, or asks for what a native module cannot have.
    """
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        _link(arch, compile_sources(arch, root, place), place)
        return (place / "native.mpy").read_bytes()


def prebuild() -> None:
    """Write the modules of all architectures to ``firmware/prebuilt``, and with what they were compiled."""
    modules = {arch: build(arch) for arch in TARGETS}
    PREBUILT.mkdir(exist_ok=True)
    for arch, module in modules.items():
        prebuilt(arch).write_bytes(module)
    (PREBUILT / "compilers.txt").write_text(compilers())


def prebuilt(arch: str) -> Path:
    """Where the committed module of an architecture lies."""
    return PREBUILT / f"native-{arch}.mpy"


def compilers() -> str:
    """The compilers here, a line for each architecture; other compilers give other bytes."""
    found = {arch: _run(f"{target.cross}gcc", "--version").splitlines()[0] for arch, target in TARGETS.items()}
    return "".join(f"{arch}: {version}\n" for arch, version in found.items())


def compile_sources(arch: str, root: Path, place: Path, *more: str) -> list[Path]:
    """Object files of all sources under ``root``, in a folder; ``more`` are options of gcc."""
    target = TARGETS[arch]
    micropython = toolchain.sources().micropython
    names = place / "names.h"
    bindings = sorted((root / SOURCES[0]).glob("*.c"))
    _run(sys.executable, toolchain.sources().mpy_ld, "--arch", arch, "--preprocess", "-o", names, *bindings)
    includes = [f"-I{folder}" for folder in (root / SOURCES[0], root / "kernels_c/include", micropython)]
    floats = f"-DMICROPY_FLOAT_IMPL=MICROPY_FLOAT_IMPL_{target.floats}"
    options = [*FLAGS.split(), *more, *target.flags.split(), *includes, f"-DMP_CONFIGFILE=<{names}>", floats]
    objects = []
    for number, source in enumerate(source for folder in SOURCES for source in sorted((root / folder).glob("*.c"))):
        objects.append(place / f"{number}.o")
        level = FAST if source.name in HOT else SMALL
        _run(f"{target.cross}gcc", level, *options, "-c", source, "-o", objects[-1])
    return objects


def _link(arch: str, objects: list[Path], place: Path) -> None:
    target = TARGETS[arch]
    whole = place / "whole.o"
    link = [*target.flags.split(), "-r", "-nostdlib", "-Wl,--gc-sections,--entry=mpy_init,--undefined=mpy_init"]
    _run(f"{target.cross}gcc", *link, *objects, "-lgcc", "-o", whole)
    _refuse_variables(whole)
    # named relative to |place|: mpy_ld writes the output's name into the module
    arguments = f"--arch {arch} --qstrs names.h -o native.mpy whole.o".split()
    _run(sys.executable, toolchain.sources().mpy_ld, *arguments, cwd=place)


def _refuse_variables(path: Path) -> None:
    """A native module is shared code: all that it changes lies in memory that the caller gives."""
    from elftools.elf.elffile import ELFFile  # in the test extra: flashing does without

    with open(path, "rb") as file:
        for section in ELFFile(file).iter_sections():
            variable = section.name.startswith((".data", ".bss")) and not section.name.startswith(".data.rel.ro")
            if variable and section["sh_size"]:
                raise ToolchainError(
                    f"a native module has no variables, but {section.name} has {section['sh_size']} bytes"
                )


def _run(*command: str | Path, cwd: Path | None = None) -> str:
    try:
        result = subprocess.run(command, text=True, capture_output=True, cwd=cwd, env={**os.environ, "LC_ALL": "C"})
    except FileNotFoundError:
        raise ToolchainError(f"{command[0]} is not here: run `invoke setup`") from None
    if result.returncode:
        raise ToolchainError(f"{Path(command[0]).name} failed:\n{result.stderr or result.stdout}")
    return result.stdout
