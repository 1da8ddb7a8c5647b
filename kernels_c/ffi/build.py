"""Builds ``picopinn._kernels``: the C kernels in every variant this compiler knows, through cffi's API mode."""

from __future__ import annotations

import os
import re
from pathlib import Path

from cffi import FFI

ROOT = Path("kernels_c")  # relative to the project's root, where setuptools runs
SOURCES = ("portable", "neon", "avx2", "avx512", "dispatch", "device")
NATIVE = Path("host/native")  # the host's own C: what the kernels must not know
BOARD = Path("firmware/natmod")  # a board's
HOST = ("adam", "crew", "encode")


def _declarations(header: Path) -> str:
    """What cffi needs of a header: constants, types, and the functions that are there once and not in every variant."""
    text = re.sub(r"/\*.*?\*/", "", header.read_text(), flags=re.DOTALL)
    text = re.sub(r"#ifdef __cplusplus.*?#endif", "", text, flags=re.DOTALL)
    constants = dict(re.findall(r"#define (PPN_\w+) +(\S+)", text))
    text = re.sub(r"^#.*$", "", text, flags=re.MULTILINE)
    text = re.sub(r"^static inline .*?^}", "", text, flags=re.DOTALL | re.MULTILINE)
    text = re.sub(r"^(int|void) ppn_(?!device_)\w+\([^;]*;", "", text, flags=re.MULTILINE)
    text = re.sub(r"\[PPN_MODES( \+ 1)?\]", lambda size: f"[{int(constants['PPN_MODES']) + bool(size[1])}]", text)
    return "".join(f"#define {name} ...\n" for name in constants) + text


ffi = FFI()
ffi.cdef(_declarations(ROOT / "include/ppn/ppn.h"))
ffi.cdef(_declarations(ROOT / "ffi/host.h"))
for name in HOST:
    ffi.cdef(_declarations(NATIVE / f"{name}.h"))
ffi.cdef(_declarations(BOARD / "device.h"))
ffi.set_source(
    "picopinn._kernels",
    "".join(f'#include "{name}.h"\n' for name in ("ppn/ppn", "device", "host", *HOST)),
    sources=[*(str(ROOT / "ffi" / f"{name}.c") for name in SOURCES), *(str(NATIVE / f"{name}.c") for name in HOST)],
    depends=[str(path) for path in sorted([*ROOT.rglob("*.[ch]"), *NATIVE.glob("*.[ch]"), *BOARD.glob("device.[ch]")])],
    include_dirs=[str(ROOT / "include"), str(ROOT / "ffi"), str(NATIVE), str(BOARD)],
    libraries=[] if os.name == "nt" else ["m"],
    extra_compile_args=[] if os.name == "nt" else ["-std=c11", "-O3", "-fno-math-errno", "-pthread"],
    extra_link_args=[] if os.name == "nt" else ["-pthread"],
)

if __name__ == "__main__":
    ffi.compile(verbose=True, tmpdir="build/ffi")
