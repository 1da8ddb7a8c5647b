"""Exports do what the solver does: in two runtimes of TensorFlow Lite, as C here and on a Cortex-M0+, and in NumPy."""

from __future__ import annotations

import math
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import hard
import numpy as np
import pytest
from test_compilers import ARMS, FLAGS, INSTALL_GCC, SOURCES, Bare

from picopinn import boards, cli, export, toolchain
from picopinn.errors import UsageError
from picopinn.export import Trained, board, int8
from picopinn.network import Floats
from picopinn.problems import get, names, relative_l2
from picopinn.runs import Run
from picopinn.settings import Settings

ROOT = Path(__file__).parents[1]
RUN_TFLITE = ROOT / "benchmarks" / "tflite" / "run.py"
MEMORY_C = ROOT / "benchmarks" / "m0" / "memory.c"
SMALL = {"hidden": 16, "layers": 2, "tt": (4, 4), "rank": 3, "batch": 8, "steps": 40, "learning_rate": 1e-2}
KINDS = {
    "default": {},
    "sequential": {**SMALL, "contraction": "sequential"},
    "three modes": {**SMALL, "hidden": 24, "tt": (2, 3, 4)},
    "sine": {**SMALL, "activation": "sine"},
    "dense": {**SMALL, "hidden": 13, "tt": None, "precision": "w6a8b12g12"},
    "naive": {**SMALL, "estimator": "orthogonal", "quantization": "naive", "sigma": 0.1, "precision": "w16a16g16"},
    "float32": {**SMALL, "precision": "float32"},
}
INTEGERS = [name for name in KINDS if name != "float32"]
RUNTIMES = list(toolchain.RUNTIMES)

Solver = Callable[[str], Trained]
Need = Callable[[str, str], list[str]]


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A finished run of a kind, trained once."""
    folder = tmp_path_factory.mktemp("runs")

    def run(name: str) -> Path:
        path = folder / name.replace(" ", "-")
        if not path.exists():
            settings = Settings("poisson2d", **KINDS[name])
            solver = settings.solver(1)
            solver.train()
            Run.create(path, settings, solver.state())
        return path

    return run


@pytest.fixture(scope="session")
def solver(runs: Callable[[str], Path]) -> Solver:
    return lambda name: Trained.of(Run.open(runs(name)))


def predicted(solver: Trained, x: Floats) -> Floats:
    return solver.solver.predict(x)


def phi(solver: Trained, z: Floats) -> Floats:
    return np.tanh(z) if solver.network.activation == "tanh" else np.sin(z)


# ---- what all formats start from


@pytest.mark.parametrize("name", KINDS)
def test_layers_are_the_solver(name: str, solver: Solver) -> None:
    one = solver(name)
    x = y = one.problem.test_points()
    for layer in one.layers:
        y = y @ layer.matrix.T + (0 if layer.bias is None else layer.bias)
        y = phi(one, y) if layer.activates else y
    assert relative_l2(y[:, 0], predicted(one, x)) < 1e-4


def test_a_tensor_train_is_two_thin_layers(solver: Solver) -> None:
    for name in ("default", "sequential", "three modes"):
        one = solver(name)
        hidden, rank = one.network.hidden, one.network.rank
        inner = [layer.matrix.shape for layer in one.layers[1:-1]]
        assert inner == [(rank, hidden), (hidden, rank)] * (one.network.layers - 1)
        assert [layer.activates for layer in one.layers[1:-1]] == [False, True] * (one.network.layers - 1)


# ---- NumPy


@pytest.mark.parametrize("name", KINDS)
def test_npz_holds_what_its_page_says(name: str, solver: Solver, tmp_path: Path) -> None:
    """The page's own program, run on the file."""
    one = solver(name)
    export.export(one, tmp_path / "poisson2d.npz")
    *_, program = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "export.md").read_text(), re.DOTALL)
    names: dict[str, object] = {}
    here = Path.cwd()
    try:
        os.chdir(tmp_path)
        exec(program, names)
    finally:
        os.chdir(here)
    u = names["u"]
    assert callable(u)
    x = one.problem.test_points()
    assert relative_l2(u(x), predicted(one, x)) < 1e-4
    with np.load(tmp_path / "poisson2d.npz") as file:
        assert Settings.from_toml(str(file["settings"])) == one.settings
        trained_ = {key.removeprefix("trained."): file[key].shape for key in file.files if key.startswith("trained.")}
    assert trained_ == {tensor.name: tensor.shape for tensor in one.program.tensors}


def test_exported_tensors_train_on(solver: Solver) -> None:
    """They are what the solver uses: set as its weights, they change no bit."""
    one = solver("three modes")
    x = one.problem.test_points()
    before = predicted(one, x)
    one.solver.master[:] = np.concatenate([tensor.ravel() for tensor in one.tensors.values()])
    np.testing.assert_array_equal(predicted(one, x), before)


