"""What the native module of each architecture takes, and what it may: CI fails where one takes more."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

from . import natmod

SLACK = 0.05
BUDGETS = {
    "armv6m": {"memory": 47_317, "stack": 2_896},
    "armv7emsp": {"memory": 40_857, "stack": 2_992},
    "x64": {"memory": 54_435, "stack": 1_504},
}
"""Bytes that were measured; ``SLACK`` more is allowed."""


@dataclass(frozen=True)
class Sizes:
    """Bytes of a native module.

    Attributes:
        memory: of the module, in a board's file system and again in RAM, where MicroPython loads it. It has no
            variables: all that it changes lies in memory that the caller gives.
        frames: stack of each function, the largest first; one that is inlined is part of its caller's.
    """

    arch: str
    memory: int
    frames: dict[str, int]

    @property
    def stack(self) -> int:
        """The largest frame."""
        return max(self.frames.values())

    def over(self, budget: dict[str, int]) -> list[str]:
        """A line for each thing that takes more than its budget and slack."""
        taken = {"memory": self.memory, "stack": self.stack}
        return [
            f"{self.arch}: {name} of {taken[name]:,} bytes is over its budget, {allowed:,} and {SLACK:.0%}: "
            "make it smaller, or raise firmware/tools/sizes.py and say why"
            for name, allowed in budget.items()
            if taken[name] > allowed * (1 + SLACK)
        ]


def measure(arch: str) -> Sizes:
    """Compile for an architecture of ``natmod.TARGETS``.

    Raises:
        ToolchainError: no compiler is here, or a source does not compile.
    """
    with tempfile.TemporaryDirectory() as folder:
        objects = natmod.compile_sources(arch, natmod.ROOT, Path(folder), "-fstack-usage")
        lines = [line.split("\t") for made in objects for line in made.with_suffix(".su").read_text().splitlines()]
    frames = {place.rsplit(":", 1)[-1]: int(size) for place, size, _ in lines}
    largest = dict(sorted(frames.items(), key=lambda item: -item[1]))
    return Sizes(arch, natmod.prebuilt(arch).stat().st_size, largest)
