"""Instructions of a Cortex-M4 for one SMX product: the assembly of cortexm4.c against the portable C (a Cortex-M3's).

apt-get install gcc-arm-none-eabi; pip install -e '.[test]'; python benchmarks/m4_instructions.py
"""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
KERNELS = ROOT / "kernels_c"
MEMORY, STOP = 0x20000000, 0x08000000
FLAGS = ["-std=c11", "-O2", "-mthumb", "-nostdlib", "-fno-tree-loop-distribute-patterns"]
LINK = f"SECTIONS {{ . = {MEMORY:#x}; .text : {{ *(.text*) *(.rodata*) }} .data : {{ *(.data*) *(.bss*) *(COMMON) }} }}"
PRODUCTS = {  # of the functions of m0/products.c: one block row times 64 columns
    "smx_8x8_k64": 4 * 64 * 64,
    "smx_8x8_k256": 4 * 64 * 256,
    "smx_12x8_k64": 4 * 64 * 64,
    "smx_12x8_k256": 4 * 64 * 256,
    "turned_12x8_k64": 4 * 64 * 64,
}


def instructions(processor: str) -> dict[str, float]:
    """Instructions a product, of each function of ``PRODUCTS``; ``processor`` as gcc names it."""
    with tempfile.TemporaryDirectory() as folder:
        counts = _count(_compile(processor, Path(folder)))
        return {name: counts[name] / products for name, products in PRODUCTS.items()}


def _compile(processor: str, folder: Path) -> Path:
    link, program = folder / "link.ld", folder / "products.elf"
    link.write_text(LINK)
    sources = [
        *sorted((KERNELS / "src").glob("*.c")),
        *(ROOT / "benchmarks/m0" / n for n in ("products.c", "memory.c")),
    ]
    command = ["arm-none-eabi-gcc", *FLAGS, f"-mcpu={processor}", f"-I{KERNELS / 'include'}", f"-I{KERNELS / 'src'}"]
    command += [*map(str, sources), f"-Wl,-T,{link}", "-Wl,-e,start", "-lgcc", "-o", str(program)]
    subprocess.run(command, check=True)
    return program


def _count(program: Path) -> dict[str, int]:
    """Instructions of each of the program's functions, after ``start`` has filled their operands."""
    import unicorn as uc
    from elftools.elf.elffile import ELFFile
    from unicorn import arm_const as arm

    machine = uc.Uc(uc.UC_ARCH_ARM, uc.UC_MODE_THUMB | uc.UC_MODE_MCLASS)
    machine.ctl_set_cpu_model(arm.UC_CPU_ARM_CORTEX_M4)  # it runs a Cortex-M3's code, too
    machine.mem_map(MEMORY, 1 << 20)
    machine.mem_map(STOP, 1 << 12)
    with program.open("rb") as file:
        elf = ELFFile(file)
        for segment in elf.iter_segments("PT_LOAD"):
            machine.mem_write(segment["p_vaddr"], segment.data())
        symbols = {s.name: s["st_value"] for s in elf.get_section_by_name(".symtab").iter_symbols()}

    def run(function: str) -> None:
        machine.reg_write(arm.UC_ARM_REG_SP, MEMORY + (1 << 20))
        machine.reg_write(arm.UC_ARM_REG_LR, STOP | 1)
        machine.emu_start(symbols[function] | 1, STOP)

    run("start")
    machine.ctl_flush_tb()  # code seen before would not be counted
    count = 0

    def step(*_: object) -> None:
        nonlocal count
        count += 1

    machine.hook_add(uc.UC_HOOK_CODE, step)
    found = {}
    for name in PRODUCTS:
        before = count
        run(name)
        found[name] = count - before
    return found


def main() -> None:
    assembly, portable = instructions("cortex-m4"), instructions("cortex-m3")
    print(f"{'instructions a product':24}{'Cortex-M4':>10}{'portable':>10}")
    for name in PRODUCTS:
        print(f"{name:24}{assembly[name]:10.2f}{portable[name]:10.2f}")


if __name__ == "__main__":
    main()
