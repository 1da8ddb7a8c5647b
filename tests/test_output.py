"""What commands print for machines and for terminals: JSON and nothing else, colours where wanted, completion."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from picopinn import cli, output
from picopinn.device import survey
from picopinn.kernels import device_bytes
from picopinn.link import latency
from picopinn.settings import Settings

SMALL = "--hidden 16 --layers 2 --tt 4x4 --rank 2"
COLOUR = re.compile(r"\x1b\[[\d;]*\b(?:3[0-7]|9[0-7])[\d;]*m")  # a colour of text

Need = Callable[[str, str], list[str]]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def told(capsys: pytest.CaptureFixture[str]) -> Callable[[str], Any]:
    """What a command prints, all of it JSON."""

    def run(line: str) -> Any:
        assert cli.main([*line.split(), "--json"]) == 0
        out, err = capsys.readouterr()
        assert err == ""
        return json.loads(out, parse_constant=pytest.fail)

    return run


def test_problems(told: Callable[[str], Any]) -> None:
    first = told("problems")[0]
    assert {"name", "dimensions", "description"} <= first.keys()


def test_devices(told: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(survey, "survey", lambda: [survey.Found("unix", "this", "a note")])
    assert told("devices") == [{"address": "unix", "title": "this", "note": "a note"}]


def test_describe(told: Callable[[str], Any]) -> None:
    found = told(f"describe poisson2d {SMALL}")
    settings = Settings.of("poisson2d", hidden=16, layers=2, tt=(4, 4), rank=2)
    assert sum(layer["parameters"] for layer in found["layers"]) == settings.network().parameters
    program = settings.network().program(settings.widths(), "jet")
    assert found["device_bytes"] == device_bytes(program, 2)
    assert found["settings"]["tt"] == [4, 4]
    floats = told(f"describe poisson2d --precision float32 {SMALL}")
    assert floats["device_bytes"] is None and floats["layers"][0]["nbytes"] is None


def test_fit(told: Callable[[str], Any], capsys: pytest.CaptureFixture[str]) -> None:
    found = told(f"fit poisson2d --board rp2040 --batch 16 {SMALL}")
    assert found["memory"]["used"] < found["memory"]["heap"]
    assert cli.main(f"fit poisson2d --board rp2040 --batch 16 {SMALL}".split()) == 0
    out = capsys.readouterr().out
    assert f"{found['memory']['used']:,} bytes" in out
    assert f"{found['step']['busy'] / 1e6:.1f} Mcycles, {found['step']['seconds'] * 1e3:.0f} ms" in out


def test_latency(told: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    class Session:
        """Is only closed."""

        def close(self) -> None: ...

    monkeypatch.setattr(cli, "open_session", lambda address: Session())
    monkeypatch.setattr(latency, "measure", lambda session, count: latency.Latency(1.0, 2.0, 3.0, 4.0, 5e5))
    found = told("latency --device unix")
    assert (found["device"], found["median_ms"], found["bytes_per_second"]) == ("unix", 2.0, 5e5)


def test_runs(told: Callable[[str], Any], folder: Path) -> None:
    trained = told(f"train poisson2d --steps 4 --batch 8 {SMALL} --run run")
    result = json.loads((folder / "run" / "result.json").read_text())
    assert trained == {"run": "run", **result}
    assert told("export run --to u.npz") == [{"file": "u.npz", "bytes": Path("u.npz").stat().st_size}]
    found = told("evaluate run")
    for key in ("relative_l2", "weights_sha256", "trivial_floor", "steps", "settings"):
        assert found[key] == result[key]
    report = told("report run")
    assert report["page"] == "run/report.html" and Path(report["page"]).exists()
    assert report["runs"][0]["relative_l2"] == result["relative_l2"]
    (folder / "run" / "result.json").unlink()
    assert told("report run")["runs"][0]["relative_l2"] is None


def test_pinta(told: Callable[[str], Any], folder: Path) -> None:
    found = told("pinta poisson2d")
    rungs = found["problems"]["poisson2d"]
    assert rungs[0]["name"].startswith("GPU") and rungs[-1]["seconds"] < rungs[0]["seconds"]
    cost = told("pinta cost poisson2d")
    assert cost["seconds"] == pytest.approx(rungs[-1]["seconds"])
    assert len(told("workload poisson2d")) > 1
    swept = told("pinta explore poisson2d --precisions w8a8g8")
    assert swept["designs"] > len(swept["frontier"]) > 1
    assert swept["frontier"][0]["widths"] == "w8a8g8"
    assert {path.name for path in folder.iterdir()} == {"designs.csv", "designs.png"}


def test_errors_stay_one_line_beside_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["evaluate", "nowhere", "--json"]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1


def test_numbers_that_json_lacks_are_null(capsys: pytest.CaptureFixture[str]) -> None:
    output.show_json({"error": float("nan"), "path": Path("run")})
    assert json.loads(capsys.readouterr().out, parse_constant=pytest.fail) == {"error": None, "path": "run"}


def test_quiet_reports_write_the_page_alone(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(f"train poisson2d --steps 2 --batch 8 {SMALL} --run run --quiet".split()) == 0
    assert cli.main(["report", "run", "--quiet", "--out", "page.html"]) == 0
    assert capsys.readouterr() == ("", "")
    assert (folder / "page.html").exists()


def on_terminal(arguments: list[str], **environment: str) -> str:
    """What a command writes to a terminal of its own."""
    ours, theirs = pty.openpty()
    kept = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "FORCE_COLOR", "PY_COLORS")}
    command = [sys.executable, "-m", "picopinn.cli", *arguments]
    kept |= {"TERM": "xterm-256color", "COLUMNS": "100", **environment}
    with subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=kept) as process:
        os.close(theirs)
        found = b""
        while True:
            try:
                part = os.read(ours, 1 << 16)
            except OSError:  # how Linux tells that the other end is closed
                break
            if not part:
                break
            found += part
    os.close(ours)
    assert process.returncode == 0, found
    return found.decode()


@pytest.mark.parametrize(
    "arguments",
    [["train", "--help"], ["train", "poisson2d", "--steps", "2", "--batch", "8", *SMALL.split()]],
    ids=["help", "train"],
)
def test_no_color_is_honoured(arguments: list[str]) -> None:
    assert not COLOUR.search(on_terminal(arguments, NO_COLOR="1"))


def test_a_terminal_gets_colours_otherwise() -> None:
    assert COLOUR.search(on_terminal(["train", "--help"]))


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shells_get_a_script(shell: str) -> None:
    environment = os.environ | {"_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}  # or it is that of the shell above
    command = [sys.executable, "-c", "from picopinn.cli import main; main()", "--show-completion", shell]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert f"complete_{shell}" in done.stdout and "picopinn" in done.stdout


def test_bash_shows_and_runs_its_script(need: Need, tmp_path: Path) -> None:
    bash = need("bash", "apt-get install bash")
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin" / "picopinn"
    program.write_text(f"#!{sys.executable}\nimport sys\nfrom picopinn.cli import main\nsys.exit(main())\n")
    program.chmod(0o755)
    words = "COMP_WORDS=(picopinn train poiss); COMP_CWORD=2; _picopinn_completion picopinn; echo ${COMPREPLY[@]}"
    script = f'script=$(picopinn --show-completion bash) && eval "$script" && {words}'
    environment = os.environ | {"PATH": f"{program.parent}:{os.environ['PATH']}"}
    done = subprocess.run([*bash, "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert "poisson2d" in done.stdout.split()
