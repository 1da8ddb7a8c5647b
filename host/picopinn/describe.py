"""What a network costs: parameters, products and bytes, a layer a line, and the memory of a device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.table import Table

from .network import Network, Program, Tensor
from .settings import FLOAT, Settings
from .smx import BLOCK


@dataclass(frozen=True)
class Layer:
    """The costs of one layer.

    Attributes:
        shape: outputs x inputs and how they are factored.
        parameters: trained numbers.
        dense_parameters: of the same layer as one matrix.
        products: multiply-accumulates of one stream row, forward.
        nbytes: of the parameters in SMX, TT cores as cores.
    """

    shape: str
    parameters: int
    dense_parameters: int
    products: int
    nbytes: int

    @property
    def compression(self) -> float:
        return self.dense_parameters / self.parameters

    def __add__(self, other: Layer) -> Layer:
        return Layer(
            "total",
            self.parameters + other.parameters,
            self.dense_parameters + other.dense_parameters,
            self.products + other.products,
            self.nbytes + other.nbytes,
        )


def title(settings: Settings) -> str:
    """Problem, widths and estimator in a few words."""
    return f"{settings.problem}, {settings.precision}, {estimator(settings)}"


def estimator(settings: Settings) -> str:
    """The estimator in a few words."""
    steps = "" if settings.sigma is None else f" sigma {settings.sigma:g} {settings.quantization}"
    return f"{settings.estimator} K={settings.directions}{steps}"


def program(settings: Settings) -> tuple[Program, int]:
    """What a device would be configured with, and for how many directions; floats as if they were integers."""
    return settings.network().program(settings.widths(), settings.mode()), settings.streamed()


def layers(network: Network, program: Program) -> list[Layer]:
    """The costs of every layer, first to last."""
    return [_layer(network, program, index) for index in range(len(network.sizes) - 1)]


def table(costs: Sequence[Layer], integers: bool) -> Table:
    """Layers and their total; without ``integers`` there are no bytes in SMX to tell."""
    result = Table()
    result.add_column("layer")
    headings = ["parameters", "compression", "products a row", *(["bytes"] if integers else [])]
    for heading in headings:
        result.add_column(heading, justify="right")
    total = sum(costs[1:], costs[0])
    for cost in (*costs, total):
        if cost is total:
            result.add_section()
        cells = [f"{cost.parameters:,}", f"{cost.compression:.1f}x", f"{cost.products:,}", f"{cost.nbytes:,}"]
        result.add_row(cost.shape, *cells[: len(headings)])
    return result


def parameter_bytes(settings: Settings) -> int:
    """Bytes of a run's parameters: four each as floats, or as they travel in SMX."""
    network = settings.network()
    if settings.precision == FLOAT:
        return 4 * network.parameters
    return sum(layer.nbytes for layer in layers(network, program(settings)[0]))


def figures(costs: Sequence[Layer], program: Program, directions: int, integers: bool) -> dict[str, Any]:
    """What both tables tell, for a machine; without ``integers`` bytes are None."""
    layers = [{**asdict(cost), "compression": cost.compression} for cost in costs]
    if not integers:
        return {"layers": [layer | {"nbytes": None} for layer in layers], "device_bytes": None}
    from .kernels import device_bytes  # only a device's memory needs the compiled kernels

    return {"layers": layers, "device_bytes": device_bytes(program, directions)}


def device_table(program: Program, directions: int) -> Table:
    """Peak bytes on a device that trains with a microbatch of four points."""
    from .kernels import device_bytes  # only a device's memory needs the compiled kernels

    result = Table()
    result.add_column("on a device, four points")
    result.add_column("peak bytes", justify="right")
    for part, size in device_bytes(program, directions).items():
        if part == "total":
            result.add_section()
        result.add_row(part, f"{size:,}")
    return result


def _layer(network: Network, program: Program, index: int) -> Layer:
    inputs, outputs = network.sizes[index : index + 2]
    tensors = [tensor for tensor in program.tensors if tensor.name.startswith(f"layer{index}.")]
    stages = [program.stages[number] for number in sorted({tensor.stage for tensor in tensors})]
    factored = any(len(tensor.shape) == 3 for tensor in tensors)
    shape = f"{outputs} x {inputs}"
    if factored and network.tt is not None:
        shape += f" TT {'x'.join(map(str, network.tt))} rank {network.rank}"
    return Layer(
        shape,
        sum(tensor.size for tensor in tensors),
        outputs * inputs + outputs,
        sum(stage.rows * stage.cols * stage.panels for stage in stages),
        sum(map(_nbytes, tensors)),
    )


def _nbytes(tensor: Tensor) -> int:
    """A block's mantissas, and one byte for its exponent; a bias has one row a block."""
    lanes = BLOCK if tensor.bias else BLOCK * BLOCK
    return tensor.blocks * (lanes * (1 if tensor.bits <= 8 else 2) + 1)
