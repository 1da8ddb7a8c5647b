"""The page of a run: what it holds, how it looks in a browser, and how it follows a run that trains."""

from __future__ import annotations

import base64
import io
import json
import re
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from html.parser import HTMLParser
from pathlib import Path
from types import MappingProxyType
from typing import Any

import matplotlib.image
import numpy as np
import pytest
from numpy.typing import NDArray

from picopinn import cli, problems, train
from picopinn.engine import Range
from picopinn.problems import Field, Problem
from picopinn.report import collect, page
from picopinn.report.server import watching
from picopinn.runs import Row, Run
from picopinn.settings import Settings
from tests.browser import Browser

SMALL = Settings("poisson2d", directions=2, hidden=16, layers=2, tt=(4, 4), rank=2, steps=12, batch=8)
LARGEST = 2_000_000  # bytes of a page, which the project promises
PHONE, DESK = (390, 844), (1280, 900)


class Decay(Problem):
    """u_t = lap u in three dimensions of space, to have slices."""

    name = "decay"
    dimensions = 4
    time = True

    def residual(self, x: NDArray[Any], u: Field) -> NDArray[Any]:
        residual: NDArray[Any] = u.time - u.laplacian
        return residual

    def solution(self, x: NDArray[Any]) -> NDArray[Any]:
        solution: NDArray[Any] = np.exp(-3 * x[:, 3]) * np.sin(x[:, :3]).prod(axis=1)
        return solution


class Line(Problem):
    """u'' = -u on a line."""

    name = "line"
    dimensions = 1

    def residual(self, x: NDArray[Any], u: Field) -> NDArray[Any]:
        residual: NDArray[Any] = u.laplacian + u.value
        return residual

    def solution(self, x: NDArray[Any]) -> NDArray[Any]:
        solution: NDArray[Any] = np.sin(x[:, 0])
        return solution


class Wave(Line):
    """The same with a coefficient to find."""

    name = "wave"
    unknowns = MappingProxyType({"stiffness": 0.5})
    true_unknowns = MappingProxyType({"stiffness": 1.0})

    def residual(self, x: NDArray[Any], u: Field) -> NDArray[Any]:
        residual: NDArray[Any] = u.laplacian + u.unknowns["stiffness"] * u.value
        return residual


@pytest.fixture(autouse=True)
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    """The problems above have names."""
    for kind in (Decay, Line, Wave):
        monkeypatch.setitem(problems.REGISTRY, kind.name, kind)


def trained(path: Path, settings: Settings = SMALL) -> Run:
    solver = settings.solver(1)
    run = Run.create(path, settings, solver.state())
    train.train(run, solver, lambda row: None)
    return run


def small(problem: str, **given: Any) -> Settings:
    return Settings.of(problem, **{"hidden": 16, "layers": 2, "tt": (4, 4), "rank": 2, "steps": 12, "batch": 8} | given)


def written(*runs: Run) -> str:
    return page.page([collect.story(run, len(runs)) for run in runs])


def data_of(text: str) -> Any:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    assert found
    return json.loads(found[1])


# ---- what is recorded


def test_ranges_tell_of_every_tensor() -> None:
    solver = SMALL.solver(1)
    assert solver.engine.ranges() == []
    solver.step()
    found = solver.engine.ranges()
    tensors = solver.network.program(SMALL.widths(), "jet").tensors
    assert [one.tensor for one in found] == [tensor.name for tensor in tensors]
    assert all(one.weights is None or one.weights[0] <= one.weights[1] for one in found)
    assert found[0].weights is not None
    assert found[-1].weights is None  # the last bias starts at zero
    assert [one.saturations for one in found] == [0] * len(found)


def test_saturations_are_counted_and_survive_a_checkpoint() -> None:
    solver = SMALL.solver(1)
    solver.step()
    state = solver.state()
    state["engine.exponents"] = state["engine.exponents"] - 12  # scaled for gradients that are 4,000 times smaller
    solver.restore(state)
    solver.step()
    counts = [one.saturations for one in solver.engine.ranges()]
    assert min(counts) >= 1
    other = SMALL.solver(1)
    other.restore(solver.state())
    other.step()
    solver.step()
    assert other.engine.ranges() == solver.engine.ranges()
    assert [one.saturations for one in other.engine.ranges()] == counts


