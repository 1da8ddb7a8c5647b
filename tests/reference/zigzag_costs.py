"""Cycles and energy of the training steps' matrix products on PINTA's grid, by ZigZag; writes ``zigzag_costs.json``.

The grid is 32 x 8 elements of 4x4x4 multiply-adders, a block product a cycle, output stationary: a register for a sum
and one for its shadow, an activation, a weight and a gradient buffer whose ports are as wide as a step's operands and
as a row of results. Energies of an access are the default design's. ZigZag knows neither exponents nor skew. In an
environment of its own, from the top of the checkout::

    pip install zigzag-dse==3.9.1 six && PYTHONPATH=. python tests/reference/zigzag_costs.py
"""

import contextlib
import io
import json
import logging
import os
import tempfile
from pathlib import Path

import yaml
from zigzag.api import get_hardware_performance_zigzag

from pinta_model import default
from pinta_model.array import BLOCK_ELEMENTS
from pinta_model.energy import energies

ROWS, COLS, BLOCK = 32, 8, 4
SUM_BITS = 32
# m, k, n and both widths of the products in steps of poisson2d, hjb20d and heat100d, merged as the default design does;
# but for one of a single step, which ZigZag cannot print
SHAPES = [
    (4, 32, 32, 16, 16),
    (4, 100, 256, 12, 8),
    (4, 104, 256, 16, 8),
    (4, 500, 256, 12, 8),
    (4, 688, 512, 8, 12),
    (4, 688, 512, 12, 8),
    (4, 812, 256, 12, 8),
    (4, 1204, 512, 8, 12),
    (4, 1204, 512, 12, 8),
    (4, 1624, 256, 12, 8),
    (8, 4, 256, 16, 8),
    (8, 100, 256, 8, 12),
    (8, 100, 256, 12, 8),
    (8, 104, 256, 16, 8),
    (8, 128, 16, 16, 16),
    (8, 500, 256, 8, 12),
    (8, 500, 256, 12, 8),
    (8, 812, 256, 8, 12),
    (8, 812, 256, 12, 8),
    (8, 1624, 256, 8, 12),
    (8, 1624, 256, 12, 8),
    (16, 24, 512, 16, 8),
    (28, 24, 512, 16, 8),
    (32, 32, 4, 16, 16),
    (84, 24, 512, 16, 8),
    (100, 4, 256, 12, 8),
    (100, 4, 256, 16, 8),
    (100, 8, 256, 8, 8),
    (100, 8, 256, 12, 8),
    (100, 104, 256, 16, 8),
    (100, 256, 4, 8, 8),
    (100, 256, 8, 8, 8),
    (100, 256, 8, 12, 8),
    (128, 8, 16, 16, 16),
    (128, 16, 8, 16, 16),
    (256, 4, 104, 12, 16),
    (256, 8, 104, 12, 16),
    (256, 100, 4, 12, 16),
    (256, 100, 104, 12, 16),
    (256, 200, 4, 12, 16),
    (256, 404, 104, 12, 16),
    (256, 808, 104, 12, 16),
    (404, 104, 256, 16, 8),
    (500, 4, 256, 12, 8),
    (500, 8, 256, 8, 8),
    (500, 8, 256, 12, 8),
    (500, 256, 4, 8, 8),
    (500, 256, 8, 8, 8),
    (500, 256, 8, 12, 8),
    (512, 16, 24, 12, 16),
    (512, 28, 24, 12, 16),
    (512, 336, 24, 12, 16),
    (512, 588, 24, 12, 16),
    (688, 4, 512, 8, 8),
    (688, 4, 512, 12, 8),
    (688, 512, 4, 8, 8),
    (688, 512, 4, 12, 8),
    (812, 4, 256, 12, 8),
    (812, 8, 256, 8, 8),
    (812, 8, 256, 12, 8),
    (812, 256, 4, 8, 8),
    (812, 256, 8, 8, 8),
    (812, 256, 8, 12, 8),
    (1204, 4, 512, 8, 8),
    (1204, 4, 512, 12, 8),
    (1204, 512, 4, 8, 8),
    (1204, 512, 4, 12, 8),
    (1624, 4, 256, 12, 8),
    (1624, 8, 256, 8, 8),
    (1624, 8, 256, 12, 8),
    (1624, 256, 4, 8, 8),
    (1624, 256, 8, 8, 8),
    (1624, 256, 8, 12, 8),
]


def port(name: str, kind: str, bits: int, *allocation: str) -> dict[str, object]:
    return {"name": name, "type": kind, "bandwidth_min": 8, "bandwidth_max": bits, "allocation": list(allocation)}


def memory(
    bits: int, operand: str, served: list[str], ports: list[dict[str, object]], pj: float, twice: bool = False
) -> dict[str, object]:
    return {
        "size": bits, "r_cost": pj, "w_cost": pj, "area": 0, "latency": 1, "auto_cost_extraction": False,
        "operands": [operand], "ports": ports, "served_dimensions": served, "force_double_buffering": twice,
    }  # fmt: skip


