"""What all tests share: finding the tools that some of them need."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from collections.abc import Callable

import pytest

Need = Callable[[str, str], list[str]]


def _find(tool: str) -> list[str] | None:
    """The command that starts a program on PATH or, failing that, a Python module of that name."""
    path = shutil.which(tool)
    if path:
        return [path]
    return [sys.executable, "-m", tool] if importlib.util.find_spec(tool.replace("-", "_")) else None


@pytest.fixture(scope="session")
def need() -> Need:
    """``need(tool, fix)`` answers the command of a tool; without it a test fails in CI and is skipped elsewhere."""

    def command(tool: str, fix: str) -> list[str]:
        found = _find(tool)
        if found:
            return found
        reason = f"{tool} is not here; to have it: {fix}"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)

    return command
