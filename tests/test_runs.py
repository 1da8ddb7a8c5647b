"""Run directories: kills, signals, full disks and damaged files cost nothing but the steps since the checkpoint."""

from __future__ import annotations

import csv
import errno
import io
import json
import os
import random
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from picopinn import cli, runs, train
from picopinn.errors import PicopinnError, UsageError
from picopinn.runs import Checkpoint, Row, Run
from picopinn.settings import Settings

PRECISIONS = ["float32", "w8a8g12"]
STEPS = 12
SMALL = Settings("poisson2d", directions=2, hidden=16, layers=2, tt=(4, 4), rank=2, steps=STEPS, batch=8)

# A command whose checkpoints are so frequent that a kill meets one now and then.
IMPATIENT = "import sys; from picopinn import cli, train; train.CHECKPOINT_SECONDS = 0.02; sys.exit(cli.main())"


def start(path: Path, settings: Settings) -> tuple[Run, Any]:
    solver = settings.solver(1)
    return Run.create(path, settings, solver.state()), solver


def resume(path: Path) -> tuple[Run, Any]:
    run = Run.open(path)
    solver = run.settings.solver(1)
    solver.restore(run.checkpoint.state)
    return run, solver


def nothing(row: Row) -> None:
    """Shows no progress."""


def saved_step(path: Path) -> int:
    return Checkpoint.read(path / "checkpoint.npz").step if path.exists() else 0


def without_seconds(run: Run) -> list[Row]:
    return [replace(row, seconds=0.0) for row in run.rows()]


@pytest.fixture(autouse=True)
def every_step_is_saved(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train, "CHECKPOINT_SECONDS", 0.0)


@pytest.fixture(params=PRECISIONS)
def settings(request: pytest.FixtureRequest) -> Settings:
    return replace(SMALL, precision=request.param)


