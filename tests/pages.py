"""The pages that people read, as tests see them: fenced blocks, names of files, and blocks run as a reader would."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from typer.main import get_command

from picopinn import cli

ROOT = Path(__file__).parents[1]
DOCS = sorted((ROOT / "docs").rglob("*.md"))
PAGES = [ROOT / "README.md", *DOCS]
PLACES = (
    ROOT,
    *(ROOT / place for place in ("docs", "host/picopinn", "kernels_c/src", "pinta_model")),
)  # what short names start from
FENCED = re.compile(r"^```([^\n]*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
NAMED = re.compile(r"`([\w./-]+(?:\.(?:c|h|json|md|npz|png|csv|py|toml)|/))`")
LINKED = re.compile(r"\]\(([^)#]+)[^)]*\)")
PLUGGED = "needs a board"  # says the paragraph before a block that only such a reader can run
FILES = {"python": "mine.py", "toml": "mine.toml"}  # what a page's blocks of a language are, one after the other
NUMBER = re.compile(r"\d[\d,]*(?:\.\d+)?(?:e[-+]\d+)?")
SECONDS = re.compile(r"\d[\d.]* s\b")


@dataclass(frozen=True)
class Block:
    """A fenced block; ``plugged``: it needs a board."""

    language: str
    text: str
    plugged: bool = False


def blocks(page: Path) -> list[Block]:
    """The fenced blocks of a page, in order."""
    text = page.read_text(encoding="utf-8")
    return [
        Block(found[1], found[2], PLUGGED in text[: found.start()].rstrip().rpartition("\n\n")[2])
        for found in FENCED.finditer(text)
    ]


def name_of(page: Path) -> str:
    """A page by its place in the project."""
    return page.relative_to(ROOT).as_posix()


def named(page: Path) -> list[str]:
    """Every file and folder that a page names or links to."""
    prose = FENCED.sub("", page.read_text(encoding="utf-8"))
    found = {*NAMED.findall(prose), *LINKED.findall(prose)} - {*FILES.values()}
    return sorted(name for name in found if "://" not in name)


def exists(name: str, page: Path) -> bool:
    return any((place / name).exists() for place in (*PLACES, page.parent))


def run(folder: Path, command: Sequence[str]) -> str:
    """What a command prints in a folder; Python and picopinn are those of the tests, and a warning is an error."""
    here = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": here, "PYTHONWARNINGS": "error", "PICOPINN": str(ROOT)}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=600)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    return done.stdout


def python(folder: Path, *arguments: str) -> str:
    """What Python prints in a folder."""
    return run(folder, [sys.executable, *arguments])


def follow(page: Path, folder: Path, bash: Sequence[str]) -> int:
    """Do what a page says, in a folder that is empty at first; answers how many blocks ran.

    Blocks of Python make the file ``mine.py``, which runs where its output is shown, where a command says so, and at
    the end if it did not since. A block of output is compared with what the block before it printed. Of a block that
    needs a board the options are checked.
    """
    printed, ran, pending, last = "", 0, False, ""
    for block in blocks(page):
        if block.language in FILES:
            with open(folder / FILES[block.language], "a", encoding="utf-8") as file:
                file.write(block.text)
            pending, ran = pending or block.language == "python", ran + 1
        elif block.language == "sh" and block.plugged:
            check_options(block.text)
        elif block.language == "sh":
            printed, ran = run(folder, [*bash, "-euo", "pipefail", "-c", block.text]), ran + 1
            pending = pending and "mine" not in block.text
        elif block.language == "text":
            if last == "python":
                printed, pending = python(folder, FILES["python"]), False
            compare(block.text, printed)
        last = block.language
    if pending:
        python(folder, FILES["python"])
    return ran


def compare(shown: str, printed: str) -> None:
    """Every line that a page shows was printed, in this order: seconds any, whole numbers as they are, others within a
    factor of two."""
    lines = iter(printed.splitlines())
    for wanted in filter(str.strip, shown.splitlines()):
        assert any(_alike(wanted, line) for line in lines), f"{wanted!r} is not in, or not in order:\n{printed}"


def _alike(shown: str, printed: str) -> bool:
    shown, printed = (SECONDS.sub("some s", line) for line in (shown, printed))
    if NUMBER.sub("#", shown).split() != NUMBER.sub("#", printed).split():
        return False
    pairs = zip(NUMBER.findall(shown), NUMBER.findall(printed), strict=True)
    return all(_near(one, other) for one, other in pairs)


def _near(shown: str, printed: str) -> bool:
    if "." not in shown:
        return shown == printed
    one, other = (float(number.replace(",", "")) for number in (shown, printed))
    return 0.5 <= one / other <= 2


def check_options(text: str) -> None:
    """Every picopinn command of a block that cannot run here exists, and so does each of its options."""
    for words in commands(text):
        command = get_command(cli.app)
        rest = iter(words[1:])
        for word in rest:
            if word.startswith("-") or not hasattr(command, "commands") or word not in command.commands:
                break
            command = command.commands[word]
        known = {option for parameter in command.params for option in parameter.opts}
        assert command.name != "picopinn", f"{words} is no command"
        for word in words:
            assert not word.startswith("--") or word.partition("=")[0] in known, f"{word} in {' '.join(words)}"


def commands(text: str) -> Iterator[list[str]]:
    """The words of each picopinn command in a block of shell."""
    for line in text.splitlines():
        words = shlex.split(line, comments=True)
        while words:
            end = words.index("&&") if "&&" in words else len(words)
            if words[:end] and words[0] == "picopinn":
                yield words[:end]
            words = words[end + 1 :]
