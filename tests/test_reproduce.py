"""The table of results: its rows can be trained by hand, its cells resume, its page says what was found."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from picopinn.cli import main
from picopinn.errors import PicopinnError
from picopinn.problems import names
from picopinn.reproduce import rows as table
from picopinn.reproduce.blocks import costs
from picopinn.reproduce.cells import Cell, cells, load, train
from picopinn.reproduce.command import check
from picopinn.reproduce.page import page
from picopinn.reproduce.rows import DEFAULT, DENSE_FLOAT, DIFFERENCE, NAIVE, Row
from picopinn.reproduce.summary import Line, comparisons, processor
from picopinn.runs import Run
from picopinn.settings import Settings

SMALL: dict[str, Any] = {"hidden": 16, "tt": (4, 4), "rank": 2, "batch": 8, "steps": 3}


@pytest.mark.parametrize("problem", names())
def test_every_row_can_run(problem: str) -> None:
    rows = table.rows(problem)
    assert [row.name for row in rows[:2]] == [DENSE_FLOAT, DEFAULT]
    assert len({row.name for row in rows}) == len(rows)
    for row in rows:
        row.settings(0).network()
        row.settings(0).stein()


def test_a_rows_command_trains_its_first_seed(tmp_path: Path) -> None:
    row = Row("poisson2d", "some", {**SMALL, "estimator": "orthogonal", "sigma": 0.02, "quantization": "difference"})
    assert row.command.startswith("picopinn train poisson2d --hidden 16 --tt 4x4 --rank 2")
    assert main([*row.command.split()[1:], "--run", str(tmp_path / "run"), "--quiet"]) == 0
    assert Run.open(tmp_path / "run").settings == row.settings(0)


def test_dense_layers_are_asked_for_by_their_flag() -> None:
    assert table.rows("poisson2d")[0].command == "picopinn train poisson2d --precision float32 --dense"


def test_all_first_seeds_come_first() -> None:
    one, other = Row("poisson2d", "a", seeds=3), Row("poisson2d", "b", seeds=1)
    assert [(cell.row.name, cell.seed) for cell in cells([one, other], None)] == [
        ("a", 0),
        ("b", 0),
        ("a", 1),
        ("a", 2),
    ]
    assert len(cells([one, other], 2)) == 3


def test_a_cell_is_trained_once_and_again_if_its_settings_change(tmp_path: Path) -> None:
    seen: list[str] = []

    def trained(given: dict[str, Any]) -> dict[str, Any]:
        cell = Cell(Row("poisson2d", "some", given), 1)
        train([cell], tmp_path / "results", tmp_path / "runs", 2, lambda cell, result: seen.append(cell.name))
        found = load(cell, tmp_path / "results")
        assert found is not None
        return found

    first = trained(SMALL)
    assert first == trained(SMALL) and seen == ["some-1"]
    assert not any((tmp_path / "runs" / "poisson2d").iterdir())
    by_hand = Settings.of("poisson2d", **SMALL, seed=1).solver(1)
    by_hand.train()
    assert first["weights_sha256"] == by_hand.weights_sha256()
    assert first["curve"][-1] == [3, first["relative_l2"]]
    assert trained({**SMALL, "steps": 4})["curve"][-1][0] == 4 and len(seen) == 2


def test_a_run_that_diverges_is_a_result(tmp_path: Path) -> None:
    cell = Cell(Row("poisson2d", "wild", {**SMALL, "precision": "float32", "learning_rate": 1e38}), 0)
    train([cell], tmp_path, tmp_path / "runs", 1, lambda cell, result: None)
    result = load(cell, tmp_path)
    assert result is not None and "try a smaller learning rate" in result["failed"]
    line = Line(cell.row, [result])
    assert line.mean == float("inf")
    assert "failed: the " in page([line], "`here`", [])
    with pytest.raises(PicopinnError, match="poisson2d, wild failed"):
        check([line])


def test_an_interrupted_table_continues_in_the_midst_of_a_run(tmp_path: Path) -> None:
    command = [sys.executable, "-c", INTERRUPTED, str(tmp_path)]
    path = tmp_path / "runs" / "poisson2d" / "long-0"
    process = subprocess.Popen(command, start_new_session=True, stderr=subprocess.PIPE, text=True)
    while not path.exists() or len((path / "metrics.csv").read_text().splitlines()) < 2:
        assert process.poll() is None
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGINT)
    process.communicate()
    step = Run.open(path).checkpoint.step
    assert 0 < step < LONG["steps"] and not (tmp_path / "results").exists()
    state = Run.open(path).checkpoint.state
    fresh = Settings.of("poisson2d", **LONG).solver(1)
    for _ in range(step):
        fresh.step()
    assert (fresh.master == state["master"]).all()


LONG = {**SMALL, "steps": 400_000}  # longer than any computer takes to be interrupted
INTERRUPTED = f"""
import signal, sys
from pathlib import Path
from picopinn.reproduce.cells import Cell, train
from picopinn.reproduce.rows import Row
signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job inherits that it is ignored
folder = Path(sys.argv[1])
train([Cell(Row("poisson2d", "long", {LONG}), 0)], folder / "results", folder / "runs", 1, print)
"""


def result(error: float, **more: Any) -> dict[str, Any]:
    """As a cell keeps it."""
    machine = {"cpu": "a", "platform": "b", "python": "c", "numpy": "d", "picopinn": "e"}
    return {
        "relative_l2": error,
        "bytes": 10,
        "parameters": 5,
        "processor_ms_per_step": 2.0,
        "environment": machine,
        "unknowns": {},
    } | more


def lines(naive: float) -> list[Line]:
    errors = {DENSE_FLOAT: 4e-3, DEFAULT: 2e-3, DIFFERENCE: 3e-3, NAIVE: naive}
    return [Line(Row("poisson2d", name), [result(e, seed=0), result(3 * e, seed=1)]) for name, e in errors.items()]


def test_the_page_has_means_ratios_and_claims() -> None:
    text = page(lines(0.3), "`here`", ["results-steps.png"])
    assert "| default | 5 | 10 | 4.00e-03 | 2.8e-03 | 2 | 0.50 | 2 | `picopinn train poisson2d` |" in text
    assert "| quantize differences, not points | poisson2d | naive | difference | 100x | yes |" in text
    assert "![results-steps](results-steps.png)" in text


def test_times_are_those_of_one_processor() -> None:
    one, other = {"cpu": "a"}, {"cpu": "z"}
    times = [(3.0, one), (8.0, other), (1.0, one), (2.0, one)]
    line = Line(Row("poisson2d", DEFAULT), [result(1, processor_ms_per_step=t, environment=m) for t, m in times])
    assert processor([line]) == "a" and line.milliseconds("a") == 2
    assert line.milliseconds("y") is None
    others = Line(Row("poisson2d", NAIVE), [result(seed, environment=other) for seed in range(9)])
    assert processor([others, line]) == "a" and processor([others]) == "z"  # the default row's, whatever others had


def test_a_result_older_than_a_setting_has_its_default(tmp_path: Path) -> None:
    stored = asdict(Row("poisson2d", "x").settings(0))
    del stored["init"]
    (tmp_path / "poisson2d").mkdir()
    for init, current in (("normal", True), ("orthogonal", False)):
        asked = Cell(Row("poisson2d", "x", {"init": init}), 0)
        asked.file(tmp_path).write_text(json.dumps({"settings": stored}))
        assert (load(asked, tmp_path) is not None) == current


def test_a_claim_that_fails_is_an_error() -> None:
    check(lines(0.3))
    assert [one.holds for one in comparisons(lines(4e-3))] == [False]
    with pytest.raises(PicopinnError, match=r"'naive' has 1\.33 times the error of 'difference', expected 2 times"):
        check(lines(4e-3))


def test_two_copies_cost_what_square_blocks_save() -> None:
    """A dense 4-4-1 network by hand: 4 x 4, 1 x 4, points 4 x 2, one hidden activation, cotangents of both layers."""
    settings = Settings.of("poisson2d", hidden=4, layers=1, tt=None, batch=4, directions=2)
    square, twice = costs(settings)
    streams = 5
    inner = {"points": 4 * 2, "directions": 4 * 2 * 2, "x1": 4 * streams * 4, "c0": 4 * streams * 4, "c1": 4 * streams}
    edge = {"points": 4 * 2, "x1": 4 * 4, "c0": 4 * 4, "c1": 4}
    weights = {"first": 4 * 2, "second": 4}
    assert square.elements == sum(inner.values()) + sum(edge.values()) + sum(weights.values())
    single = weights["first"] + inner["c0"] + edge["c0"]  # the input has no gradient, so these are read one way only
    assert twice.elements == 2 * square.elements - single


def test_quick_reproduces_a_problem_and_continues(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.chdir(tmp_path)
    few = [Row("poisson2d", name, {**given, **SMALL}, 1) for name, given in QUICK.items()]
    monkeypatch.setattr("picopinn.reproduce.command.wanted", lambda problems, quick: few)
    monkeypatch.setattr("picopinn.reproduce.command.check", lambda lines: None)
    assert main(["reproduce", "--quick", "--jobs", "2"]) == 0
    assert main(["reproduce", "--quick"]) == 0
    assert "2 runs, 0 to train" in capsys.readouterr().out
    assert {path.name for path in (tmp_path / "runs/quick").iterdir()} == {
        "results",
        "results.md",
        "results-steps.png",
        "results-bytes.png",
    }
    damaged = next((tmp_path / "runs/quick/results/poisson2d").iterdir())
    damaged.write_text(json.dumps({})[:1])
    assert main(["reproduce", "--quick"]) == 1
    assert "is damaged" in capsys.readouterr().err


QUICK: dict[str, dict[str, Any]] = {DENSE_FLOAT: {"precision": "float32"}, DEFAULT: {}}
