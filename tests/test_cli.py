"""The command line: what each command prints and writes, and how it refuses what cannot work."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from picopinn import __version__, cli, train
from picopinn.device import survey
from picopinn.runs import Row
from picopinn.settings import Settings

PRECISIONS = ["float32", "w8a8g12"]
SMALL = ["--hidden", "16", "--layers", "2", "--tt", "4x4", "--rank", "2", "--batch", "8", "--steps", "6"]
METRICS = {"metrics.csv", "ranges.csv"}
FILES = METRICS | {"config.toml", "environment.json", "checkpoint.npz", "result.json", "solution.png"}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory, so that whatever is written shows."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_no_command_shows_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([]) == 2
    assert "Usage: picopinn" in capsys.readouterr().out


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"picopinn {__version__}\n"


def test_problems(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["problems"]) == 0
    assert "poisson2d" in capsys.readouterr().out


@pytest.mark.parametrize("precision", PRECISIONS)
def test_train_evaluate_report(precision: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["train", "poisson2d", "--precision", precision, *SMALL]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert out.count("step ") == 6  # every step of so short a run is evaluated
    run = folder / "runs" / "poisson2d-001"
    assert {path.name for path in run.iterdir()} == FILES
    assert (run / "solution.png").read_bytes().startswith(b"\x89PNG")

    result = json.loads((run / "result.json").read_text())
    settings = Settings.from_toml((run / "config.toml").read_text())
    assert result["problem"] == settings.problem == "poisson2d"
    assert result["settings"]["precision"] == settings.precision == precision
    assert (result["steps"], result["seed"]) == (6, 0)
    assert result["parameters"] == settings.network().parameters
    assert result["dense_parameters"] == 2 * 16 + 16 + 16 * 16 + 16 + 16 + 1
    assert set(result["trivial_floor"]) == {"constant", "linear"}
    assert len(result["weights_sha256"]) == 64
    rows = (run / "metrics.csv").read_text().splitlines()
    assert rows[0] == "step,loss,residual,boundary,relative_l2,seconds"
    assert len(rows) == 1 + 6
    assert float(rows[-1].split(",")[4]) == result["relative_l2"]

    assert cli.main(["evaluate", str(run)]) == 0
    out = capsys.readouterr().out
    assert f"{result['relative_l2']:.4e}" in out
    assert result["weights_sha256"] in out

    assert cli.main(["report", str(run), str(run)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4
    assert lines[1] == lines[2]
    assert lines[3] == "see report.html"
    for text in (str(run), precision, "jet K=2", f"{result['relative_l2']:.2e}", result["weights_sha256"][:12]):
        assert text in lines[1]


def test_threads_change_no_bit(folder: Path) -> None:
    hashes = set()
    for threads in "123":
        command = ["train", "poisson2d", *SMALL, "--batch", "30", "--threads", threads, "--run", threads, "--quiet"]
        assert cli.main(command) == 0
        hashes.add(json.loads((folder / threads / "result.json").read_text())["weights_sha256"])
    assert len(hashes) == 1


def test_runs_are_numbered(folder: Path) -> None:
    for _ in range(2):
        assert cli.main(["train", "poisson2d", "--precision", "float32", *SMALL, "--quiet"]) == 0
    assert {path.name for path in (folder / "runs").iterdir()} == {"poisson2d-001", "poisson2d-002"}


def test_quiet_prints_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["train", "poisson2d", "--precision", "float32", *SMALL, "--quiet"]) == 0
    assert capsys.readouterr() == ("", "")


def test_divergence_is_one_line(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["train", "poisson2d", "--precision", "float32", *SMALL, "--learning-rate", "1e300"]) == 1
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "not finite" in err
    assert "try a smaller learning rate" in err


def test_report_of_an_unfinished_run(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    assert cli.main(["train", "poisson2d", "--precision", "float32", *SMALL, "--run", "run", "--quiet"]) == 0
    (folder / "run" / "result.json").unlink()
    assert cli.main(["report", "run"]) == 0
    assert "6 of 6" in capsys.readouterr().out


def test_describe(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["describe", "poisson2d"]) == 0
    out = capsys.readouterr().out
    for text in ("256 x 256 TT 16x16 rank 8", "2,560", "25.7x", "4,096", "6,145", "peak bytes"):
        assert text in out
    totals = [line for line in out.splitlines() if "total" in line]
    peak = int(totals[-1].split("│")[2].replace(",", ""))
    assert peak <= 160 * 1024  # the figure that the project promises


def test_describe_of_floats_has_no_device(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["describe", "poisson2d", "--precision", "float32", "--dense"]) == 0
    out = capsys.readouterr().out
    assert "65,792" in out
    assert "bytes" not in out


def test_a_terminal_gets_a_live_table() -> None:
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=80, height=30)
    with train.reporting(console, steps=4, first=0, quiet=False) as show:
        for step in range(1, 5):
            show(Row(step, 0.5 / step, 0.4, {}, {}, 0.25 if step % 2 == 0 else None, 0.1))
    text = screen.getvalue()
    for heading in ("step", "loss", "relative L2", "steps/s", "time left"):
        assert heading in text
    assert "1.25e-01" in text
    assert "2.50e-01" in text


def test_devices_names_each_by_its_address(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    found = survey.Found("emulated:rp2040", "a board", "pip install 'picopinn[emulator]'")
    monkeypatch.setattr(survey, "survey", lambda: [found])
    assert cli.main(["devices"]) == 0
    assert "emulated:rp2040  a board  pip install 'picopinn[emulator]'" in capsys.readouterr().out