@pytest.fixture
def unbroken(settings: Settings, tmp_path: Path) -> tuple[str, list[Row]]:
    """Hash and metrics of a run that nothing happened to."""
    run, solver = start(tmp_path / "unbroken", settings)
    train.train(run, solver, nothing)
    return solver.weights_sha256(), without_seconds(run)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A finished run in floats."""
    run, solver = start(tmp_path / "run", replace(SMALL, precision="float32"))
    train.train(run, solver, nothing)
    return run


class TestSettings:
    @pytest.mark.parametrize(
        "settings",
        [
            SMALL,
            replace(SMALL, estimator="gaussian", sigma=1e-5, quantization="naive", tt=None),
            replace(SMALL, tt=(2, 2, 4), contraction="sequential", activation="sine", learning_rate=1.0),
        ],
    )
    def test_toml_round_trip(self, settings: Settings) -> None:
        assert Settings.from_toml(settings.to_toml()) == settings

    @pytest.mark.parametrize(
        ("old", "new", "message"),
        [
            ("seed = 0", "seed =", "not TOML"),
            ("seed = 0", "sede = 0", "unknown setting sede"),
            ("seed = 0", "", "missing setting seed"),
            ("seed = 0", "seed = true", "seed = True is of the wrong type, it must be int"),
            ("seed = 0", "seed = 0.5", "wrong type"),
            ("tt = [4, 4]", "tt = [4, 0.5]", "wrong type"),
            ('"jet"', '"jets"', "wrong type"),
        ],
    )
    def test_toml_errors(self, old: str, new: str, message: str) -> None:
        text = SMALL.to_toml()
        assert old in text
        with pytest.raises(UsageError, match=message):
            Settings.from_toml(text.replace(old, new))


@given(
    st.builds(
        Row,
        st.integers(1, 10**9),
        st.floats(allow_nan=False),
        st.floats(allow_nan=False),
        st.dictionaries(st.sampled_from(["boundary", "initial, left", "loss"]), st.floats(allow_nan=False)),
        st.dictionaries(st.sampled_from(["speed", 'a "b"']), st.floats(allow_nan=False)),
        st.none() | st.floats(allow_nan=False),
        st.just(1.5),
    )
)
def test_rows_keep_every_bit(row: Row) -> None:
    header, cells = csv.reader(runs._lines([row], headed=False).splitlines())
    assert Row.parse(header, cells) == row


class TestKills:
    def test_killed_at_random_moments(self, settings: Settings, tmp_path: Path) -> None:
        settings = replace(settings, steps=400)
        run, solver = start(tmp_path / "whole", settings)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(train, "CHECKPOINT_SECONDS", 60.0)
            train.train(run, solver, nothing)

        path, moments, kills = tmp_path / "killed", random.Random(7), 0
        options = ["--hidden", "16", "--layers", "2", "--tt", "4x4", "--rank", "2", "--batch", "8", "--steps", "400"]
        new = ["poisson2d", "--precision", settings.precision, *options, "--run", str(path)]
        while True:
            arguments = ["train", *(["--resume", str(path)] if path.exists() else new), "--quiet", "--threads", "1"]
            process = subprocess.Popen([sys.executable, "-c", IMPATIENT, *arguments])
            goal = saved_step(path) + moments.randint(1, 150)
            while process.poll() is None and saved_step(path) < goal:
                time.sleep(0.005)
            time.sleep(moments.uniform(0.0, 0.03))
            process.kill()
            if process.wait() == 0:
                break
            assert process.returncode == -signal.SIGKILL
            kills += 1
        assert kills >= 2
        assert json.loads((path / "result.json").read_text())["weights_sha256"] == solver.weights_sha256()
        assert without_seconds(Run.open(path)) == without_seconds(run)
        assert Run.open(path).ranges() == run.ranges()

    def test_stopped_at_every_write(
        self,
        settings: Settings,
        unbroken: tuple[str, list[Row]],
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """Dies at the third or fourth file that is written, its last byte missing, and so on to the end."""
        run, solver = start(tmp_path / "run", settings)
        sync, deaths = runs._sync, 0

        class DeathError(BaseException):
            """Nothing catches it."""

        def dying(after: int) -> Callable[[IO[bytes]], None]:
            countdown = iter(range(after, -1, -1))

            def write(file: IO[bytes]) -> None:
                if next(countdown) == 0:
                    file.truncate(max(file.tell() - 1, 0))
                    raise DeathError
                sync(file)

            return write

        while not solver.done:
            monkeypatch.setattr(runs, "_sync", dying(after=2 + deaths % 2))
            try:
                train.train(run, solver, nothing)
            except DeathError:
                deaths += 1
                run, solver = resume(run.path)
        assert deaths >= STEPS / 2
        assert (solver.weights_sha256(), without_seconds(run)) == unbroken
        evaluated = [] if settings.precision == "float32" else list(range(1, STEPS + 1))
        assert list(run.ranges()) == list(Run.open(run.path).ranges()) == evaluated

    def test_a_kill_while_starting_leaves_no_run(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def interrupt(file: IO[bytes]) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(runs, "_sync", interrupt)
        with pytest.raises(KeyboardInterrupt):
            start(tmp_path / "run", SMALL)
        assert list(tmp_path.iterdir()) == []


class TestSignals:
    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_a_signal_saves(
        self,
        number: signal.Signals,
        settings: Settings,
        unbroken: tuple[str, list[Row]],
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr(train, "CHECKPOINT_SECONDS", 60.0)
        run, solver = start(tmp_path / "run", settings)
        before = signal.getsignal(number)

        def stop(row: Row) -> None:
            if row.step == 5:
                signal.raise_signal(number)

        with pytest.raises(train.InterruptedRunError, match=f"step 5 of {STEPS}.*--resume {run.path}") as caught:
            train.train(run, solver, stop)
        assert caught.value.exit_code == 128 + number
        assert signal.getsignal(number) is before
        run, solver = resume(run.path)
        assert solver.step_number == 5
        train.train(run, solver, nothing)
        assert (solver.weights_sha256(), without_seconds(run)) == unbroken

    def test_control_c_of_the_command(self, tmp_path: Path) -> None:
        path = tmp_path / "run"
        command = f"train poisson2d --precision float32 --hidden 16 --tt 4x4 --steps 1000000 --run {path}".split()
        process = subprocess.Popen(
            [sys.executable, "-c", IMPATIENT, *command], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )
        while not path.exists() or Run.open(path).checkpoint.step == 0:
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
        assert process.returncode == 130
        step = Run.open(path).checkpoint.step
        expected = f"stopped, saved at step {step} of 1000000: continue with picopinn train --resume {path}\n"
        assert err.decode() == expected


class TestFullDisk:
    @pytest.fixture
    def full(self, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
        """Makes writing one file fail as a full disk does."""
        sync = runs._sync

        def fill(name: str) -> None:
            def write(file: IO[bytes]) -> None:
                if name in file.name:
                    file.truncate(max(file.tell() - 1, 0))
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                sync(file)

            monkeypatch.setattr(runs, "_sync", write)

        return fill

    @pytest.mark.parametrize("name", ["config.toml", "environment.json", "metrics.csv", "ranges.csv", "checkpoint.npz"])
    def test_at_the_start(
        self, name: str, full: Callable[[str], None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        full(name)
        assert cli.main(["train", "poisson2d", "--run", str(tmp_path / "run")]) == 1
        err = capsys.readouterr().err
        assert err.count("\n") == 1
        assert "No space left on device" in err
        assert "nothing was written" in err
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize("name", ["metrics.csv", "checkpoint.npz"])
    def test_on_the_way(
        self,
        name: str,
        full: Callable[[str], None],
        settings: Settings,
        unbroken: tuple[str, list[Row]],
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        run, solver = start(tmp_path / "run", settings)

        def at_seven(row: Row) -> None:
            if row.step == 7:
                full(name)

        message = f"cannot write .*{name}: No space left on device: the checkpoint of step 6 is intact.*--resume"
        with pytest.raises(PicopinnError, match=message):
            train.train(run, solver, at_seven)
        monkeypatch.undo()
        run, solver = resume(run.path)
        assert solver.step_number == 6
        train.train(run, solver, nothing)
        assert (solver.weights_sha256(), without_seconds(run)) == unbroken

    @pytest.mark.parametrize("name", ["solution.png", "result.json"])
    def test_at_the_end(self, name: str, full: Callable[[str], None], run: Run) -> None:
        full(name)
        _, solver = resume(run.path)
        with pytest.raises(PicopinnError, match=f"{name}: No space left on device.*make room"):
            train.finish(run, solver, None)
        assert not (run.path / name).exists()


class TestDamage:
    """Each is one line, exit code 1, and leaves the files as they are."""

    def refuse(self, run: Run, capsys: pytest.CaptureFixture[str], *texts: str) -> None:
        before = {path.name: path.read_bytes() for path in run.path.iterdir()}
        for command in (["train", "--resume"], ["evaluate"], ["report"]):
            assert cli.main([*command, str(run.path)]) == 1
            out, err = capsys.readouterr()
            assert out == ""
            assert err.startswith("error: ")
            assert err.count("\n") == 1
            for text in texts:
                assert text in err
        assert {path.name: path.read_bytes() for path in run.path.iterdir()} == before

    @pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.99])
    def test_a_cut_checkpoint(self, share: float, run: Run, capsys: pytest.CaptureFixture[str]) -> None:
        path = run.path / "checkpoint.npz"
        data = path.read_bytes()
        path.write_bytes(data[: int(share * len(data))])
        self.refuse(run, capsys, "checkpoint.npz is damaged or cut short", "start a new run")

    def test_any_flipped_bit(self, run: Run) -> None:
        """Refused, or without meaning (a date inside the archive): never another state, never another error."""
        path = run.path / "checkpoint.npz"
        data, expected = path.read_bytes(), run.checkpoint
        places = random.Random(3)
        for _ in range(300):
            bit = places.randrange(8 * len(data))
            damaged = bytearray(data)
            damaged[bit // 8] ^= 1 << bit % 8
            path.write_bytes(damaged)
            try:
                found = Checkpoint.read(path)
            except PicopinnError:
                continue
            assert found.settings == expected.settings
            assert found.metrics_bytes == expected.metrics_bytes
            assert found.state.keys() == expected.state.keys()
            assert all(np.array_equal(found.state[name], expected.state[name]) for name in expected.state)

    def test_checkpoints_hold_no_pickles(self, run: Run) -> None:
        with zipfile.ZipFile(run.path / "checkpoint.npz") as archive:
            for name in archive.namelist():
                np.load(io.BytesIO(archive.read(name)), allow_pickle=False)

    def test_garbled_metrics(self, run: Run) -> None:
        path = run.path / "metrics.csv"
        path.write_bytes(path.read_bytes().replace(b"2,", b"2;"))
        with pytest.raises(PicopinnError, match=r"metrics\.csv is damaged"):
            Run.open(run.path).rows()


def test_metrics_name_each_condition_and_unknown(tmp_path: Path) -> None:
    settings = Settings.of("heat1d-inverse", hidden=16, tt=(4, 4), rank=2, steps=3, batch=8)
    solver = settings.solver(1)
    run = Run.create(tmp_path / "run", settings, solver.state())
    assert run.rows() == []
    train.train(run, solver, nothing)
    header = (run.path / "metrics.csv").read_text().splitlines()[0]
    assert header == "step,loss,residual,sensors,unknown diffusivity,relative_l2,seconds"
    rows = Run.open(run.path).rows()
    assert [row.step for row in rows] == [1, 2, 3]
    assert rows[0].unknowns == {"diffusivity": 0.5}
    assert all(row.loss == row.residual + row.conditions["sensors"] for row in rows)


def test_racing_starts_get_numbers_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    claim = runs._claim

    def late(draft: Path, path: Path) -> None:
        if path.name.endswith("001"):  # another process was faster
            path.mkdir()
            (path / "config.toml").touch()
        claim(draft, path)

    monkeypatch.setattr(runs, "_claim", late)
    run = Run.create(None, SMALL, SMALL.solver(1).state())
    assert run.path == Path("runs") / "poisson2d-002"