def test_floats_have_no_ranges(tmp_path: Path) -> None:
    run = trained(tmp_path / "run", small("poisson2d", precision="float32"))
    assert run.ranges() == {}
    assert data_of(written(run))["runs"][0]["ranges"] is None


def test_ranges_are_read_as_they_were_written(tmp_path: Path) -> None:
    run = trained(tmp_path / "run")
    last = run.ranges()[12]
    assert Run.open(run.path).ranges()[12] == last
    one = Range("layer.weight", None, (-3, 4), -20, 7)
    run.save([], run.checkpoint.state, 1.0, {12: [one]})
    assert Run.open(run.path).ranges()[12] == [one]
    assert sorted(run.ranges()) == list(range(1, 13))


# ---- what the page holds


class _References(HTMLParser):
    """Everything in a page that could ask for something outside it."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [value or "" for name, value in attrs if name in ("src", "href", "action", "srcset")]


def test_one_file_holds_all(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = trained(tmp_path / "run")
    train.finish(run, resumed(run), 1.0)
    assert cli.main(["report", str(run.path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "relative L2" in lines[0] and str(run.path) in lines[1]
    assert lines[2] == f"see {run.path / 'report.html'}"
    text = (run.path / "report.html").read_text()
    assert len(text.encode()) < LARGEST
    assert _References(text).found == ["data:,"]
    assert "{{" not in text
    for told in (
        "learning_rate",
        "0.003",
        "numpy",
        np.__version__,
        "peak bytes",
        "Mcycles",
        "PINTA, TT, jets, w8a8g12",
    ):
        assert told in text
    assert f"{run.rows()[-1].relative_l2:.2e}" in text


def resumed(run: Run) -> Any:
    solver = run.settings.solver(1)
    solver.restore(run.checkpoint.state)
    return solver


def test_curves_are_those_of_the_metrics(tmp_path: Path) -> None:
    run = trained(tmp_path / "run")
    (told,) = data_of(written(run))["runs"]
    rows = run.rows()
    assert told["step"] == [row.step for row in rows]
    assert told["loss"]["residual"] == pytest.approx([row.residual for row in rows], rel=1e-4)
    assert told["error"]["relative_l2"] == pytest.approx([row.relative_l2 for row in rows], rel=1e-4)
    assert told["ranges"]["step"] == told["error"]["step"]


def test_unknowns_are_told_step_by_step(tmp_path: Path) -> None:
    run = trained(tmp_path / "run", small("wave"))
    (told,) = data_of(written(run))["runs"]
    assert told["true"] == {"stiffness": 1.0}
    assert told["unknowns"]["stiffness"][0] == 0.5  # before the first step
    assert len(set(told["unknowns"]["stiffness"])) == len(told["step"]) == 12


def test_long_runs_are_thinned_but_keep_their_ends() -> None:
    rows = [Row(step, 1.0, 0.5, {}, {}, 0.1 if step % 1000 == 0 else None, 0.1) for step in range(1, 100_001)]
    told = collect.curves(rows, 2000)
    assert len(told["step"]) <= 2001
    assert (told["step"][0], told["step"][-1]) == (1, 100_000)
    assert told["error"]["step"] == list(range(1000, 100_001, 1000))


def test_slices_hold_solution_reference_and_error(tmp_path: Path) -> None:
    run = trained(tmp_path / "run", small("decay"))
    solver = resumed(run)
    field = collect.field(solver, 3)
    assert [axis[0] for axis in field["axes"]] == ["x1", "x2"]
    assert field["along"] == "t" and len(field["at"]) == len(field["slices"]) == 3
    points = solver.problem.test_points()
    low, high = points.min(axis=0), points.max(axis=0)
    middle, corner = (low + high) / 2, (low + high) / 2
    corner[:2] = low[:2]
    step = (field["spans"]["u"][1] - field["spans"]["u"][0]) / 65534
    assert unpacked(field, "u")[20, 20] == pytest.approx(solver.predict(middle[None])[0], abs=step)
    assert unpacked(field, "reference")[20, 20] == pytest.approx(Decay().solution(middle[None])[0], abs=step)
    error = solver.predict(corner[None])[0] - Decay().solution(corner[None])[0]
    assert unpacked(field, "error")[0, 0] == pytest.approx(error, abs=field["spans"]["error"][1] / 3e4)


def test_references_may_be_zero_or_unknown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = trained(tmp_path / "run", small("line"))
    for value in (0.0, np.nan, 0.3):
        monkeypatch.setattr(Line, "solution", lambda self, x, value=value: np.full(len(x), value))
        field = collect.field(resumed(run), 1)
        assert (field["relative_l2"][0] is None) == (value != 0.3)
        levels = np.frombuffer(base64.b64decode(field["slices"][0]["reference"]), "<u2")
        low, high = field["spans"]["u"]
        assert np.isnan(value) == (levels == 0xFFFF).all()
        assert np.isnan(value) or low + levels[0] / 65534 * (high - low) == pytest.approx(value, abs=(high - low) / 6e4)
        assert page.as_json(field)


def unpacked(field: Any, name: str) -> NDArray[Any]:
    """The middle slice of three as a (41, 41) array."""
    low, high = field["spans"]["error" if name == "error" else "u"]
    levels = np.frombuffer(base64.b64decode(field["slices"][1][name]), "<u2").reshape(41, 41)
    values: NDArray[Any] = low + levels / 65534 * (high - low)
    return values


def test_what_does_not_fit_a_board_is_said(tmp_path: Path) -> None:
    run = trained(tmp_path / "run", small("poisson2d", hidden=512, tt=None, steps=1))
    assert "does not fit a Raspberry Pi Pico" in written(run)


def test_names_are_escaped(tmp_path: Path) -> None:
    run = trained(tmp_path / "<script>alert(1)&")
    text = written(run)
    assert "<script>alert" not in text
    assert data_of(text)["runs"][0]["name"] == str(run.path)


def test_many_runs_stay_small(tmp_path: Path) -> None:
    runs = [trained(tmp_path / f"run{seed}", small("decay", seed=seed, steps=2)) for seed in range(3)]
    text = written(*runs, *runs, *runs, *runs)
    assert len(text.encode()) < LARGEST
    assert "The same in all: problem decay" in text
    assert '<th scope="col">seed</th>' in text


def test_runs_of_different_problems_are_compared(tmp_path: Path) -> None:
    plain, inverse = trained(tmp_path / "plain", small("line")), trained(tmp_path / "inverse", small("wave"))
    text = written(plain, inverse)
    head, first, second = re.findall(r"<tr>(.*?)</tr>", text)[:3]
    columns = [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row) for row in (head, first, second)]
    lines = [dict(zip(columns[0], cells, strict=True)) for cells in columns[1:]]
    assert [line["problem"] for line in lines] == ["line", "wave"]
    assert lines[0]["stiffness"] == "" and lines[1]["stiffness"].endswith("(true: 1)")
    assert lines[0]["weights sha256"] == resumed(plain).weights_sha256()[:12]


@pytest.mark.parametrize("place", ["nowhere/page.html", "."])
def test_a_page_that_cannot_be_written(place: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = trained(tmp_path / "run")
    assert cli.main(["report", str(run.path), "--out", str(tmp_path / place)]) == 1
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1
    assert "cannot write" in err and "choose another --out" in err


# ---- in a browser


def saved(tmp_path: Path, *runs: Run) -> str:
    path = tmp_path / "page.html"
    path.write_text(written(*runs))
    return path.as_uri()


def pixels(shot: bytes) -> NDArray[Any]:
    image: NDArray[Any] = matplotlib.image.imread(io.BytesIO(shot))[..., :3]
    return image


@pytest.mark.parametrize("size", [PHONE, DESK], ids=["phone", "desk"])
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_it_renders(size: tuple[int, int], dark: bool, tmp_path: Path, browser: Browser) -> None:
    browser.look(*size, dark)
    address = saved(tmp_path, trained(tmp_path / "run"))
    browser.open(address)
    assert browser.trouble == []
    assert browser.requests == [address]
    assert browser.run("document.documentElement.scrollWidth") == size[0]  # the page itself never scrolls sideways
    assert browser.run("document.querySelectorAll('#charts svg path.line').length") == 4
    assert browser.run("document.querySelectorAll('#ranges svg polygon.band').length") == 2
    assert browser.run("document.querySelectorAll('canvas.plane').length") == 3
    assert browser.run("document.querySelector('#ranges tbody').rows.length") == 9
    assert browser.run("[...document.querySelectorAll('.chart text')].every((t) => t.textContent !== 'NaN')")
    image = pixels(browser.shot())
    assert image.shape[1] == size[0]
    assert (image[0, 0].mean() < 0.2) == dark
    assert len(np.unique(image.reshape(-1, 3), axis=0)) > 500  # planes in colours


def test_colours_can_be_told_apart(tmp_path: Path, browser: Browser) -> None:
    """Text has a contrast of 4.5 to the paper, lines of 3 (WCAG 2.1, 1.4.3 and 1.4.11)."""
    address = saved(tmp_path, trained(tmp_path / "run"))
    for dark in (False, True):
        browser.look(*DESK, dark)
        browser.open(address)
        names = ["paper", "panel", "ink", "soft", *(f"s{k}" for k in range(6))]
        asked = f"{names}.map((n) => getComputedStyle(document.documentElement).getPropertyValue('--' + n).trim())"
        colours = dict(zip(names, browser.run(asked), strict=True))
        for behind in ("paper", "panel"):
            for name in names[2:]:
                assert contrast(colours[behind], colours[name]) >= (4.5 if name in ("ink", "soft") else 3), (dark, name)


def contrast(first: str, second: str) -> float:
    light, dim = sorted((luminance(first), luminance(second)), reverse=True)
    return (light + 0.05) / (dim + 0.05)


def luminance(text: str) -> float:
    parts = [int(text[k : k + 2], 16) / 255 for k in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return float(np.dot(linear, [0.2126, 0.7152, 0.0722]))


def test_curves_are_zoomed_scaled_and_hidden(tmp_path: Path, browser: Browser) -> None:
    browser.look(*DESK)
    browser.open(saved(tmp_path, trained(tmp_path / "run")))
    chart = "views.Loss"
    left, top, wide, high = browser.run(
        f"(b => [b.left, b.top, b.width, b.height])({chart}.svg.getBoundingClientRect())"
    )
    assert browser.run(f"{chart}.span") == [1, 12]
    middle = top + high / 2
    browser.drag((left + wide / 2, middle), (left + wide * 0.6, middle), (left + wide * 0.75, middle))
    zoomed = browser.run(f"{chart}.span")
    assert 5 < zoomed[0] < 7 < 8 < zoomed[1] < 10
    browser.run(f"{chart}.svg.dispatchEvent(new KeyboardEvent('keydown', {{key: 'ArrowLeft'}}))")
    assert browser.run(f"{chart}.span")[0] < zoomed[0]
    browser.run(f"{chart}.whole.click()")
    assert browser.run(f"{chart}.span") == [1, 12]
    assert browser.run(f"{chart}.said.textContent").startswith("loss ")  # the numbers under the pointer
    browser.run(f"{chart}.bar.querySelector('button').click()")
    assert browser.run(f"{chart}.svg.querySelectorAll('path.line').length") == 2
    assert browser.run(f"{chart}.bar.querySelector('button').getAttribute('aria-pressed')") == "false"
    browser.run(f"{chart}.other.click()")
    assert browser.run(f"{chart}.other.textContent") == "logarithmic scale"
    assert browser.trouble == []


def test_a_slider_moves_through_slices(tmp_path: Path, browser: Browser) -> None:
    browser.look(*PHONE)
    browser.open(saved(tmp_path, trained(tmp_path / "run", small("decay"))))
    planes = "views['Solution, reference and error']"
    seen = set()
    for place in (0, 8):
        browser.run(f"{planes}.range.value = {place}; {planes}.range.oninput()")
        seen.add(browser.run("document.querySelector('canvas.plane').toDataURL()"))
        assert f"t = {browser.run(f'{planes}.field.at[{place}]'):.4g}," in browser.run(f"{planes}.note.textContent")
    assert len(seen) == 2
    assert browser.run("document.querySelectorAll('circle.dot').length") > 400  # test points, and the errors
    assert browser.trouble == []


def test_a_line_is_drawn_as_one(tmp_path: Path, browser: Browser) -> None:
    browser.look(*PHONE)
    browser.open(saved(tmp_path, trained(tmp_path / "run", small("line"))))
    assert browser.run("views['Solution, reference and error'].svg.querySelectorAll('path.line').length") == 2
    assert browser.trouble == []


def test_unknowns_are_drawn_beside_their_truth(tmp_path: Path, browser: Browser) -> None:
    browser.look(*PHONE)
    browser.open(saved(tmp_path, trained(tmp_path / "run", small("wave"))))
    assert browser.run("views['Unknowns'].svg.querySelectorAll('path.line').length") == 1
    assert browser.run("views['Unknowns'].svg.querySelectorAll('g > line.line').length") == 1
    assert browser.trouble == []


def test_runs_are_compared(tmp_path: Path, browser: Browser) -> None:
    runs = [trained(tmp_path / "a"), trained(tmp_path / "b", small("poisson2d", precision="float32"))]
    browser.look(*PHONE)
    browser.open(saved(tmp_path, *runs))
    assert browser.trouble == []
    for title in ("Error by step", "Error by second", "Loss"):
        assert browser.run(f"views['{title}'].svg.querySelectorAll('path.line').length") == 2
    assert browser.run("document.querySelectorAll('canvas.plane').length") == 6
    assert browser.run("document.querySelector('header tbody').rows.length") == 2
    assert browser.run("document.documentElement.scrollWidth") == PHONE[0]


# ---- live


def fetched(address: str) -> tuple[int, bytes]:
    with urllib.request.urlopen(address, timeout=30) as answer:
        return answer.status, answer.read()


def test_a_run_is_watched_to_its_end(tmp_path: Path, browser: Browser) -> None:
    solver = SMALL.solver(1)
    run = Run.create(tmp_path / "run", SMALL, solver.state())
    facts = "document.getElementById('facts').textContent"
    with watching(run, solver, 0) as watch:
        browser.look(*DESK)
        browser.open(watch.address)
        assert "step0 of 12" in browser.run(facts)

        def show(row: Row) -> None:
            watch.show(row)
            if row.step == 6:
                step = "views.Loss.series[0]?.x.at(-1)"
                browser.run(f"new Promise((ok) => setInterval(() => {step} === 6 && ok(), 20))")

        train.train(run, solver, show)
    ended = "document.getElementById('status').textContent.includes('ended')"
    browser.run(f"new Promise((ok) => setInterval(() => {ended} && ok(), 20))")
    assert "step12 of 12" in browser.run(facts)
    assert browser.trouble == []
    assert {address.split("?")[0] for address in browser.requests} == {watch.address, f"{watch.address}data.json"}
    with pytest.raises(OSError, match="refused"):
        fetched(watch.address)


def test_only_news_are_sent(tmp_path: Path) -> None:
    solver = SMALL.solver(1)
    run = Run.create(tmp_path / "run", SMALL, solver.state())
    with watching(run, solver, 0) as watch:
        assert watch.address.startswith("http://127.0.0.1:")
        status, body = fetched(f"{watch.address}data.json?since=0")
        version = json.loads(body)["version"]
        assert status == 200
        assert fetched(f"{watch.address}data.json?since={version}") == (204, b"")
        with pytest.raises(urllib.error.HTTPError, match="404"):
            fetched(f"{watch.address}etc/passwd")


def test_watching_changes_no_bit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["train", "poisson2d", "--hidden", "16", "--layers", "2", "--tt", "4x4", "--rank", "2", "--steps", "12"]
    for name, more in (("plain", []), ("watched", ["--watch"])):
        assert cli.main([*arguments, "--run", str(tmp_path / name), *more]) == 0
    assert re.search(r"^watch it at http://127\.0\.0\.1:\d+/$", capsys.readouterr().out, re.MULTILINE)
    results = [json.loads((tmp_path / name / "result.json").read_text()) for name in ("plain", "watched")]
    assert results[0]["weights_sha256"] == results[1]["weights_sha256"]
    assert (tmp_path / "plain/ranges.csv").read_text() == (tmp_path / "watched/ranges.csv").read_text()


def test_control_c_closes_the_page(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "picopinn.cli", "train", "poisson2d", "--steps", "1000000", "--watch"]
    command += ["--run", str(tmp_path / "run")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout and process.stderr
        process.stdout.readline()
        address = process.stdout.readline().split()[-1]
        assert fetched(address)[0] == 200
        process.send_signal(signal.SIGINT)
        assert process.stderr.read().startswith("stopped, saved at step ")
        assert process.wait(timeout=60) == 130
    with pytest.raises(OSError, match="refused"):
        fetched(address)


def test_a_port_that_is_taken(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        command = ["train", "poisson2d", "--steps", "1", "--run", str(tmp_path / "run"), "--watch", "--port", str(port)]
        assert cli.main(command) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert f"cannot listen at 127.0.0.1, port {port}" in err and "choose another --port" in err
