"""Cycles and bytes read of matrix products on PINTA's grid, by ZigZag; writes ``zigzag_costs.json`` beside this file.

The grid is 32 x 8 elements of 4x4x4 multiply-adders for 8 bits, a block product a cycle, output stationary, with an
activation and a weight buffer. ZigZag knows neither exponents nor skew. In an environment of its own::

    pip install zigzag-dse==3.9.1 six && python tests/reference/zigzag_costs.py
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

ROWS, COLS, BLOCK = 32, 8, 4
SHAPES = [(512, 256, 64), (256, 128, 128), (512, 64, 256), (256, 512, 64), (1024, 512, 64), (512, 1024, 256)]


def port(name: str, kind: str, bits: int, *allocation: str) -> dict[str, object]:
    return {"name": name, "type": kind, "bandwidth_min": 8, "bandwidth_max": bits, "allocation": list(allocation)}


def memory(bits: int, operands: list[str], served: list[str], ports: list[dict[str, object]]) -> dict[str, object]:
    return {
        "size": bits, "r_cost": 1.0, "w_cost": 1.0, "area": 0, "latency": 1, "auto_cost_extraction": False,
        "operands": operands, "ports": ports, "served_dimensions": served,
    }  # fmt: skip


def accelerator() -> dict[str, object]:
    rows, cols = ROWS * BLOCK, COLS * BLOCK
    sums = [
        port("w_port_1", "write", 32, "O, fh"), port("r_port_1", "read", 32, "O, tl"),
        port("w_port_2", "write", 32, "O, fl"), port("r_port_2", "read", 32, "O, th"),
    ]  # fmt: skip
    everything = ["D1", "D2", "D3"]
    activation = [port("r_port_1", "read", rows * BLOCK * 8, "I1, tl")]
    outputs = [
        port("r_port_1", "read", rows * cols * 32, "O, tl"),
        port("w_port_1", "write", rows * cols * 32, "O, fl"),
    ]
    weight = [port("r_port_1", "read", cols * BLOCK * 8, "I2, tl")]
    return {
        "name": "pinta",
        "memories": {
            "reg_O": memory(32, ["O"], ["D3"], sums),
            "activation": memory(8 * 2**22, ["I1"], everything, activation),
            "weight": memory(8 * 2**20, ["I2"], everything, weight),
            "outputs": memory(8 * 2**24, ["O"], everything, outputs),
        },
        "operational_array": {
            "input_precision": [8, 8], "unit_energy": 0.0, "unit_area": 1,
            "dimensions": everything, "sizes": [rows, cols, BLOCK],
        },
    }  # fmt: skip


def mapping() -> list[dict[str, object]]:
    spatial = {"D1": [f"M, {ROWS * BLOCK}"], "D2": [f"N, {COLS * BLOCK}"], "D3": [f"K, {BLOCK}"]}
    links = {"O": "O", "W": "I2", "I": "I1"}
    order = [["K", "*"], ["N", "*"], ["M", "*"]]
    return [{"name": "default", "spatial_mapping": spatial, "temporal_ordering": order, "memory_operand_links": links}]


def layer(m: int, k: int, n: int) -> list[dict[str, object]]:
    return [
        {
            "id": 0, "operator_type": "Gemm", "equation": "O[M][N]+=W[K][N]*I[M][K]",
            "loop_dims": ["M", "N", "K"], "loop_sizes": [m, n, k],
            "operand_precision": {"W": 8, "I": 8, "O": 32, "O_final": 32}, "operand_source": {"W": 0, "I": 0},
        }
    ]  # fmt: skip


def costs(m: int, k: int, n: int) -> dict[str, object]:
    with tempfile.TemporaryDirectory() as name, contextlib.redirect_stdout(io.StringIO()):
        folder = Path(name)
        for file, data in (("a.yaml", accelerator()), ("m.yaml", mapping()), ("w.yaml", layer(m, k, n))):
            (folder / file).write_text(yaml.safe_dump(data, sort_keys=False))
        paths = [str(folder / file) for file in ("w.yaml", "a.yaml", "m.yaml")]
        _, _, found = get_hardware_performance_zigzag(*paths, dump_folder=name, loma_show_progress_bar=False)
    cost = found[0][1][0][0] if isinstance(found[0][1], list) else found[0][0]
    reads = {
        str(operand): [float(x) for x in _numbers(levels)] for operand, levels in cost.mem_energy_breakdown.items()
    }
    return {
        "m": m, "k": k, "n": n, "cycles": cost.latency_total0,
        "a_bytes": reads["I"][0] * ROWS * BLOCK * BLOCK, "b_bytes": reads["W"][0] * COLS * BLOCK * BLOCK,
    }  # fmt: skip


def _numbers(levels: list[object]) -> list[float]:
    """Accesses of each level: energies at 1 pJ an access of the port's whole width."""
    return [float(sum(vars(x).values())) if hasattr(x, "__dict__") else float(x) for x in levels]  # type: ignore[arg-type]


def main() -> None:
    logging.disable(logging.CRITICAL)
    found = [costs(*shape) for shape in SHAPES]
    data = {"tool": "zigzag-dse 3.9.1", "rows": ROWS, "cols": COLS, "products": found}
    Path(__file__).with_suffix(".json").write_text(json.dumps(data, indent=1) + "\n")


if __name__ == "__main__":
    os.environ.setdefault("TQDM_DISABLE", "1")
    main()
