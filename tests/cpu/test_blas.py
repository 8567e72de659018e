"""The fast BLAS: its products are right, a bad library is found out, an odd file is left alone."""

import ctypes
import mmap
import os
import struct
import subprocess
import sys
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from grpo_cli.cpu import blas, elf
from grpo_cli.cpu.blas_libraries import Library, libraries
from grpo_cli.cpu.elf import Mapping, Unusable
from grpo_cli.device import prepare

linux_cpu = pytest.mark.skipif(
    sys.platform != "linux" or prepare().kind != "cpu" or os.environ.get("GRPO_FAST_BLAS", "") in blas.OFF,
    reason="the BLAS is exchanged on a Linux CPU only",
)


# --- reading the ELF file and the memory map -----------------------------------------------------


def elf_file(machine: int, relocations: list[tuple[int, int, int]], names: list[str]) -> bytes:
    """A small shared library: one PT_LOAD at 0x1000 from offset 0, and a PT_DYNAMIC at its end.

    `relocations` are (slot, number of the name, type); the first goes to DT_RELA, the rest to
    DT_JMPREL.
    """
    strings = b"\0" + b"".join(name.encode() + b"\0" for name in names)
    starts = [strings.index(b"\0" + name.encode() + b"\0") + 1 for name in names]
    symbols = b"".join(struct.pack("<IIQQ", start, 0, 0, 0) for start in starts)
    rela = b"".join(struct.pack("<QQq", slot, (name << 32) | kind, 0) for slot, name, kind in relocations)
    at_strings = 64 + 2 * 56
    at_symbols = at_strings + len(strings)
    at_rela = at_symbols + len(symbols)
    at_dynamic = at_rela + len(rela)
    base = 0x1000
    tags = [(5, base + at_strings), (6, base + at_symbols), (7, base + at_rela), (8, 24)]
    tags += [(23, base + at_rela + 24), (2, len(rela) - 24), (0, 0), (7, 0xBAD)]  # nothing counts after 0
    dynamic = b"".join(struct.pack("<QQ", *tag) for tag in tags)
    size = at_dynamic + len(dynamic)
    header = b"\x7fELF\x02\x01\x01".ljust(16, b"\0")
    header += struct.pack("<HHIQQQIHHHHHH", 3, machine, 1, 0, 64, 0, 0, 64, 56, 2, 0, 0, 0)
    load = struct.pack("<IIQQQQQQ", 1, 4, 0, base, base, size, size, 0x1000)
    dyn = struct.pack("<IIQQQQQQ", 2, 4, at_dynamic, base + at_dynamic, 0, len(dynamic), len(dynamic), 8)
    return header + load + dyn + strings + symbols + rela + dynamic


NAMES = ["cblas_sgemm", "sgesdd_", "cblas_dgemm"]


@pytest.mark.parametrize(("machine", "glob_dat", "jump_slot"), [(62, 6, 7), (183, 1025, 1026)])
def test_slots_are_found_in_both_tables(machine: int, glob_dat: int, jump_slot: int) -> None:
    rows = [(0x8000, 0, glob_dat), (0x8008, 0, jump_slot), (0x8010, 1, jump_slot), (0x8018, 2, jump_slot)]
    rows.append((0x8020, 2, 1))  # a plain address in data is no slot
    found = elf.imported_slots(elf_file(machine, rows, NAMES))
    assert found == {"cblas_sgemm": [0x8000, 0x8008], "cblas_dgemm": [0x8018]}


def test_a_file_that_is_no_elf_or_of_another_machine_is_refused() -> None:
    good = elf_file(62, [(0x8000, 0, 6)], NAMES)
    with pytest.raises(Unusable, match="not a 64-bit little-endian ELF file"):
        elf.imported_slots(b"MZ" + good[2:])
    with pytest.raises(Unusable, match="ELF machine 243 is unknown"):
        elf.imported_slots(elf_file(243, [(0x8000, 0, 6)], NAMES))


MAPS = """\
7f0000001000-7f0000002000 r--p 00000000 08:01 42                         /opt/with space/libmlx.so
7f0000002000-7f0000003000 rw-p 00001000 08:01 42                         /opt/with space/libmlx.so
7f0000003000-7f0000004000 rw-p 00000000 00:00 0
"""


