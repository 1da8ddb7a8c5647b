"""The docs as a person reads them: every block runs, in order, and the site builds without a warning."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pages
import pytest

LANGUAGES = {"", "python", "sh", "text", "toml"}  # "": a diagram
SPOKEN = re.compile(r"emulated:|--device unix")  # what needs MicroPython

COMMAND = re.compile(r"^ *(?:picopinn|python|invoke|import|from) ", re.MULTILINE)

Need = Callable[[str, str], list[str]]


@pytest.mark.parametrize("page", pages.DOCS, ids=pages.name_of)
def test_every_block_of_a_page_runs(page: Path, tmp_path: Path, need: Need, request: pytest.FixtureRequest) -> None:
    found = pages.blocks(page)
    assert {block.language for block in found if not block.language.startswith("{")} <= LANGUAGES
    assert not [block for block in found if not block.language and COMMAND.search(block.text)]  # or it would not run
    if any(SPOKEN.search(block.text) for block in found):
        request.getfixturevalue("bare_image")  # tells what is missing
    pages.follow(page, tmp_path, need("bash", "apt-get install bash"))


def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "docs", str(tmp_path)]
    done = subprocess.run(command, cwd=pages.ROOT, capture_output=True, text=True, timeout=600)
    assert (done.returncode, done.stderr) == (0, "")
    html = {path.relative_to(tmp_path).as_posix(): path.read_text("utf-8") for path in tmp_path.rglob("*.html")}
    assert "relative_l2" in html["reference/library.html"] and "--resume" in html["reference/commands.html"]
    outside = re.compile(r'<(?:link|script|img)[^>]*(?:src|href)="(?:https?:)?//[^"]*"')
    assert not [name for name, text in html.items() if outside.search(text)]  # the pages need no network
