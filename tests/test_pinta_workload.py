"""Workloads: what the host prints of a network is complete and is read back; what cannot be used is refused."""

from __future__ import annotations

import json
import pkgutil
import subprocess
import sys
from typing import Any

import pytest

import pinta_model
from picopinn import workload
from picopinn.network import MODES, SUMMED, Mode, Network, Precision
from pinta_model import PintaError, Workload, loads
from pinta_model.workload import Gemm

NETWORKS = {
    "tensor train": Network(2),
    "dense": Network(3, hidden=20, layers=2, tt=None),
    "one mode": Network(2, hidden=16, layers=2, tt=(16,), rank=3),
    "three modes": Network(2, hidden=64, layers=2, tt=(4, 4, 4), rank=2, activation="sine"),
    "core by core": Network(2, hidden=64, layers=2, tt=(4, 4, 4), rank=3, contraction="sequential"),
}


def printed(network: Network, mode: Mode = "jet", precision: str = "w8a8g12", directions: int = 2) -> Workload:
    program = network.program(Precision.parse(precision), mode)
    return loads(workload.to_json("test", program, 10, 6, directions, network.inputs))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("precision", ["w8a8g12", "w8a8b12g12", "w4a6g8"])
@pytest.mark.parametrize("network", NETWORKS.values(), ids=NETWORKS)
def test_a_network_is_printed_and_read_back(network: Network, mode: Mode, precision: str) -> None:
    step = printed(network, mode, precision)
    assert loads(step.to_json()) == step
    written: set[str] = set()
    scopes = {"masters", "moments1", "moments2", "directions"}
    for _, operation in step.operations():
        for name in operation.reads:
            fresh = name in written or name.endswith((".points", ".gradient")) or name in scopes
            assert fresh, f"{operation.name} reads {name} before anything writes it"
        written |= set(operation.writes)


def test_products_are_those_of_the_stages() -> None:
    """Forward, input cotangent and weight gradient for every stream; the first stage shares directions."""
    step, program = printed(NETWORKS["dense"], directions=3), NETWORKS["dense"].program(Precision(), "jet")
    first, *rest = [stage.rows * stage.cols for stage in program.stages]
    microbatches = {"interior": (3, 4 * 7), "boundary": (2, 4)}
    expected = 4 * 3 * first  # the directions, once
    for count, rows in microbatches.values():
        directions = (rows - 4) // 2
        expected += count * (4 * first + (4 + directions) * first + 3 * rows * sum(rest))
    assert step.products == expected


@pytest.mark.parametrize("mode", MODES)
def test_streams_grow_with_directions(mode: Mode) -> None:
    few, many = (printed(NETWORKS["dense"], mode, directions=k) for k in (2, 4))
    rows = [
        max(o.m for _, o in step.operations() if isinstance(o, Gemm) and o.phase == "backward") for step in (few, many)
    ]
    assert rows == ([4 * 4, 4 * 6] if mode in SUMMED else [4 * 5, 4 * 9])


def test_lifetimes_end_with_the_last_reader() -> None:
    step = printed(NETWORKS["dense"])
    section = next(s for s in step.sections if s.name == "interior")
    first, last = step.lifetimes(section)["interior.x1"]
    assert section.operations[last].name == "stage1: dW" and section.operations[last].phase == "gradient"
    assert "interior.x1" in section.operations[first].writes


def test_the_model_imports_nothing_of_the_host() -> None:
    """Not one of its modules; ``hardware`` alone needs a package more, which may be missing."""
    names = [module.name for module in pkgutil.iter_modules(pinta_model.__path__) if module.name != "hardware"]
    modules = ", ".join(f"pinta_model.{name}" for name in names)
    code = f"import sys, {modules}; sys.exit(any(m.split('.')[0] in ('picopinn', 'ppn') for m in sys.modules))"
    assert len(names) > 10 and subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def spoiled(change: dict[str, Any], tensor: bool = False, lacking: str = "") -> str:
    data = json.loads(printed(NETWORKS["dense"]).to_json())
    entry = data["tensors"][0] if tensor else data["sections"][1]["operations"][0]
    entry.update(change)
    entry.pop(lacking, None)
    return json.dumps(data)


BAD = {
    "no JSON": ("{", "not JSON"),
    "another format": ('{"format": 9}', "format 1"),
    "no sections": ('{"format": 1, "name": "x", "tensors": []}', "'sections'"),
    "an unknown operation": (spoiled({"op": "convolve"}), "unknown operation 'convolve' in section 'interior'"),
    "an unknown entry": (spoiled({"colour": 1}), "unknown entry colour"),
    "a missing entry": (spoiled({}, lacking="phase"), "operation of section 'interior' 'stage0' lacks entry phase"),
    "an unknown tensor": (spoiled({"a": "nowhere"}), "'nowhere', which the file does not define"),
    "a width": (spoiled({"bits_a": 17}), "width 17 is out of range"),
    "a size": (spoiled({"k": 0}), "sizes must be at least 1"),
    "a shape": (spoiled({"n": 999}), "B is 3 x 999, but tensor 'layer0.weight' has only 20 x 3"),
    "a type": (spoiled({"k": "many"}), "k = 'many' is of the wrong type"),
    "a phase": (spoiled({"phase": "sideways"}), "phase 'sideways'"),
    "a store": (spoiled({"store": "paper"}, tensor=True), "store 'paper'"),
}


@pytest.mark.parametrize(("text", "message"), BAD.values(), ids=BAD)
def test_what_cannot_be_used_is_refused_by_name(text: str, message: str) -> None:
    with pytest.raises(PintaError) as error:
        loads(text, "step.json")
    assert str(error.value).startswith("step.json: ") and message in str(error.value)
