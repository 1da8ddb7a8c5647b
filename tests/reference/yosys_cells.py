"""Cells of the processing element for operands of 1 to 4 slices, and of quantizers; writes ``yosys_cells.json``.

pip install '.[test]' && python tests/reference/yosys_cells.py
"""

import json
from pathlib import Path

from pinta_model.hardware import Element, Quantizer, cell_counts, element_ports, quantizer_ports


def main() -> None:
    found = {}
    for slices in (1, 2, 3, 4):
        element = Element(slices=slices)
        found[f"element, {4 * slices} bits"] = cell_counts(element, element_ports(element))
    for bits in (8, 12, 16):
        quantizer = Quantizer(bits)
        found[f"quantizer, {bits} bits"] = cell_counts(quantizer, quantizer_ports(quantizer))
    Path(__file__).with_suffix(".json").write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