# ---- TensorFlow Lite


def assert_float_agrees(one: Trained, u: Floats, operators: list[str]) -> None:
    assert relative_l2(u, predicted(one, one.problem.test_points())) <= 1e-4
    counts = [operators.count(code) for code in ("FULLY_CONNECTED", "TANH", "SIN")]
    activations = sum(layer.activates for layer in one.layers)
    assert counts == [len(one.layers), *((activations, 0) if one.network.activation == "tanh" else (0, activations))]


def simulated(one: Trained, x: Floats) -> Floats:
    """The INT8 network in NumPy."""
    network = int8.quantize(one)
    steps = int8.hold(x, network.inputs)
    for layer in network.layers:
        steps = layer.sums(steps)
        if layer.layer.activates:
            steps = int8.hold(phi(one, steps * layer.outputs.scale), int8.ACTIVATED)
    return steps[:, 0] * network.layers[-1].outputs.scale


def assert_int8_agrees(one: Trained, u: Floats, operators: list[str]) -> None:
    x = one.problem.test_points()
    assert relative_l2(u, simulated(one, x)) < 5e-3  # a step up or down, here and there
    assert relative_l2(u, predicted(one, x)) < 2e-2
    floats = {"SIN", "DEQUANTIZE", "QUANTIZE"} & set(operators)
    assert floats == ({"SIN", "DEQUANTIZE", "QUANTIZE"} if one.network.activation == "sine" else set())


@pytest.mark.parametrize("name", RUNTIMES)
def test_models_agree_with_evaluate(
    name: str, solver: Solver, runtime: Callable[[str], toolchain.Runtime], tmp_path: Path
) -> None:
    """All kinds at once: a runtime takes seconds to start."""
    environment = runtime(name)
    np.save(tmp_path / "x.npy", solver("default").problem.test_points())
    models = [(kind, small) for kind in KINDS for small in (False, True)]
    files = [export.export(solver(kind), tmp_path / f"{kind}{small}.tflite", int8=small)[0] for kind, small in models]
    environment.run(RUN_TFLITE, tmp_path / "out.npz", tmp_path / "x.npy", "1", *files)
    with np.load(tmp_path / "out.npz") as out:
        found = {model: (out[f"values{k}"][:, 0], out[f"operators{k}"].tolist()) for k, model in enumerate(models)}
    for (kind, small), answer in found.items():
        (assert_int8_agrees if small else assert_float_agrees)(solver(kind), *answer)
    problem = solver("default").problem
    assert relative_l2(found["default", True][0], problem.solution(problem.test_points())) <= 1.2e-2


def test_a_model_is_small_and_the_same_each_time(solver: Solver, tmp_path: Path) -> None:
    files = [export.export(solver("default"), tmp_path / f"{k}.tflite", int8=True)[0].read_bytes() for k in range(2)]
    assert files[0] == files[1]
    assert len(files[0]) <= 16 * 1024


# ---- C


@pytest.fixture
def sources(solver: Solver, tmp_path: Path) -> Callable[[str], Path]:
    """The main of a kind, beside its header."""
    return lambda kind: export.export(solver(kind), tmp_path / "poisson2d.h")[1]


