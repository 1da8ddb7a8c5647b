"""Budgets of the native modules: `invoke sizes` measures them in CI; here, what it says when one is broken."""

from __future__ import annotations

from firmware.tools import natmod, sizes


def test_every_architecture_has_a_budget() -> None:
    assert sizes.BUDGETS.keys() == natmod.TARGETS.keys()


def test_what_is_over_budget_is_named() -> None:
    found = sizes.Sizes("armv6m", 1_050, {"large": 106, "small": 8})
    assert found.over({"memory": 1_000, "stack": 101}) == []
    (line,) = found.over({"memory": 1_000, "stack": 100})
    assert line.startswith("armv6m: stack of 106 bytes is over its budget, 100 and 5%")
