"""What is published: the source distribution holds everything, and what is built from it alone trains."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from collections.abc import Iterable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LEFT = (
    ".git",
    ".ci",
    ".gitignore",
    ".*_cache",
    ".hypothesis",
    "__pycache__",
    "*.egg-info",
    "_kernels*",
    "build",
    "dist",
)
OWN = {"PKG-INFO", "setup.cfg"}  # of setuptools
PACKED = {  # folders of the project, and where an installed picopinn has them
    "host/picopinn": "picopinn",
    "pinta_model": "pinta_model",
    "firmware/ppn": "ppn",
    "firmware/boards": "picopinn/firmware/boards",
    "firmware/prebuilt": "picopinn/firmware/prebuilt",
    "firmware/usb": "picopinn/firmware/usb",
}


def done(folder: Path, *command: str | Path) -> str:
    """What a command prints, if it succeeds."""
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=900)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def names(folder: Path) -> set[str]:
    """All files below a folder."""
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project's files alone: what lies about in a checkout could hide that something is forgotten."""
    place = tmp_path_factory.mktemp("tree") / "picopinn"
    shutil.copytree(ROOT, place, ignore=lambda folder, found: ignored(Path(folder), found))
    return place


def ignored(folder: Path, found: Iterable[str]) -> set[str]:
    more = ("runs", ".venv") if folder == ROOT else ()  # what people put there
    return set(shutil.ignore_patterns(*LEFT, *more)(str(folder), list(found)))


@pytest.fixture(scope="module")
def unpacked(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The source distribution, unpacked where nothing else is."""
    place = tmp_path_factory.mktemp("sdist")
    done(tree, sys.executable, "-c", f"from setuptools import build_meta as b; b.build_sdist({str(place)!r})")
    (archive,) = place.glob("*.tar.gz")
    with tarfile.open(archive) as tar:
        tar.extractall(place, filter="data")
    (folder,) = (path for path in place.iterdir() if path.is_dir())
    return folder


@pytest.fixture(scope="module")
def wheel(unpacked: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from the source distribution, without a network."""
    place = tmp_path_factory.mktemp("wheel")
    options = ("--no-build-isolation", "--no-deps", "--no-index", "-q", "-w", place)
    done(unpacked, sys.executable, "-m", "pip", "wheel", *options, ".")
    (found,) = place.glob("picopinn-*.whl")
    return found


def test_the_source_distribution_holds_every_file(tree: Path, unpacked: Path) -> None:
    found = {name for name in names(unpacked) if ".egg-info/" not in name}
    assert found - OWN == {name for name in names(tree) if ".egg-info/" not in name}


def test_the_wheel_holds_every_file_that_runs(tree: Path, wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        found = {name for name in archive.namelist() if ".dist-info/" not in name}
    wanted = {f"{place}/{name}" for folder, place in PACKED.items() for name in names(tree / folder)}
    extension = {name for name in found if name.startswith("picopinn/_kernels.")}
    assert len(extension) == 1
    assert found - extension == wanted | {"picopinn/firmware/main.py"}


def test_what_was_built_trains(wheel: Path, tmp_path: Path) -> None:
    """In an environment of its own, with nothing but the wheel and, behind it, the tests' own dependencies."""
    done(tmp_path, sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv")
    programs = tmp_path / "venv" / ("Scripts" if os.name == "nt" else "bin")
    python = programs / "python"
    options = ("--no-deps", "--no-index", "-q")
    done(tmp_path, sys.executable, "-m", "pip", "--python", python, "install", *options, wheel)
    site = Path(done(tmp_path, python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip())
    (site / "behind.pth").write_text("\n".join({sysconfig.get_path(kind) for kind in ("purelib", "platlib")}))
    empty = tmp_path / "empty"
    empty.mkdir()
    found = done(empty, python, "-c", "import picopinn, ppn, pinta_model as p; print(picopinn.__file__, p.__file__)")
    assert found.count(str(site)) == 2
    out = done(empty, programs / "picopinn", "train", "poisson2d", "--steps", "5")
    assert "relative L2" in out.splitlines()[-1] and (empty / "runs/poisson2d-001/solution.png").is_file()
    assert "rp2040" in done(empty, programs / "picopinn", "fit", "--help")