@pytest.fixture(scope="session")
def built(need: Need, tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], Path]:
    """Compiles a main, under sanitizers; the kernels only once."""
    folder = tmp_path_factory.mktemp("kernels")
    checks = ["-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    command = [*need("gcc", INSTALL_GCC), *FLAGS, *checks]
    subprocess.run([*command, "-c", *map(str, SOURCES)], check=True, cwd=folder)
    objects = sorted(map(str, folder.glob("*.o")))

    def build(main: Path) -> Path:
        subprocess.run([*command, str(main), *objects, "-lm", "-o", str(main.with_suffix(""))], check=True)
        return main.with_suffix("")

    return build


@pytest.mark.parametrize("kind", INTEGERS)
def test_c_gives_the_same_bits(
    kind: str, sources: Callable[[str], Path], solver: Solver, built: Callable[[Path], Path]
) -> None:
    program = built(sources(kind))
    said = subprocess.run([program], capture_output=True, text=True, check=True).stdout
    assert said == "0 of 16 values differ from those exported\n"
    for point in (
        (0.3, 0.7),
        (0, 0),
        (1, 1e-300),
        (-5.5, 3e10),
        (2**-127, 0),
        (1e-39, 2**-142),
        (0.1, 32767.5 / 32768),
    ):
        said = subprocess.run([program, *map(repr, point)], capture_output=True, text=True, check=True).stdout
        assert float(said) == predicted(solver(kind), np.array([point]))[0], point
    done = subprocess.run([program, "1"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (2, "give the 2 coordinates of a point\n")


def test_a_header_that_was_spoiled_is_noticed(sources: Callable[[str], Path], built: Callable[[Path], Path]) -> None:
    main = sources("three modes")
    header = main.with_suffix(".h")
    header.write_text(re.sub(r"(mantissas\[\] = \{\n    )(-?\d+)", r"\g<1>77", header.read_text()))
    done = subprocess.run([built(main)], capture_output=True, text=True)
    assert (done.returncode, re.sub(r"^\d+", "N", done.stdout)) == (1, "N of 16 values differ from those exported\n")


@pytest.mark.parametrize(
    ("kind", "compiler"), [("default", "gcc"), ("sine", "gcc"), ("dense", "gcc"), ("default", "clang"), ("ball", "gcc")]
)
def test_c_on_a_cortex_m0(
    kind: str,
    compiler: str,
    solver: Solver,
    constrained: Callable[[str], Trained],
    tmp_path: Path,
    need: Need,
) -> None:
    from unicorn import arm_const as arm

    tool, fix, flags, libraries = ARMS[compiler]
    need("elftools", "pip install pyelftools")
    command = [*need(tool, fix), *(["cc"] if tool == "ziglang" else [])]
    memory = [str(MEMORY_C)] if compiler == "gcc" else []  # gcc's library has no memcpy, zig's does
    one = constrained(kind) if kind in HARD else solver(kind)
    main = export.export(one, tmp_path / "solver.h")[1]
    program = Bare(command, flags, [*memory, *libraries], tmp_path, main, "main")
    machine, unaligned = program.start({})
    assert machine.reg_read(arm.UC_ARM_REG_R0) == 0
    assert unaligned == []
    u = np.frombuffer(machine.mem_read(program.symbol("u"), 16 * 8), "<f8")
    expected = predicted(one, int8.calibration_points(one.problem)[-16:])
    np.testing.assert_allclose(u, expected, rtol=1e-12 if kind in HARD else 0)


# ---- every problem


def small(name: str) -> Trained:
    """A solver of a problem after a few steps."""
    one = hard.solver(get(name)())
    for _ in range(3):
        one.step()
    return Trained(one)


@pytest.mark.parametrize("name", RUNTIMES)
def test_models_of_every_problem(name: str, runtime: Callable[[str], toolchain.Runtime], tmp_path: Path) -> None:
    environment, rng = runtime(name), np.random.default_rng(0)
    for problem in names():
        one = small(problem)
        x = one.problem.interior(rng, 200)
        np.save(tmp_path / "x.npy", x)
        files = [export.export(one, tmp_path / f"{problem}{k}.tflite", int8=bool(k))[0] for k in (0, 1)]
        environment.run(RUN_TFLITE, tmp_path / "out.npz", tmp_path / "x.npy", "1", *files)
        with np.load(tmp_path / "out.npz") as out:
            u, rounded = (out[f"values{k}"][:, 0] for k in (0, 1))
        expected = predicted(one, x)
        size = max(1.0, np.abs(expected).max())
        assert np.abs(u - expected).max() <= 1e-4 * size, problem
        assert np.abs(rounded - expected).max() <= 2e-2 * size, problem


@pytest.mark.parametrize("problem", names())
def test_c_of_every_problem(problem: str, built: Callable[[Path], Path], tmp_path: Path) -> None:
    program = built(export.export(small(problem), tmp_path / f"{problem}.h")[1])
    said = subprocess.run([program], capture_output=True, text=True, check=True).stdout
    assert said == "0 of 16 values differ from those exported\n"


# ---- hard constraints

HARD = {"wave": hard.Wave, "ball": hard.Ball}


@pytest.fixture(scope="session")
def constrained() -> Callable[[str], Trained]:
    return lambda name: Trained(hard.solver(HARD[name]()))


@pytest.mark.parametrize("name", HARD)
def test_formulas_say_what_the_constraint_does(name: str, constrained: Callable[[str], Trained]) -> None:
    one = constrained(name)
    x = one.problem.interior(np.random.default_rng(0), 50)
    formulas, constraint = one.formulas, one.problem.constraint(x)
    assert formulas and constraint
    for formula, field in ((formulas.offset, constraint.offset), (formulas.factor, constraint.factor)):
        found = [eval(formula.text(), vars(math), {"x": point}) for point in x.tolist()]
        np.testing.assert_allclose(found, field.value, rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize("name", RUNTIMES)
@pytest.mark.parametrize("problem", HARD)
def test_models_hold_the_constraint(
    problem: str,
    name: str,
    constrained: Callable[[str], Trained],
    runtime: Callable[[str], toolchain.Runtime],
    tmp_path: Path,
) -> None:
    one, environment = constrained(problem), runtime(name)
    x = one.problem.interior(np.random.default_rng(0), 500)
    np.save(tmp_path / "x.npy", x)
    files = [export.export(one, tmp_path / f"{small}.tflite", int8=small)[0] for small in (False, True)]
    environment.run(RUN_TFLITE, tmp_path / "out.npz", tmp_path / "x.npy", "1", *files)
    with np.load(tmp_path / "out.npz") as out:
        (u, small), operators = [out[f"values{k}"][:, 0] for k in (0, 1)], out["operators0"].tolist()
    assert relative_l2(u, predicted(one, x)) <= 1e-4
    assert relative_l2(small, predicted(one, x)) <= 2e-2
    assert len(operators) < 30  # like terms are one operator


@pytest.mark.parametrize("name", HARD)
def test_c_holds_the_constraint(
    name: str, constrained: Callable[[str], Trained], built: Callable[[Path], Path], tmp_path: Path
) -> None:
    one = constrained(name)
    program = built(export.export(one, tmp_path / f"{name}.h")[1])
    said = subprocess.run([program], capture_output=True, text=True, check=True).stdout
    assert said == "0 of 16 values differ from those exported\n"
    point = [0.3] * one.problem.dimensions
    said = subprocess.run([program, *map(repr, point)], capture_output=True, text=True, check=True).stdout
    assert float(said) == pytest.approx(predicted(one, np.array([point]))[0], rel=1e-12)


def test_npz_tells_the_constraint(constrained: Callable[[str], Trained], tmp_path: Path) -> None:
    one = constrained("wave")
    with np.load(export.export(one, tmp_path / "u.npz")[0]) as file:
        assert one.formulas
        assert (file["offset"], file["factor"]) == (one.formulas.offset.text(), one.formulas.factor.text())
        assert "settings" not in file  # it comes of no run


@pytest.mark.parametrize("to", ["u.tflite", "u.h", "u.npz", "u.ppn"])
def test_a_constraint_without_formulas_is_refused(to: str, tmp_path: Path) -> None:
    one = Trained(hard.solver(hard.Tangent()))
    with pytest.raises(
        UsageError, match=r"constraint of problem 'tangent' cannot be exported \(.*tan method\): compute it with"
    ):
        export.export(one, tmp_path / to)
    assert list(tmp_path.iterdir()) == []


# ---- the command, and what a person can do wrong


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, runs: Callable[[str], Path]) -> Path:
    """A working directory with runs to export."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "done").symlink_to(runs("three modes"))
    (tmp_path / "there.npz").write_bytes(b"precious")
    return tmp_path


@pytest.mark.parametrize(
    ("to", "files"),
    [
        ("tflite", ["poisson2d.tflite"]),
        ("tflite --int8", ["poisson2d.tflite"]),
        ("solver.tflite", ["solver.tflite"]),
        ("c", ["poisson2d.c", "poisson2d.h"]),
        ("u.h", ["u.c", "u.h"]),
        ("npz", ["poisson2d.npz"]),
        ("board", ["poisson2d.ppn"]),
        ("there.npz --force", ["there.npz"]),
    ],
)
def test_export_writes(to: str, files: list[str], folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = set(folder.iterdir()) - {folder / name for name in files}
    assert cli.main(["export", "done", "--to", *to.split()]) == 0
    said = capsys.readouterr().out
    assert set(folder.iterdir()) == before | {folder / name for name in files}
    for name in files:
        assert f"{name}: {(folder / name).stat().st_size:,} bytes\n" in said


def test_two_solvers_of_one_name_are_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["flash", "--board", "rp2040", "--solver", "done", "--solver", "done"]) == 2
    assert capsys.readouterr().err == (
        "error: two runs of poisson2d would both be poisson2d.ppn: give --solver one of them\n"
    )


@pytest.mark.parametrize("package", ["flatbuffers", "tflite"])
def test_a_missing_package_is_named(
    package: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    assert cli.main(["export", "done", "--to", "tflite"]) == 2
    assert f"{package} is not installed: pip install 'picopinn[export]'" in capsys.readouterr().err
    assert not (folder / "poisson2d.tflite").exists()


def test_what_fails_while_writing_leaves_the_old_file(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(_file: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    assert cli.main(["export", "done", "--to", "there.npz", "--force"]) == 1
    assert "cannot write there.npz: No space left on device" in capsys.readouterr().err
    assert (folder / "there.npz").read_bytes() == b"precious"
    assert [path.name for path in folder.iterdir() if path.name.startswith(".")] == []


def test_a_solver_that_no_board_holds_is_refused() -> None:
    settings = Settings("poisson2d", hidden=512, tt=None, layers=3, steps=1, batch=4)
    one = Trained(settings.solver(1))
    with pytest.raises(
        UsageError, match=r"needs [\d,]+ bytes .* in one piece; Raspberry Pi Pico has .*smaller network"
    ):
        board.check_room(one, boards.load("rp2040"))
    board.check_room(one, boards.load("rp2350"))  # nobody has measured what it has
