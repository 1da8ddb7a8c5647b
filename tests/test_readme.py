"""README and docs as a person follows them: programs and commands run as written, and what they name is there."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
PLACES = (
    ROOT,
    *(ROOT / place for place in ("docs", "host/picopinn", "kernels_c/src", "pinta_model")),
)  # what short names start from
FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
NAMED = re.compile(r"`([\w./-]+(?:\.(?:c|h|json|md|npz|png|csv|py|toml)|/))`")
LINKED = re.compile(r"\]\(([^)#]+)[^)]*\)")

Need = Callable[[str, str], list[str]]


def fenced(language: str) -> list[str]:
    return [text for kind, text in FENCED.findall(README) if kind == language]


def python(folder: Path, *arguments: str) -> str:
    """What Python prints in an empty folder, if it warns of nothing."""
    command = [sys.executable, "-W", "error", *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=600)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    return done.stdout


def names() -> Iterator[tuple[str, str]]:
    """Every page with every file and folder that it names or links to."""
    for page in PAGES:
        text = page.read_text()
        prose = FENCED.sub("", text)
        for name in sorted({*NAMED.findall(prose), *LINKED.findall(prose)}):
            if "://" not in name:
                yield page.name, name


def exists(name: str) -> bool:
    return any((place / name).exists() for place in PLACES)


def test_the_custom_pde_trains(tmp_path: Path) -> None:
    program, _ = fenced("python")
    bound = re.search(r"ends below (\S+);", README)
    assert bound, "README no longer says what error its program reaches"
    assert program.count("\n") < 30
    printed = re.fullmatch(r"relative L2 (\S+)\n", python(tmp_path, "-c", program))
    assert printed
    assert 0 < float(printed[1]) < float(bound[1]) < 0.07
    assert list(tmp_path.iterdir()) == []


def test_the_library_multiplies(tmp_path: Path) -> None:
    _, program = fenced("python")
    assert python(tmp_path, "-c", program)


def test_the_first_command_trains(tmp_path: Path) -> None:
    command = fenced("sh")[0].strip()
    install, train = command.split(" && ")
    assert install == "pip install ."
    program, *arguments = shlex.split(train)
    assert program == "picopinn"
    out = python(tmp_path, "-m", "picopinn.cli", *arguments, "--steps", "20")
    assert "relative L2" in out.splitlines()[-1]
    (run,) = (tmp_path / "runs").iterdir()
    assert run.relative_to(tmp_path).as_posix() in README  # in the lines that it shows, and to resume
    made = {path.name for path in run.iterdir()}
    assert made == {name for page, name in names() if page == "README.md" and not exists(name)}


def test_ci_runs_the_second_command(need: Need) -> None:
    *_, command = fenced("sh")
    script = (ROOT / ".ci" / "run").read_text()
    found = re.search(r"^command=.*$", script, re.MULTILINE)
    assert found, ".ci/run no longer takes a command from the README"
    need("awk", "apt-get install gawk")
    bash = need("bash", "apt-get install bash")
    pick = f"{found[0]}\nprintf '%s\\n' \"$command\""
    picked = subprocess.run([*bash, "-c", pick], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert picked == command
    assert picked == "pip install '.[test]' && invoke setup test\n"


@pytest.mark.parametrize(("page", "name"), [pair for pair in names() if pair[0] != "README.md"])
def test_files_named_in_the_docs_exist(page: str, name: str) -> None:
    assert exists(name)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in LINKED.findall(page.read_text()):
        assert "://" in target or (page.parent / target).exists(), target