def test_memory_map_and_load_address() -> None:
    maps = elf.parse_maps(MAPS)
    assert maps[0] == Mapping(0x7F0000001000, 0x7F0000002000, "r--p", 0, "/opt/with space/libmlx.so")
    assert maps[2].path == ""
    assert elf.mapping_of(0x7F0000002FFF, maps) is maps[1]
    assert elf.mapping_of(0x7F0000004000, maps) is None
    parts = elf.segments(elf_file(62, [(0x8000, 0, 6)], NAMES))
    assert elf.load_bias(parts, maps, "/opt/with space/libmlx.so") == 0x7F0000000000
    with pytest.raises(Unusable, match="is not mapped from its beginning"):
        elf.load_bias(parts, maps[1:], "/opt/with space/libmlx.so")


def test_a_missing_or_damaged_libmlx_is_a_note(tmp_path: Path) -> None:
    with pytest.raises(Unusable, match=r"libmlx\.so is not among the loaded libraries"):
        elf.libmlx_slots([])
    path = tmp_path / "libmlx.so"
    whole = elf_file(62, [(0x8000, 2, 6), (0x8008, 1, 7)], NAMES)
    maps = [Mapping(0x10000, 0x20000, "r--p", 0, str(path))]
    for size in (100, len(whole) - 140):  # cut in the program headers, and before the dynamic section
        path.write_bytes(whole[:size])
        with pytest.raises(Unusable, match="is not laid out as expected"):
            elf.libmlx_slots(maps)
    path.write_bytes(whole)
    with pytest.raises(Unusable, match="does not import cblas_sgemm"):
        elf.libmlx_slots(maps)


