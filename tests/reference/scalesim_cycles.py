"""Cycles of matrix products on plain systolic arrays, by SCALE-Sim; writes ``scalesim_cycles.json`` beside this file.

In an environment of its own::

    pip install scalesim==3.0.0 'numpy<2' && python tests/reference/scalesim_cycles.py
"""

import contextlib
import csv
import io
import itertools
import json
import tempfile
from pathlib import Path

from scalesim.scale_sim import scalesim

SHAPES = [(1, 1, 1), (4, 4, 4), (5, 7, 3), (16, 8, 12), (20, 64, 2), (33, 9, 17), (3, 40, 25), (64, 64, 64)]
GRIDS = [(4, 4), (8, 2), (3, 5)]
DATAFLOWS = {"output": "os", "weight": "ws", "input": "is"}
CONFIG = """
[general]
run_name = run
[architecture_presets]
ArrayHeight = {rows}
ArrayWidth = {cols}
IfmapSramSzkB = 1024
FilterSramSzkB = 1024
OfmapSramSzkB = 1024
IfmapOffset = 0
FilterOffset = 10000000
OfmapOffset = 20000000
Dataflow = {dataflow}
Bandwidth = 10
ReadRequestBuffer = 32
WriteRequestBuffer = 32
[layout]
IfmapCustomLayout = False
FilterCustomLayout = False
IfmapSRAMBankBandwidth = 10
IfmapSRAMBankNum = 10
IfmapSRAMBankPort = 2
FilterSRAMBankBandwidth = 10
FilterSRAMBankNum = 10
FilterSRAMBankPort = 2
[sparsity]
SparsitySupport = false
[run_presets]
InterfaceBandwidth = CALC
UseRamulatorTrace = False
"""


def cycles(dataflow: str, rows: int, cols: int) -> list[int]:
    """Total cycles of every shape."""
    with tempfile.TemporaryDirectory() as name, contextlib.redirect_stdout(io.StringIO()):
        folder = Path(name)
        (folder / "run.cfg").write_text(CONFIG.format(rows=rows, cols=cols, dataflow=dataflow))
        lines = "".join(f"g{i},{m},{n},{k},\n" for i, (m, k, n) in enumerate(SHAPES))
        (folder / "gemm.csv").write_text("Layer,M,N,K,\n" + lines)
        layout = "".join(f"g{i}," + "1," * 30 + "\n" for i in range(len(SHAPES)))
        (folder / "layout.csv").write_text("Layer," + "x," * 30 + "\n" + layout)
        paths = [str(folder / file) for file in ("run.cfg", "gemm.csv", "layout.csv")]
        tool = scalesim(
            save_disk_space=True,
            verbose=False,
            config=paths[0],
            topology=paths[1],
            layout=paths[2],
            input_type_gemm=True,
        )
        tool.run_scale(top_path=name)
        with open(folder / "run" / "COMPUTE_REPORT.csv") as file:
            return [int(float(row[" Total Cycles"])) for row in csv.DictReader(file)]


def main() -> None:
    found = []
    for (name, dataflow), (rows, cols) in itertools.product(DATAFLOWS.items(), GRIDS):
        for (m, k, n), count in zip(SHAPES, cycles(dataflow, rows, cols), strict=True):
            found.append({"stationary": name, "rows": rows, "cols": cols, "m": m, "k": k, "n": n, "cycles": count})
    text = json.dumps({"tool": "scalesim 3.0.0", "products": found}, indent=0)
    Path(__file__).with_suffix(".json").write_text(text + "\n")


if __name__ == "__main__":
    main()