def accelerator(n: int, bits_a: int, bits_b: int) -> dict[str, object]:
    """The grid, its ports as wide as operands of these widths need, and as a row of results is."""
    rows, cols, cost = ROWS * BLOCK, COLS * BLOCK, energies(default())
    everything, per_byte = ["D1", "D2", "D3"], cost.buffer_pj_per_byte
    left, top, out = rows * BLOCK * bits_a, cols * BLOCK * bits_b, min(cols, n) * BLOCK * SUM_BITS
    sums = [
        port("w_port_1", "write", SUM_BITS, "O, fh"), port("r_port_1", "read", SUM_BITS, "O, tl"),
        port("w_port_2", "write", SUM_BITS, "O, fl"), port("r_port_2", "read", SUM_BITS, "O, th"),
    ]  # fmt: skip
    activation = [port("r_port_1", "read", left, "I1, tl")]
    weight = [port("r_port_1", "read", top, "I2, tl")]
    gradient = [port("r_port_1", "read", out, "O, tl"), port("w_port_1", "write", out, "O, fl")]
    per_sum = cost.block_pj / BLOCK_ELEMENTS / 2  # an aligned addition, half of it for either access
    return {
        "name": "pinta",
        "memories": {
            "sums": memory(2 * SUM_BITS, "O", ["D3"], sums, per_sum, twice=True),
            "activation": memory(8 * 2**24, "I1", everything, activation, left / 8 * per_byte["activation"]),
            "weight": memory(8 * 2**24, "I2", everything, weight, top / 8 * per_byte["weight"]),
            "gradient": memory(8 * 2**26, "O", everything, gradient, out / 8 * per_byte["gradient"]),
        },
        "operational_array": {
            "input_precision": [bits_a, bits_b], "unit_energy": 0.0, "unit_area": 1,
            "dimensions": everything, "sizes": [rows, cols, BLOCK],
        },
    }  # fmt: skip


def mapping(m: int, n: int) -> list[dict[str, object]]:
    """As much of M and N side by side as fits; the order in time is ZigZag's own choice."""
    rows, cols = min(m, ROWS * BLOCK), min(n, COLS * BLOCK)
    spatial = {"D1": [f"M, {rows}"], "D2": [f"N, {cols}"], "D3": [f"K, {BLOCK}"]}
    return [{"name": "default", "spatial_mapping": spatial, "memory_operand_links": {"O": "O", "W": "I2", "I": "I1"}}]


def layer(m: int, k: int, n: int, bits_a: int, bits_b: int) -> list[dict[str, object]]:
    precision = {"W": bits_b, "I": bits_a, "O": SUM_BITS, "O_final": SUM_BITS}
    return [
        {
            "id": 0, "operator_type": "Gemm", "equation": "O[M][N]+=W[K][N]*I[M][K]",
            "loop_dims": ["M", "N", "K"], "loop_sizes": [m, n, k],
            "operand_precision": precision, "operand_source": {"W": 0, "I": 0},
        }
    ]  # fmt: skip


def costs(m: int, k: int, n: int, bits_a: int, bits_b: int) -> dict[str, object]:
    m, k, n = (-(-size // BLOCK) * BLOCK for size in (m, k, n))  # whole blocks, as the grid computes them
    with tempfile.TemporaryDirectory() as name, contextlib.redirect_stdout(io.StringIO()):
        folder = Path(name)
        files = {"a": accelerator(n, bits_a, bits_b), "m": mapping(m, n), "w": layer(m, k, n, bits_a, bits_b)}
        for file, data in files.items():
            (folder / f"{file}.yaml").write_text(yaml.safe_dump(data, sort_keys=False))
        paths = [str(folder / f"{file}.yaml") for file in ("w", "a", "m")]
        _, _, found = get_hardware_performance_zigzag(*paths, dump_folder=name, loma_show_progress_bar=False)
    cost = found[0][1][0][0] if isinstance(found[0][1], list) else found[0][0]
    pj = {str(operand): [_sum(level) for level in levels] for operand, levels in cost.mem_energy_breakdown.items()}
    levels = {"sums": pj["O"][0], "activation": pj["I"][0], "weight": pj["W"][0], "gradient": pj["O"][1]}
    sizes = {"m": m, "k": k, "n": n, "bits_a": bits_a, "bits_b": bits_b}
    return {**sizes, "cycles": cost.latency_total2, "pj": {level: round(value, 3) for level, value in levels.items()}}


def _sum(level: object) -> float:
    return float(sum(vars(level).values())) if hasattr(level, "__dict__") else float(level)  # type: ignore[arg-type]


def main() -> None:
    logging.disable(logging.CRITICAL)
    lines = ",\n".join(json.dumps(costs(*shape)) for shape in SHAPES)
    head = json.dumps({"tool": "zigzag-dse 3.9.1", "rows": ROWS, "cols": COLS})
    Path(__file__).with_suffix(".json").write_text(f'{head[:-1]}, "products": [\n{lines}\n]}}\n')


if __name__ == "__main__":
    os.environ.setdefault("TQDM_DISABLE", "1")
    main()
