"""The model of a whole step: both depths agree, nothing is lost or negative, designs that cannot work are refused."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from test_pinta_workload import MODES, NETWORKS, printed

import pinta_model
from pinta_model import Architecture, PintaError, evaluate
from pinta_model.array import STATIONARY
from pinta_model.energy import areas_mm2, peak_products_per_cycle
from pinta_model.memory import LEVELS, peak_bytes, place
from pinta_model.report import csv_text, json_text, levels, rows
from pinta_model.workload import Gemm, Section, Tensor, Workload

DESIGN = pinta_model.default()
SMALL = replace(DESIGN, array=replace(DESIGN.array, rows=4, cols=3))


def with_activations(size_bytes: int, design: Architecture = DESIGN) -> Architecture:
    small = replace(design.buffers["activation"], size_bytes=size_bytes, banks=1)
    return replace(design, buffers={**design.buffers, "activation": small})


def one_product(m: int, k: int, n: int) -> Workload:
    """C = A B of 8 bits, whose int32 sums are kept."""
    tensors = tuple(
        Tensor(name, rows, cols, store, scope="step")
        for name, rows, cols, store in (("a", m, k, "smx"), ("b", k, n, "smx"), ("c", m, n, "int32"))
    )
    gemm = Gemm("product", "layer", "forward", "base", m, k, n, 8, 8, "a", "b", "c")
    return Workload("one product", tensors, (Section("all", 1, (gemm,)),))


@pytest.mark.parametrize("name", ["dense", "three modes", "core by core"])
@pytest.mark.parametrize("design", [SMALL, with_activations(4096, SMALL)], ids=["on chip", "off chip"])
def test_the_closed_form_is_the_simulated_step(name: str, design: Architecture) -> None:
    step = printed(NETWORKS[name])
    closed, stepped = evaluate(step, design), evaluate(step, design, stepped=True)
    for one, other in zip(closed.costs, stepped.costs, strict=True):
        assert abs(one.cycles - other.cycles) <= max(1, 0.02 * other.cycles), one
        if other.stall_cycles == 0:
            assert one.cycles == other.cycles, one
        assert one.level_bytes == other.level_bytes and one.busy_cycles == other.busy_cycles
    assert abs(closed.cycles - stepped.cycles) <= 0.02 * stepped.cycles


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", NETWORKS)
def test_nothing_is_negative_or_above_one(name: str, mode: str) -> None:
    report = evaluate(printed(NETWORKS[name], mode), DESIGN)
    for cost in report.costs:
        assert 0 <= cost.stall_cycles <= cost.cycles
        assert all(value >= 0 for value in (*cost.level_bytes.values(), *cost.part_pj.values()))
        assert set(cost.level_bytes) <= set(LEVELS)
    assert 0 < report.utilization <= 1 and report.pj > 0
    assert report.pj == pytest.approx(sum(c.pj for c in report.costs) + report.part_pj["leakage"])


def test_the_same_input_gives_the_same_output() -> None:
    step = printed(NETWORKS["tensor train"])
    assert json_text(evaluate(step, DESIGN)) == json_text(evaluate(step, DESIGN))


def test_products_do_not_depend_on_the_design() -> None:
    step = printed(NETWORKS["tensor train"])
    for stays in (*STATIONARY, "best"):
        design = replace(DESIGN, array=replace(DESIGN.array, dataflow=stays))
        assert sum(cost.products for cost in evaluate(step, design).costs) == step.products


def test_the_best_dataflow_is_never_slower() -> None:
    step = printed(NETWORKS["tensor train"])
    best = evaluate(step, DESIGN).cycles
    for stays in STATIONARY:
        assert best <= evaluate(step, replace(DESIGN, array=replace(DESIGN.array, dataflow=stays))).cycles


def test_a_faster_memory_and_a_larger_buffer_never_cost_time() -> None:
    step = printed(NETWORKS["dense"])
    slow = with_activations(4096)
    assert evaluate(step, replace(slow, dram_bytes_per_second=1e9)).cycles >= evaluate(step, slow).cycles
    assert evaluate(step, slow).cycles >= evaluate(step, DESIGN).cycles


def test_what_fits_is_on_chip_and_what_is_merged_fits() -> None:
    step = printed(NETWORKS["dense"])
    placement = place(step, DESIGN)
    assert {name for name, level in placement.level.items() if level == "dram"} == {"masters", "moments1", "moments2"}
    section = next(s for s in step.sections if s.name == "interior")
    room = DESIGN.buffers["activation"].size_bytes
    assert placement.merged["interior"] * peak_bytes(step, section) <= room
    assert sum(size * times for size, times in placement.passes(section)) == section.repeat


def test_a_technology_scales_energy_and_area() -> None:
    step = printed(NETWORKS["dense"])
    old = replace(DESIGN, technology="45")
    assert evaluate(step, old).part_pj["multiply"] / evaluate(step, DESIGN).part_pj["multiply"] == pytest.approx(
        5.81, abs=0.01
    )
    assert areas_mm2(DESIGN)["array"] == pytest.approx(0.19 * areas_mm2(old)["array"])


def test_peak_rates_follow_the_slices() -> None:
    assert [peak_products_per_cycle(DESIGN, bits) for bits in (4, 8, 12, 16)] == [16384, 4096, 16384 / 9, 1024]


def test_tables_csv_and_json_tell_the_same() -> None:
    report = evaluate(printed(NETWORKS["dense"]), DESIGN)
    lines = csv_text(report).splitlines()
    assert len(lines) == 1 + len(report.costs)
    for unit in ("_cycles", "_bytes", "_pj"):
        assert unit in lines[0]
    for by in ("layer", "phase", "operation"):
        headings, (*_, leakage, total) = rows(report, by)
        assert total[1] == f"{float(report.cycles):,.0f}" and total[-1] == f"{float(report.pj) * 1e-3:,.1f}"
        assert len(leakage) == len(headings) and leakage[-1] == f"{report.part_pj['leakage'] * 1e-3:,.1f}"
    flat = list(csv.DictReader(lines))
    data = json.loads(json_text(report))
    for level in LEVELS:
        told = data["levels"][level]
        for what in ("bytes", "pj"):
            assert sum(float(line[f"{level}_{what}"]) for line in flat) == pytest.approx(told[what])
    assert sum(float(line["pj"]) for line in flat) == pytest.approx(float(report.pj) - report.part_pj["leakage"])
    assert all(0 <= float(line["utilization"]) <= 1 for line in flat)


@pytest.mark.parametrize("design", [DESIGN, with_activations(4096, SMALL)], ids=["on chip", "off chip"])
def test_memory_levels_have_cycles_stalls_bytes_and_energy(design: Architecture) -> None:
    report = evaluate(printed(NETWORKS["dense"]), design)
    found = levels(report)
    headings, lines = rows(report, "level")
    assert list(found) == [line[0] for line in lines] == list(LEVELS)
    assert headings == ["level", "cycles", "stall_cycles", "utilization", "bytes", "nj"]
    for level in found.values():
        assert 0 < level["utilization"] <= 1 and level["bytes"] > 0 and level["pj"] > 0
    stalls = sum(cost.stall_cycles for cost in report.costs)
    assert 0 < found["dram"]["stall_cycles"] <= min(stalls, found["dram"]["cycles"])


def edited(tmp_path: Path, old: str, new: str) -> Path:
    text = pinta_model.configs()["pinta-default"].read_text()
    assert old in text
    path = tmp_path / "design.toml"
    path.write_text(text.replace(old, new, 1))
    return path


@pytest.mark.parametrize("name", pinta_model.configs())
def test_every_architecture_runs_a_step_and_both_depths_agree(name: str) -> None:
    design, step = pinta_model.read(pinta_model.configs()[name]), printed(NETWORKS["dense"])
    assert design.name == name
    closed, stepped = evaluate(step, design), evaluate(step, design, stepped=True)
    assert closed.cycles == pytest.approx(stepped.cycles, rel=0.02)
    assert 0 < closed.utilization <= 1 and closed.pj > 0


def test_a_small_architecture_is_smaller_slower_and_draws_less() -> None:
    edge, step = pinta_model.read(pinta_model.configs()["pinta-edge"]), printed(NETWORKS["tensor train"])
    small, large = evaluate(step, edge), evaluate(step, DESIGN)
    assert sum(areas_mm2(edge).values()) < sum(areas_mm2(DESIGN).values()) / 5
    assert small.seconds > 10 * large.seconds and small.watts < large.watts / 5
    assert edge.units["tanh"].lanes == 8 and edge.units["tanh"].multiplies == DESIGN.units["tanh"].multiplies


def test_a_design_says_only_in_what_it_differs(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('extends = "pinta-default"\nclock_mhz = 800\n[array]\nrows = 16\n')
    found = pinta_model.read(path)
    assert found == replace(DESIGN, clock_mhz=800.0, array=replace(DESIGN.array, rows=16))
    path.write_text('extends = "pinta-large"\n')
    with pytest.raises(PintaError, match=r"mine\.toml: extends 'pinta-large' is none of pinta-default, pinta-edge"):
        pinta_model.read(path)


def test_wider_operands_take_area() -> None:
    areas = [
        areas_mm2(replace(DESIGN, array=replace(DESIGN.array, widest_bits=bits)))["array"] for bits in (4, 8, 12, 16)
    ]
    assert areas == sorted(areas) and areas[0] / areas[-1] == pytest.approx(DESIGN.element_ratio[4])


def test_operands_wider_than_an_element_are_refused_by_name() -> None:
    narrow = replace(DESIGN, array=replace(DESIGN.array, widest_bits=8), source="narrow.toml")
    message = "narrow.toml: array.widest_bits = 8 cannot run operation .* in workload: its operands have 16 and 8"
    with pytest.raises(PintaError, match=message):
        evaluate(printed(NETWORKS["dense"]), narrow)
    assert evaluate(one_product(8, 8, 8), narrow).cycles > 0


BAD = {
    "a missing energy": ("[energy.dram_64b_pj]", "[energy.dram]", "energy.dram_64b_pj.scale is missing"),
    "no rows": ("rows = 32 ", "rows = 0 ", "array.rows must be a whole number from 1 on, got 0"),
    "a dataflow": ('"best"', '"row"', "array.dataflow 'row' is none of output, weight, input, best"),
    "multipliers": ("slice_multipliers = 64", "slice_multipliers = 48", "array.slice_multipliers must divide 64"),
    "a width": ("widest_bits = 16", "widest_bits = 10", "array.widest_bits must be one of 4, 8, 12, 16, got 10"),
    "an area ratio": ("12 = 0.978", "", "area.element_ratio.12 is missing"),
    "a technology": ('technology = "16"', 'technology = "3"', "technology '3' is not among"),
    "a number": ("clock_mhz = 400", 'clock_mhz = "fast"', "clock_mhz must be a positive number, got 'fast'"),
    "an unknown entry": (
        "clock_mhz = 400",
        "clock_mhz = 400\nclock_ghz = 1",
        "clock_ghz is unknown: did you mean clock_mhz?",
    ),
    "no TOML": ("[array]", "[array", "not TOML"),
}


@pytest.mark.parametrize(("old", "new", "message"), BAD.values(), ids=BAD)
def test_a_design_that_cannot_work_is_refused_by_name(tmp_path: Path, old: str, new: str, message: str) -> None:
    path = edited(tmp_path, old, new)
    with pytest.raises(PintaError) as error:
        pinta_model.read(path)
    assert str(error.value).startswith(f"{path}: ") and message in str(error.value)


REFUSED: dict[str, tuple[Callable[[Architecture], Architecture], str]] = {
    "no room for a tile": (lambda d: with_activations(512, d), "buffers.activation.size_bytes = 512 is too small"),
    "a missing unit": (lambda d: replace(d, units={}), "[units.encode], which is missing"),
}


@pytest.mark.parametrize(("change", "message"), REFUSED.values(), ids=REFUSED)
def test_a_pair_that_cannot_work_is_refused_by_name(
    change: Callable[[Architecture], Architecture], message: str
) -> None:
    with pytest.raises(PintaError, match=re.escape(message)):
        evaluate(printed(NETWORKS["dense"]), change(DESIGN))
