"""What every format starts from: a trained network as dense layers, with the very weights that it uses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from ..device.base import Gradients, Rows
from ..errors import PicopinnError
from ..integer import IntegerEngine, Layout
from ..network import Floats, Precision, Program, Stage, Tensor
from ..reference import Reference
from ..runs import Run
from ..settings import FLOAT, Settings
from ..solver import Solver
from .expression import Formulas, formulas


@dataclass(frozen=True, eq=False)
class Layer:
    """y = x matrix^T + bias, and the activation if it ``activates``.

    Attributes:
        name: ``layer1.in`` and ``layer1.out`` are the two thin factors of a tensor train.
        matrix: (outputs, inputs).
        bias: (outputs,), or None for the first factor of a tensor train.
    """

    name: str
    matrix: Floats
    bias: Floats | None
    activates: bool


class Trained:
    """A trained solver, to be exported.

    Args:
        solver: at its last step.
        settings: of its run, if it is one.
    """

    def __init__(self, solver: Solver, settings: Settings | None = None) -> None:
        self.solver, self.settings = solver, settings
        self.problem, self.network = solver.problem, solver.network
        self.name = solver.problem.name

    @classmethod
    def of(cls, run: Run) -> Trained:
        """The solver of a finished run.

        Raises:
            PicopinnError: the run has steps left.
        """
        settings = run.settings
        if run.checkpoint.step < settings.steps:
            raise PicopinnError(
                f"{run.path} stands at step {run.checkpoint.step} of {settings.steps}: finish it with "
                f"picopinn train --resume {run.path}, then export it"
            )
        solver = settings.solver(1)
        solver.restore(run.checkpoint.state)
        return cls(solver, settings)

    @property
    def title(self) -> str:
        """What it is, for the files' readers."""
        engine = self.solver.engine
        widths = str(engine.program.precision) if isinstance(engine, IntegerEngine) else FLOAT
        return f"u of {self.name}, as trained by picopinn ({widths}, {self.solver.step_number} steps)"

    @property
    def integers(self) -> bool:
        """Whether it computes in SMX integers."""
        return isinstance(self.solver.engine, IntegerEngine)

    @cached_property
    def formulas(self) -> Formulas | None:
        """The problem's hard constraint; UsageError if it does what formulas cannot say."""
        return formulas(self.problem)

    @cached_property
    def program(self) -> Program:
        """What a device evaluates, at the widths that ``Solver.predict`` uses; of floats, the shapes."""
        evaluator = self.solver.engine.evaluator()
        return evaluator.program if isinstance(evaluator, IntegerEngine) else self.network.program(Precision(), "jet")

    @cached_property
    def parameters(self) -> Rows:
        """The blocks that a device loads, in ``Program.tensors`` order."""
        return Layout(self.program).encode(self._weights)

    @property
    def _weights(self) -> Floats:
        return self.solver.master[: self.network.parameters]  # unknowns of the problem may follow

    @cached_property
    def tensors(self) -> dict[str, Floats]:
        """Every parameter tensor by its name, with the values that the trained solver uses."""
        if self.integers:
            nothing = np.empty(0, np.uint32)
            flat = Layout(self.program).decode(Gradients(self.parameters, nothing))
        else:
            flat = self._weights.astype(np.float32).astype(np.float64)
        ends = np.cumsum([tensor.size for tensor in self.program.tensors])
        parts = np.split(flat, ends[:-1])
        return {t.name: part.reshape(t.shape) for t, part in zip(self.program.tensors, parts, strict=True)}

    @cached_property
    def layers(self) -> list[Layer]:
        """The network as layers; a tensor train is two, whatever its contraction."""
        plan = replace(self.network, contraction="prs").program(self.program.precision, "jet")
        found = []
        for index, stage in enumerate(plan.stages):
            mine = [tensor for tensor in plan.tensors if tensor.stage == index]
            matrix = self._matrix(index, [tensor for tensor in mine if not tensor.bias])
            bias = next((self.tensors[tensor.name] for tensor in mine if tensor.bias), None)
            activates = stage.closes and index + 1 < len(plan.stages)
            found.append(Layer(_layer_name(mine[0], stage), matrix.T if stage.expand else matrix, bias, activates))
        return found

    def _matrix(self, index: int, cores: Sequence[Tensor]) -> Floats:
        """Of a stage of the contracted network. A device contracts cores in integers, and cuts what comes out."""
        if self.integers and self.network.contraction == "prs":
            return self._contracted[index]
        return contract([self.tensors[core.name] for core in cores])

    @cached_property
    def _contracted(self) -> list[Floats]:
        device = Reference()
        device.configure(self.program, 0)
        device.load(self.parameters)
        return [stage.matrix.decode() for stage in device.weights]


def contract(cores: Sequence[Floats]) -> Floats:
    """The matrix of a half-chain's cores (r, n, r'), or of a single matrix (docs/spec.md, section 8)."""
    if cores[0].ndim == 2:
        return cores[0]
    tail = np.ones((1, 1))
    for core in reversed(cores):
        tail = (core.reshape(-1, core.shape[2]) @ tail).reshape(core.shape[0], -1)
    return tail


def _layer_name(tensor: Tensor, stage: Stage) -> str:
    """``layer0`` of ``layer0.weight``, ``layer1.in`` of ``layer1.in.core0``."""
    layer, _, part = tensor.name.partition(".")
    return layer if stage.chain is None else f"{layer}.{part.partition('.')[0]}"
