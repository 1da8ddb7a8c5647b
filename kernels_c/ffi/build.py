"""Builds ``picopinn._kernels``: the C kernels in every variant this compiler knows, through cffi's API mode."""

from __future__ import annotations

import os
import re
from pathlib import Path

from cffi import FFI

ROOT = Path("kernels_c")  # relative to the project's root, where setuptools runs


def _declarations(header: Path) -> str:
    """What cffi needs of a header: constants, types, and the one function that is not there once a variant."""
    text = re.sub(r"/\*.*?\*/", "", header.read_text(), flags=re.DOTALL)
    text = re.sub(r"#ifdef __cplusplus.*?#endif", "", text, flags=re.DOTALL)
    constants = dict(re.findall(r"#define (PPN_\w+) +(\S+)", text))
    text = re.sub(r"^#.*$", "", text, flags=re.MULTILINE)
    text = re.sub(r"^(int|void) ppn_\w+\([^;]*;", "", text, flags=re.MULTILINE)
    text = re.sub(r"\[PPN_MODES( \+ 1)?\]", lambda size: f"[{int(constants['PPN_MODES']) + bool(size[1])}]", text)
    return "".join(f"#define {name} ...\n" for name in constants) + text


ffi = FFI()
ffi.cdef(_declarations(ROOT / "include/ppn/ppn.h"))
ffi.cdef(_declarations(ROOT / "ffi/host.h"))
ffi.set_source(
    "picopinn._kernels",
    '#include "ppn/ppn.h"\n#include "host.h"\n',
    sources=[str(ROOT / "ffi" / name) for name in ("portable.c", "avx2.c", "avx512.c", "dispatch.c")],
    depends=[str(path) for path in sorted(ROOT.rglob("*.[ch]"))],
    include_dirs=[str(ROOT / "include"), str(ROOT / "ffi")],
    extra_compile_args=[] if os.name == "nt" else ["-std=c11", "-O3"],
)

if __name__ == "__main__":
    ffi.compile(verbose=True, tmpdir="build/ffi")
