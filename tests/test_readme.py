"""README as a person follows it, and what README and docs name: programs and commands run as written."""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path

import pages
import pytest
from pages import PAGES, ROOT, exists, named, python

README = ROOT / "README.md"
TEXT = README.read_text(encoding="utf-8")

Need = Callable[[str, str], list[str]]


def fenced(language: str) -> list[str]:
    return [block.text for block in pages.blocks(README) if block.language == language]


def test_the_custom_pde_trains(tmp_path: Path) -> None:
    program, _ = fenced("python")
    bound = re.search(r"ends below (\S+);", TEXT)
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
    assert run.relative_to(tmp_path).as_posix() in TEXT  # in the lines that it shows, and to resume
    made = {path.name for path in run.iterdir()}
    assert made == {name for name in named(README) if not exists(name, README)}


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


def test_the_commands_of_the_board_exist() -> None:
    pages.check_options(fenced("sh")[1])


@pytest.mark.parametrize(
    ("page", "name"), [(page, name) for page in PAGES[1:] for name in named(page)], ids=lambda part: str(part)
)
def test_files_named_in_the_docs_exist(page: Path, name: str) -> None:
    assert exists(name, page)


@pytest.mark.parametrize("page", PAGES, ids=pages.name_of)
def test_links_lead_somewhere(page: Path) -> None:
    for target in pages.LINKED.findall(page.read_text(encoding="utf-8")):
        assert "://" in target or (page.parent / target).exists(), target
