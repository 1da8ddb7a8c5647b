"""``picopinn workload`` and ``picopinn pinta``: what they print and write, and how they refuse what cannot work."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

import pinta_model
from picopinn import cli, pinta
from picopinn.estimators import Estimator

PROBLEMS = ("poisson2d", "hjb20d", "heat100d")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(line: str) -> int:
    return cli.main(line.split())


@pytest.mark.parametrize("problem", PROBLEMS)
def test_a_printed_workload_is_what_the_model_reads(
    problem: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(f"workload {problem} --directions 2 --json") == 0
    (folder / "step.json").write_text(capsys.readouterr().out)
    assert run(f"pinta cost {problem} --directions 2") == 0
    named = capsys.readouterr().out
    assert run("pinta cost step.json") == 0
    assert capsys.readouterr().out == named


def test_a_workload_is_printed_as_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("workload poisson2d") == 0
    out = capsys.readouterr().out
    assert "20 x 256 x 8" in out and "12 x 8" in out and "jet-transpose" in out


def test_a_batch_is_that_many_microbatches(capsys: pytest.CaptureFixture[str]) -> None:
    for problem, sections in (("poisson2d", {"interior": 3, "boundary": 3}), ("hjb20d", {"interior": 3})):
        assert run(f"workload {problem} --batch 10 --json") == 0
        found = json.loads(capsys.readouterr().out)["sections"]
        assert {s["name"]: s["repeat"] for s in found if s["name"] in ("interior", "boundary")} == sections


def test_costs_are_written_as_csv_and_json(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("pinta cost poisson2d --csv cost.csv --json") == 0
    data = json.loads(capsys.readouterr().out)
    lines = list(csv.DictReader((folder / "cost.csv").read_text().splitlines()))
    assert sum(int(line["cycles"]) for line in lines) == data["cycles"]
    assert run("pinta cost poisson2d --by operation") == 0
    assert f"{data['cycles']:,} cycles" in capsys.readouterr().out


def test_the_settings_have_the_published_numbers_of_parameters() -> None:
    assert pinta.setting_of("hjb20d").network(dense=True).dense_parameters == 274_433
    assert pinta.setting_of("poisson2d").dimensions == 2


BAD = {
    "an unknown problem": ("pinta cost burgers", "problem 'burgers' is unknown", "hjb20d, hjb250d"),
    "a grouping": ("pinta cost poisson2d --by colour", "--by 'colour'", "layer, phase, operation, level"),
    "a batch": ("workload poisson2d --batch 0", "batch must be at least 1", "got 0"),
    "a width": ("pinta cost poisson2d --precision w8a8g20", "gradients width 20", "4 to 16 bits"),
    "an unknown operation": ("pinta cost odd.json", "odd.json: unknown operation 'convolve'", "gemm, unit"),
    "a width in a file": (
        "pinta cost wide.json",
        "wide.json: operation 'stage0' of section",
        "width 17 is out of range",
    ),
    "a shape in a file": (
        "pinta cost flat.json",
        "flat.json: operation 'stage0' of section",
        "sizes must be at least 1",
    ),
    "a large shape in a file": ("pinta cost large.json", "large.json: operation 'stage0'", "but tensor"),
    "elements too narrow": (
        "pinta cost poisson2d --config narrow.toml",
        "narrow.toml: array.widest_bits = 8",
        "'stage1",
    ),
    "a buffer too small": (
        "pinta cost poisson2d --config small.toml",
        "small.toml: buffers.weight.size_bytes = 64",
        "tile",
    ),
    "a design without energies": ("pinta cost poisson2d --config bare.toml", "bare.toml", "energy.dram_64b_pj"),
    "no such design": ("pinta poisson2d --config none.toml", "none.toml: cannot be read", "No such file"),
    "no such workload": ("pinta explore none.json", "none.json: cannot be read", "No such file"),
}


def write_bad_files(folder: Path) -> None:
    """Files that the lines above name."""
    section = {"name": "s", "repeat": 1, "operations": [{"op": "convolve"}]}
    (folder / "odd.json").write_text(json.dumps({"format": 1, "name": "x", "tensors": [], "sections": [section]}))
    good = pinta.workload_text("poisson2d", Estimator("jet"))
    for name, change in (("wide", {"bits_a": 17}), ("flat", {"k": 0}), ("large", {"m": 10**6})):
        data = json.loads(good)
        operation = next(o for s in data["sections"] for o in s["operations"] if o["name"] == "stage0")
        operation.update(change)
        (folder / f"{name}.json").write_text(json.dumps(data))
    bare = pinta_model.configs()["pinta-default"].read_text().replace("[energy.dram_64b_pj]", "[energy.other]")
    (folder / "bare.toml").write_text(bare)
    for name, lines in (("narrow", "[array]\nwidest_bits = 8"), ("small", "[buffers.weight]\nsize_bytes = 64")):
        (folder / f"{name}.toml").write_text(f'extends = "pinta-default"\n{lines}\n')


@pytest.mark.parametrize(("line", "first", "second"), BAD.values(), ids=BAD)
def test_what_cannot_work_is_one_line_and_exit_2(
    line: str, first: str, second: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_bad_files(folder)
    assert run(line) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and first in error and second in error


def test_the_comparison_is_the_default_command(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("pinta poisson2d heat100d --plot gains.png") == 0
    out = capsys.readouterr().out
    assert out.count("GPU, dense, AD, float32") == 2 and out.count("the stated 5.5x to 83.5x") == 2
    assert "for its own accelerator and problems" in out and "mm2" in out
    assert out.count("\nCPU, TT, jets, float32 ") == 2 and out.count("\nRP2040, TT, jets, w8a8g12 ") == 2
    assert out.count("the same method elsewhere: GPU ") == 2 and " - " in out  # nobody knows the CPU's power
    assert (folder / "gains.png").read_bytes().startswith(b"\x89PNG")


def test_designs_are_swept_and_drawn(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("pinta explore poisson2d --precisions w8a8g12 --csv all.csv --plot all.png") == 0
    designs = list(csv.DictReader((folder / "all.csv").read_text().splitlines()))
    front = [d for d in designs if d["frontier"] == "1"]
    assert len(designs) == 5760 and 1 < len(front) < 100
    assert all(d["bottleneck"] for d in front) and f"{len(designs):,} designs" in capsys.readouterr().out
    assert (folder / "all.png").read_bytes().startswith(b"\x89PNG")
    for one in front:
        assert not any(all(float(d[key]) < float(one[key]) for key in ("seconds", "pj")) for d in designs)
