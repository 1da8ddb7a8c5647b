"""A whole first step against numbers that neither the C nor the NumPy oracle made.

``vectors/first_step.npz`` is PyTorch's: fake quantization in floats, written from docs/spec.md
(``benchmarks/torch_baselines/exact.py``). ``benchmarks/first_step.py --write`` makes it, and compares larger networks
where PyTorch is installed.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.torch_baselines import probe

VECTORS = Path(__file__).parent / "vectors" / "first_step.npz"
KINDS = {  # what each body shows of a step, beside what all do
    probe.of_kernels: {"matrix", "input"},
    probe.of_oracle: {"cotangent"},
}


@pytest.mark.parametrize("answers", KINDS)
def test_every_quantized_tensor_is_pytorchs(answers: Callable[..., probe.Answers]) -> None:
    step, expected = probe.read(VECTORS)
    wrong = probe.differing(answers(*step), expected)
    shown = {"streams", "gradient", "units"} | KINDS[answers]
    assert wrong == {name: 0 for name in expected if name.split()[0] in shown}
    assert len(wrong) > len(shown)


@pytest.mark.parametrize("name", ["master", "points inside", "directions", "cotangents edge"])
def test_the_comparison_sees_a_change(name: str) -> None:
    (network, precision, seed, master, passes), expected = probe.read(VECTORS)
    given = {"master": master, "points inside": passes[0].points, "directions": passes[0].directions}
    changed = {**given, "cotangents edge": passes[1].cotangents}[name]
    assert changed is not None
    changed *= 1.25
    assert any(probe.differing(probe.of_kernels(network, precision, seed, master, passes), expected).values())
