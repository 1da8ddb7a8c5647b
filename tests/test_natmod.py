"""Native modules: kernels as a ``.mpy`` give the same bits under MicroPython, here and on the emulated board."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from mpremote.transport_serial import SerialTransport

from firmware.tools import natmod
from picopinn import kernels, toolchain
from picopinn.link.emulator import EmulatedBoard
from picopinn.smx import SMX

MODULE = """
#include "ppn/ppn.h"
#include "py/dynruntime.h"

void *memcpy(void *restrict to, const void *restrict from, size_t n) {
    for (size_t i = 0; i < n; i++) ((char *)to)[i] = ((const char *)from)[i];
    return to;
}
void *memset(void *to, int byte, size_t n) {
    for (size_t i = 0; i < n; i++) ((char *)to)[i] = (char)byte;
    return to;
}
static void *bytes_of(mp_obj_t object) {
    mp_buffer_info_t info;
    mp_get_buffer_raise(object, &info, MP_BUFFER_READ);
    return info.buf;
}
/* tanh of one block whose exponent is -12: (mantissas, value). */
static mp_obj_t tanh_of(mp_obj_t mantissas, mp_obj_t value) {
    int8_t e = -12;
    int16_t slope[16];
    VARIABLE
    ppn_activate(1, bytes_of(mantissas), &e, PPN_TANH, bytes_of(value), slope);
    return mp_const_none;
}
static MP_DEFINE_CONST_FUN_OBJ_2(tanh_obj, tanh_of);
mp_obj_t mpy_init(mp_obj_fun_bc_t *self, size_t n_args, size_t n_kw, mp_obj_t *args) {
    MP_DYNRUNTIME_INIT_ENTRY
    mp_store_global(MP_QSTR_tanh, MP_OBJ_FROM_PTR(&tanh_obj));
    MP_DYNRUNTIME_INIT_EXIT
}
"""
PROGRAM = """
import array, native
z = array.array('h', [(2 * i - 15) * 1900 for i in range(16)]); value = array.array('h', bytes(32))
native.tanh(z, value)
print(list(value))
"""


@pytest.fixture(scope="session", autouse=True)
def _toolchain(micropython: Path) -> None:
    """Without the sources of MicroPython nothing here can run."""


def _tree(place: Path, variable: str = "") -> Path:
    shutil.copytree(natmod.ROOT / "kernels_c", place / "kernels_c")
    (place / "firmware/natmod").mkdir(parents=True)
    (place / "firmware/natmod/module.c").write_text(MODULE.replace("VARIABLE", variable))
    return place


def _expected() -> list[int]:
    mantissas = np.array([(2 * i - 15) * 1900 for i in range(16)], np.int16).reshape(1, 1, 4, 4)
    value, _ = kernels.activate(SMX(mantissas, np.array([[-12]], np.int8), (4, 4), 16), "tanh")
    return [int(number) for number in value.reshape(-1)]


def test_the_same_bits_under_the_unix_port(micropython: Path, tmp_path: Path) -> None:
    (tmp_path / "native.mpy").write_bytes(natmod.build("x64", _tree(tmp_path / "tree")))
    result = subprocess.run([micropython, "-c", PROGRAM], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == str(_expected())


def test_the_same_bits_on_the_emulated_board(bare_image: Path, tmp_path: Path) -> None:
    with contextlib.closing(EmulatedBoard(bare_image)) as emulated:
        board = SerialTransport(emulated.port, timeout=10)
        board.enter_raw_repl(soft_reset=False)
        board.fs_writefile("native.mpy", natmod.build("armv6m", _tree(tmp_path)))
        said = board.exec(PROGRAM)
        board.close()
    assert said.decode().strip() == str(_expected())


@pytest.mark.parametrize("arch", natmod.TARGETS)
def test_bytes_do_not_depend_on_the_folder(arch: str, tmp_path: Path) -> None:
    first, second = (natmod.build(arch, _tree(tmp_path / name)) for name in ("one", "a longer name with spaces"))
    assert first == second
    assert first[0:1] == b"M"


def test_variables_are_refused(tmp_path: Path) -> None:
    tree = _tree(tmp_path, "static int calls; value = calls++ ? value : mantissas;")
    with pytest.raises(toolchain.ToolchainError, match=r"no variables, but \.bss\S* has 4 bytes"):
        natmod.build("armv6m", tree)


def test_an_error_of_the_compiler_is_shown(tmp_path: Path) -> None:
    with pytest.raises(toolchain.ToolchainError, match="'nothing' undeclared"):
        natmod.build("armv6m", _tree(tmp_path, "nothing();".replace("()", "++")))


@pytest.mark.parametrize("arch", natmod.TARGETS)
def test_what_is_committed_is_what_the_sources_give(arch: str) -> None:
    here, recorded = natmod.compilers(), (natmod.PREBUILT / "compilers.txt").read_text()
    if here != recorded and os.environ.get("CI") != "true":
        # the bytes are a compiler's: a person with another one learns nothing from a difference
        pytest.skip(f"these compilers give other bytes: {here} instead of {recorded}")
    assert natmod.prebuilt(arch).read_bytes() == natmod.build(arch), "run `invoke prebuild`"