def test_a_slot_must_lie_in_the_library_and_lead_to_code() -> None:
    cell = ctypes.c_uint64(0x5000)
    slot = ctypes.addressof(cell)
    data = Mapping(slot // 4096 * 4096, slot // 4096 * 4096 + 4096, "rw-p", 0, "lib")
    code = Mapping(0x5000, 0x6000, "r-xp", 0, "other")
    elf.check_slot(slot, [data, code], "lib")
    with pytest.raises(Unusable, match="in an unexpected place"):
        elf.check_slot(slot, [data, code], "another")
    with pytest.raises(Unusable, match="something else"):
        elf.check_slot(slot, [data, code._replace(permissions="rw-p")], "lib")


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc/self/maps")
def test_a_read_only_slot_is_written_and_sealed_again() -> None:
    page = mmap.mmap(-1, mmap.PAGESIZE)
    slot = ctypes.addressof(ctypes.c_char.from_buffer(page)) + 16
    libc = ctypes.CDLL(None)
    libc.mprotect(ctypes.c_void_p(slot - 16), ctypes.c_size_t(mmap.PAGESIZE), mmap.PROT_READ)
    elf.write_slots({slot: 0x1234})
    mapping = elf.mapping_of(slot, elf.own_maps())
    assert elf.read_slot(slot) == 0x1234
    assert mapping is not None and mapping.permissions.startswith("r--")


# --- the libraries -------------------------------------------------------------------------------


def own_slots() -> dict[str, list[int]]:
    return elf.libmlx_slots(elf.own_maps())


def values(slots: dict[str, list[int]]) -> list[int]:
    return [elf.read_slot(slot) for found in slots.values() for slot in found]


@linux_cpu
def test_the_fast_library_is_in_use() -> None:
    report = blas.use_fast_blas()
    assert report.name != blas.OWN, report.note
    assert blas.bound_library(own_slots()["cblas_sgemm"][0]) == report.path
    assert blas.use_fast_blas() is report  # made once
    assert blas.wrong_product() == ""


@linux_cpu
def test_a_function_that_writes_nothing_is_found_out_and_the_slots_restored() -> None:
    slots = own_slots()
    before = values(slots)
    idle = blas.function_address(ctypes.CDLL(None).getpid)
    problem = blas.rebind(slots, dict.fromkeys(slots, idle), blas.wrong_product)
    assert problem.startswith("its float32 product is off by ")
    assert values(slots) == before
    assert blas.wrong_product() == ""


@linux_cpu
def test_a_large_product_is_checked_too() -> None:
    slots = own_slots()
    idle = blas.function_address(ctypes.CDLL(None).getpid)
    told = blas.rebind(
        slots, dict.fromkeys(slots, idle), lambda: "exact" if blas.large_product_is_exact() else "wrong"
    )
    assert told == "wrong"
    assert blas.large_product_is_exact()


@linux_cpu
def test_a_check_that_raises_restores_the_slots() -> None:
    slots = own_slots()
    before = values(slots)

    def check() -> str:
        raise RuntimeError("[matmul] no such thing")

    idle = blas.function_address(ctypes.CDLL(None).getpid)
    assert blas.rebind(slots, dict.fromkeys(slots, idle), check) == "[matmul] no such thing"
    assert values(slots) == before


@linux_cpu
def test_the_report_tells_which_library_was_not_taken_and_why(monkeypatch: pytest.MonkeyPatch) -> None:
    slots = own_slots()
    before = values(slots)
    libm = Library(name="libm", paths=("libm.so.6",))  # a library without a BLAS
    absent = Library(name="absent", paths=("libthere-is-no-such-blas.so.0",))
    idle = blas.function_address(ctypes.CDLL(None).getpid)
    monkeypatch.setattr(blas, "addresses", lambda *_: dict.fromkeys(slots, idle))
    package = next(
        choice for choice in libraries() if choice.name == "scipy-openblas32"
    )  # passes the child's product, then is exchanged for one that idles
    report = blas.first_usable((absent, libm, package), slots)
    first, second, advice = report.note.split("; ", 2)
    assert first == "libm was not used: a product in a child process failed"
    assert second.startswith("scipy-openblas32 was not used: its float32 product is off by ")
    assert advice == "products run on mlx's slow BLAS; `pip install scipy-openblas32` makes them fast"
    assert (report.name, report.path, report.gflops) == ("mlx", "", None)
    assert values(slots) == before


@linux_cpu
def test_a_library_that_lacks_a_function_is_refused() -> None:
    with pytest.raises(Unusable, match="it lacks cblas_sgemm"):
        blas.addresses(ctypes.CDLL("libm.so.6"), "", ["cos", "cblas_sgemm"])


UNTOUCHED = """
import mlx.core as mx
from grpo_cli.cpu import blas
from grpo_cli.cpu import elf
slots = elf.libmlx_slots(elf.own_maps())
before = [elf.read_slot(slot) for found in slots.values() for slot in found]
report = blas.use_fast_blas()
assert before == [elf.read_slot(slot) for found in slots.values() for slot in found]
print(report.name, report.note, sep=": ")
"""


@linux_cpu
def test_it_can_be_turned_off() -> None:
    result = subprocess.run(
        [sys.executable, "-c", UNTOUCHED],
        env={**os.environ, "GRPO_FAST_BLAS": "0"},
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (result.stdout, result.stderr) == ("mlx: turned off by GRPO_FAST_BLAS\n", "")


# --- the products --------------------------------------------------------------------------------

SHAPES = [
    ((1, 1), (1, 1)),
    ((1, 64), (64, 1)),
    ((3, 5), (5, 7)),
    ((129, 257), (257, 63)),
    ((4, 33, 20), (20, 11)),  # a batch against one matrix
    ((2, 3, 17, 40), (2, 3, 40, 9)),
]


def relative_error(got: mx.array, want: np.ndarray) -> float:
    assert got.shape == want.shape
    return float(np.abs(np.array(got, dtype=np.float64) - want).max() / np.abs(want).max())


@pytest.mark.parametrize(("left", "right"), SHAPES)
@pytest.mark.parametrize("turn_left", [False, True])
@pytest.mark.parametrize("turn_right", [False, True])
def test_products_agree_with_float64(
    left: tuple[int, ...], right: tuple[int, ...], turn_left: bool, turn_right: bool
) -> None:
    rng = np.random.default_rng(0)
    a, b = (rng.standard_normal(shape).astype(np.float32) for shape in (left, right))
    x, y = mx.array(a), mx.array(b)
    if turn_left:
        x = mx.contiguous(mx.swapaxes(x, -1, -2)).swapaxes(-1, -2)
    if turn_right:
        y = mx.contiguous(mx.swapaxes(y, -1, -2)).swapaxes(-1, -2)
    assert relative_error(x @ y, a.astype(np.float64) @ b.astype(np.float64)) < 1e-5


def test_gradients_through_a_product_agree_with_float64() -> None:
    rng = np.random.default_rng(1)
    a, b, weight = (rng.standard_normal(s).astype(np.float32) for s in ((37, 50), (50, 21), (37, 21)))

    def loss(x: mx.array, y: mx.array) -> mx.array:
        return (x @ y * mx.array(weight)).sum()

    grad_a, grad_b = mx.grad(loss, argnums=(0, 1))(mx.array(a), mx.array(b))
    wide = weight.astype(np.float64)
    assert relative_error(grad_a, wide @ b.T.astype(np.float64)) < 1e-5
    assert relative_error(grad_b, a.T.astype(np.float64) @ wide) < 1e-5
