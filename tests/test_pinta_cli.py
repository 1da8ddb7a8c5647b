"""``picopinn workload`` and ``picopinn pinta``: what they print and write, and how they refuse what cannot work."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from picopinn import cli, pinta

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
