"""The solver on the float engine: it learns, it resumes to the bit, and it refuses what cannot work."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import pytest
from numpy.typing import NDArray

from picopinn import Estimator, Network, Problem, Solver
from picopinn.errors import UsageError
from picopinn.estimators import STEPLESS
from picopinn.floating import FloatEngine
from picopinn.network import Precision
from picopinn.optim import Adam
from picopinn.problems import Condition, Constraint, Field, Readings, get
from picopinn.solver import Progress

SMALL = Network(2, hidden=32, layers=2, tt=(4, 8), rank=4)


def solver(network: Network = SMALL, estimator: Estimator | None = None, **options: Any) -> Solver:
    return Solver(get("poisson2d")(), network, estimator, **{"precision": "float32", "steps": 400, **options})


@pytest.mark.parametrize(
    "estimator",
    [Estimator(), Estimator("laplacian"), Estimator("orthogonal"), Estimator("orthogonal", quantization="difference")],
)
def test_training_beats_every_linear_function(estimator: Estimator) -> None:
    one = solver(estimator=estimator, learning_rate=5e-3)
    before = one.evaluate()
    one.train()
    assert one.evaluate() < 0.05 < one.problem.trivial_floor()["linear"] < before


def test_a_pde_of_ones_own_takes_a_few_lines() -> None:
    class Helmholtz(Problem):
        dimensions = 2

        def residual(self, x: NDArray[Any], u: Field) -> Any:
            return u.laplacian + u.value

        def solution(self, x: NDArray[Any]) -> NDArray[Any]:
            return np.sin(0.6 * x[:, 0] + 0.8 * x[:, 1])

    one = Solver(Helmholtz(), SMALL, precision="float32", steps=400, learning_rate=5e-3)
    one.train()
    assert one.evaluate() < 0.05


def test_the_loss_is_the_sum_of_its_parts() -> None:
    progress = solver().step()
    assert progress.step == 1
    assert progress.loss == progress.residual + progress.conditions["boundary"]
    assert progress.residual > 0 < progress.conditions["boundary"]


def test_every_condition_has_its_part_of_the_loss() -> None:
    one = Solver(Everything(), Network(3, hidden=32, layers=2, tt=(4, 8), rank=4), precision="float32")
    sensors, progress = one.problem.conditions()[1], one.step()
    assert list(progress.conditions) == ["boundary", "sensors"]
    assert progress.loss == pytest.approx(progress.residual + sum(progress.conditions.values()))
    assert progress.unknowns == {"speed": 1.5}
    again = Solver(Everything(), one.network, precision="float32")
    drawn = again._draw().conditions
    at = drawn.points[drawn.targets[1][0]]
    gap = again.predict(at) - at.sum(axis=1)  # sensors read the sum of their coordinates
    assert progress.conditions["sensors"] == pytest.approx(sensors.weight * np.mean(gap**2), rel=1e-4)


def test_the_passes_give_the_gradient_of_the_loss() -> None:
    """From weights to loss and back through problem, estimator and engine, against a finite difference."""
    one = solver(engine=FloatEngine(SMALL, "jet", np.float64))
    start, d = one.master.copy(), np.random.default_rng(0).normal(size=one.master.size)
    losses = []
    for h in (1e-6, -1e-6):
        one.master[:] = start + h * d
        losses.append(one._loss()[0].loss)
    one.master[:] = start
    gradient = one.engine.gradient(one._loss()[1], 0)
    assert gradient @ d == pytest.approx((losses[0] - losses[1]) / 2e-6, rel=1e-6)


def float64(network: Network, estimator: Estimator, time: bool = True) -> FloatEngine:
    return FloatEngine(network, estimator.mode(time), np.float64)


@pytest.mark.parametrize("name", ["poisson2d", "burgers1d", "heat100d", "hjb20d"])
def test_a_shared_even_part_trains_as_those_of_jets_do(name: str) -> None:
    """With and without time, with all directions and with some: the same losses, but for rounding."""
    problem, losses = get(name)(), []
    network = Network(problem.dimensions, hidden=16, layers=2, tt=(4, 4), rank=2)
    for kind in STEPLESS:
        estimator = Estimator(kind, directions=None if problem.dimensions == 2 else 5)
        engine = float64(network, estimator, problem.time)
        one = Solver(problem, network, estimator, engine=engine, batch=6, steps=3)
        losses.append([one.step().loss for _ in range(3)])
    assert losses[1] == pytest.approx(losses[0], rel=1e-8)


class Everything(Problem):
    """Time, |grad u|^2, a hard constraint, two soft conditions and an unknown, at once."""

    dimensions, time = 3, True
    unknowns: ClassVar = {"speed": 1.5}

    def residual(self, x: NDArray[Any], u: Field) -> Any:
        return u.time - u.unknowns["speed"] * u.laplacian + u.gradient_squared * u.value - x[:, 0]

    def constraint(self, x: NDArray[Any]) -> Constraint:
        zero = np.zeros(len(x))
        time = np.eye(3)[np.full(len(x), 2)]
        return Constraint(Field(x[:, 0] + zero, np.eye(3)[zero.astype(int)], zero), Field(x[:, 2], time, zero))

    def conditions(self) -> Any:
        sensors = np.random.default_rng(1).random((9, 3))
        return (
            Condition("boundary", 3.0, self.edge, lambda x: x[:, 1]),
            Readings("sensors", 5.0, sensors, sensors.sum(axis=1)),
        )

    def solution(self, x: NDArray[Any]) -> NDArray[Any]:
        return x[:, 0] + x[:, 2]


@pytest.mark.parametrize(
    "estimator", [Estimator(), Estimator(directions=1), Estimator("laplacian"), Estimator("gaussian", 0.1, 4)]
)
def test_the_gradient_of_everything_at_once(estimator: Estimator) -> None:
    network = Network(3, hidden=32, layers=2, tt=(4, 8), rank=4)
    one = Solver(Everything(), network, estimator, engine=float64(network, estimator), batch=7)
    assert one.unknowns == {"speed": 1.5}
    start, d = one.master.copy(), np.random.default_rng(0).normal(size=one.master.size)
    losses = []
    for h in (1e-6, -1e-6):
        one.master[:] = start + h * d
        losses.append(one._loss()[0].loss)
    one.master[:] = start
    _, passes, by_unknowns = one._loss()
    gradient = np.concatenate([one.engine.gradient(passes, 0), by_unknowns])
    assert by_unknowns[0] != 0
    assert gradient @ d == pytest.approx((losses[0] - losses[1]) / 2e-6, rel=1e-5)


def test_an_unknown_is_trained_and_resumed_with_the_network() -> None:
    def fresh() -> Solver:
        return Solver(Everything(), Network(3, hidden=32, layers=2, tt=(4, 8), rank=4), precision="float32", steps=8)

    unbroken, second = fresh(), fresh()
    for _ in range(4):
        unbroken.step()
    second.restore(unbroken.state())
    unbroken.train()
    second.train()
    assert second.unknowns == unbroken.unknowns != {"speed": 1.5}


def test_a_hard_constraint_holds_for_any_weights() -> None:
    one = Solver(Everything(), Network(3, hidden=32, layers=2, tt=(4, 8), rank=4), precision="float32")
    x = np.random.default_rng(0).random((50, 3))
    x[:, 2] = 0
    np.testing.assert_allclose(one.predict(x), x[:, 0], rtol=1e-6)


def test_a_problem_may_have_no_condition_at_all() -> None:
    class Free(Everything):
        def conditions(self) -> Any:
            return ()

    one = Solver(Free(), Network(3, hidden=32, layers=2, tt=(4, 8), rank=4), precision="float32")
    progress = one.step()
    assert progress.loss == progress.residual > 0


def test_adam_follows_its_paper_with_a_rate_that_decays_to_zero() -> None:
    rng = np.random.default_rng(0)
    x, mean, square, steps = rng.normal(size=5), np.zeros(5), np.zeros(5), 4
    ours, adam = x.copy(), Adam(5, 0.1, steps)
    for step in range(steps):
        gradient = rng.normal(size=5)
        mean = 0.9 * mean + (1 - 0.9) * gradient
        square = 0.999 * square + (1 - 0.999) * gradient**2
        rate = 0.1 * (steps - step) / steps
        x -= rate * (mean / (1 - 0.9 ** (step + 1))) / (np.sqrt(square / (1 - 0.999 ** (step + 1))) + 1e-8)
        adam.update(ours, gradient, step)
    np.testing.assert_allclose(ours, x, rtol=1e-12)
    state = adam.state()  # no operation is fused with another: the bits are NumPy's
    np.testing.assert_array_equal(state["mean"], mean)
    np.testing.assert_array_equal(state["square"], square)


def test_resuming_gives_the_bits_of_an_unbroken_run() -> None:
    unbroken, first, second = (solver(steps=12) for _ in range(3))
    seen: list[Progress] = []
    unbroken.train(seen.append)
    for _ in range(5):
        first.step()
    state = first.state()
    first.step()  # must not reach into the state
    second.restore(state)
    rest: list[Progress] = []
    second.train(rest.append)
    assert rest == seen[5:]
    assert second.weights_sha256() == unbroken.weights_sha256()
    assert second.evaluate() == unbroken.evaluate()


@pytest.mark.parametrize("precision", ["float32", "w8a8g12"])
def test_settled_matrices_rest_while_biases_move(precision: str) -> None:
    one, free = (solver(precision=precision, steps=8, settle=settle) for settle in (0.5, None))
    for _ in range(4):
        one.step()
        free.step()
    halfway = one.master.copy()
    np.testing.assert_array_equal(halfway, free.master)
    one.train()
    tensors = one.network.program(Precision(), "jet").tensors
    biases = np.concatenate([np.full(tensor.size, tensor.bias) for tensor in tensors])
    np.testing.assert_array_equal(one.master[~biases], halfway[~biases])
    assert (one.master[biases] != halfway[biases]).all()


def test_evaluating_on_the_way_changes_nothing() -> None:
    plain, watched = solver(steps=6), solver(steps=6)
    plain.train()

    def watch(_: Progress) -> None:
        watched.evaluate()

    watched.train(watch)
    assert watched.weights_sha256() == plain.weights_sha256()


def test_seeds_give_different_weights_and_points() -> None:
    one, two = solver(seed=0), solver(seed=1)
    assert one.weights_sha256() != two.weights_sha256()
    two.master[:] = one.master
    assert one.step() != two.step()


def test_steps_draw_different_points() -> None:
    one = solver()
    first = one._draw().inner
    one.step()
    assert (one._draw().inner != first).all()


def test_prediction_does_not_depend_on_its_batches() -> None:
    one = solver()
    x = np.random.default_rng(0).random((2500, 2))
    np.testing.assert_allclose(one.predict(x)[2000:], one.predict(x[2000:]), rtol=1e-5)
    assert one.predict(x[:0]).shape == (0,)


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        ({"master": np.zeros(3)}, "the checkpoint has 3 parameters, the network"),
        ({"adam.mean": np.zeros(3)}, "the optimizer state has 3 values"),
        ({"step": np.array(500)}, "at step 500 of a run of 400"),
        ({"step": None}, "the checkpoint lacks step"),
    ],
)
def test_a_foreign_checkpoint_is_refused(change: dict[str, Any], cause: str) -> None:
    one = solver()
    before = one.weights_sha256()
    state = {name: array for name, array in {**one.state(), **change}.items() if array is not None}
    with pytest.raises(UsageError, match=cause):
        one.restore(state)
    assert (one.weights_sha256(), one.step_number) == (before, 0)
