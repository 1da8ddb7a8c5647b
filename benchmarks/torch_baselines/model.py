"""What all baselines share: a network's parameters as leaf tensors, and the matrices its stages apply."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from picopinn.errors import UsageError
from picopinn.network import Floats, Network, Precision


@dataclass(frozen=True, eq=False)
class Stage:
    """x -> x @ matrix + bias, then the activation if it has one. A TT layer is two stages, R^T and L^T."""

    matrix: Tensor  # (inputs, outputs)
    bias: Tensor | None
    activates: bool


class Model(ABC):
    """A network in PyTorch.

    Args:
        network: with dense layers or tensor trains that are contracted first (``prs``).
        dtype: of all tensors.
        precision: widths, for the models that quantize.

    Raises:
        UsageError: the network applies core after core.
    """

    def __init__(self, network: Network, dtype: torch.dtype, precision: Precision | None = None) -> None:
        if network.tt is not None and network.contraction != "prs":
            raise UsageError("the PyTorch baselines contract cores first: choose contraction prs")
        self.network, self.dtype = network, dtype
        self.program = network.program(precision or Precision(), "jet")
        self.parameters = [torch.zeros(t.shape, dtype=dtype, requires_grad=True) for t in self.program.tensors]

    def load(self, master: Floats) -> None:
        """Set the parameters from one flat vector in ``Program.tensors`` order."""
        ends = np.cumsum([t.size for t in self.program.tensors])[:-1]
        with torch.no_grad():
            for parameter, values in zip(self.parameters, np.split(master, ends), strict=True):
                parameter.copy_(torch.from_numpy(values.reshape(parameter.shape)))

    def stages(self) -> list[Stage]:
        """The stages at the present parameters, once a step."""
        result = []
        for index, stage in enumerate(self.program.stages):
            mine = [pair for pair in zip(self.program.tensors, self.parameters, strict=True) if pair[0].stage == index]
            matrix = self.matrix(index, [parameter for tensor, parameter in mine if not tensor.bias])
            bias = next((self.bias(parameter) for tensor, parameter in mine if tensor.bias), None)
            activates = stage.closes and index + 1 < len(self.program.stages)
            result.append(Stage(matrix if stage.expand else matrix.T, bias, activates))
        return result

    def matrix(self, index: int, cores: Sequence[Tensor]) -> Tensor:
        """The (rows, cols) matrix of a stage: its one tensor, or the product of its cores (spec 8)."""
        if self.program.stages[index].chain is None:
            return cores[0]
        product = cores[-1].flatten(1)
        for core in reversed(cores[:-1]):
            product = (core.flatten(0, 1) @ product).reshape(core.shape[0], -1)
        return product

    def bias(self, parameter: Tensor) -> Tensor:
        return parameter

    def value(self, stages: Sequence[Stage], x: Tensor) -> Tensor:
        """u (n,) at points x (n, D), not quantized."""
        phi = {"tanh": torch.tanh, "sine": torch.sin}[self.network.activation]
        for stage in stages:
            x = x @ stage.matrix if stage.bias is None else torch.addmm(stage.bias, x, stage.matrix)
            x = phi(x) if stage.activates else x
        return x[:, 0]

    @abstractmethod
    def streams(self, stages: Sequence[Stage], x: Tensor, directions: Tensor | None) -> Tensor:
        """u, then u' d and d' u'' d / 2 of every direction: (n, 1 + 2 K) at points x (n, D) along (K, D) or None."""

    def gradient(self, outputs: Sequence[Tensor], cotangents: Sequence[Tensor], step: int) -> list[Tensor]:
        """Gradients of all parameters from the cotangents of ``outputs``, which were the streams of this step."""
        return list(torch.autograd.grad(outputs, self.parameters, cotangents))

    def snap(self, points: Tensor) -> Tensor:
        """The nearest points that the model holds, (n, D)."""
        return points

    def snap_directions(self, directions: Tensor) -> Tensor:
        """The nearest directions that the model holds, (K, D)."""
        return directions

    def evaluation(self) -> Model:
        """The model for using what was trained."""
        return self
