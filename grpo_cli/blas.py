"""A fast matrix product for MLX on a Linux CPU.

MLX's CPU wheel is linked with the reference BLAS: a float32 product runs at about 5 GFLOP/s on two
cores, where OpenBLAS reaches 200 to 300. Before the first product (MLX may be imported already),

    report = use_fast_blas()        # BlasReport(name='scipy-openblas32', threads=2, gflops=270.0, …)

finds a better library (a system OpenBLAS, MKL, or the package scipy-openblas32) and puts the
addresses of its functions into the slots through which libmlx.so calls `cblas_sgemm` and the like:
the entries of its global offset table that the ELF relocations name. No compiler, no preloading.

Nothing here may end a run. A library is tried in a child process first, so that one that aborts
ends the child; then some products are compared with float64 results, and on a difference the old
addresses come back. Whatever does not look as expected leaves MLX with its own BLAS, and the report
says why. `GRPO_FAST_BLAS=0` turns all of it off.

Sources: the ELF-64 object file format; the psABIs of x86-64 and AArch64 for the relocation types.
"""

import ctypes
import functools
import importlib.util
import math
import mmap
import os
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import takewhile
from operator import mul
from pathlib import Path
from typing import Any, NamedTuple

OWN = "mlx"  # the name a report has when MLX keeps the BLAS it came with
FAST_LIBRARIES = ("openblas", "mkl", "blis", "armpl", "nvpl")
OFF = ("0", "false", "no", "off")
TOLERANCE = 1e-5


@dataclass(frozen=True)
class BlasReport:
    """Which BLAS MLX's products on the CPU use, and why not a better one if it is MLX's own."""

    name: str  # "openblas", "mkl", "scipy-openblas32" or "mlx"
    path: str = ""
    threads: int | None = None
    gflops: float | None = None  # of a float32 product, measured when the library was taken
    note: str = ""


class Unusable(Exception):
    """A library or a file layout that cannot be used; the text is for the report's note."""


# --- which library -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Candidate:
    """A library that offers CBLAS with 32-bit integers: how it is found, and how its names begin."""

    name: str
    paths: tuple[str, ...]  # tried in this order; a bare file name is looked up by the loader
    prefix: str = ""
    threads: str = "openblas_get_num_threads"
    config: str = "openblas_get_config"


def candidates() -> tuple[Candidate, ...]:
    """The libraries to try, best first: what the machine has, then the package from PyPI."""
    beside = Path(sys.prefix, "lib")  # conda, and MKL's package on PyPI
    mkl = ("libmkl_rt.so.3", "libmkl_rt.so.2")
    spec = importlib.util.find_spec("scipy_openblas32")
    folders = (spec.submodule_search_locations or []) if spec else []
    return (
        Candidate("openblas", ("libopenblas.so.0", str(beside / "libopenblas.so.0"))),
        Candidate("mkl", mkl + tuple(str(beside / name) for name in mkl), threads="MKL_Get_Max_Threads"),
        Candidate(
            "scipy-openblas32",
            tuple(
                str(path) for folder in folders for path in Path(folder, "lib").glob("libscipy_openblas*.so")
            ),
            prefix="scipy_",
        ),
    )


def open_candidate(candidate: Candidate) -> ctypes.CDLL | None:
    """The candidate's library, or None where the machine has none.

    Raises Unusable when it counts in 64-bit integers or does not survive a product.
    """
    for path in candidate.paths:
        try:
            library = ctypes.CDLL(path)
        except OSError:
            continue
        if has_wide_integers(library, candidate):
            raise Unusable("it is built for 64-bit integers")
        if not survives(path, candidate.prefix):
            raise Unusable("a product in a child process failed")
        return library
    return None


def has_wide_integers(library: ctypes.CDLL, candidate: Candidate) -> bool:
    """Whether the library takes 64-bit sizes, which MLX does not pass."""
    if candidate.name == "mkl":
        return "ILP64" in os.environ.get("MKL_INTERFACE_LAYER", "").upper()
    config = getattr(library, candidate.prefix + candidate.config, None)
    if config is None:
        return False
    config.restype = ctypes.c_char_p
    return b"USE64BITINT" in (config() or b"")


# A 1×1 product. MKL ends the process when a part of it is missing; a build for another processor
# dies of an illegal instruction: better in a child.
PROBE = """
import ctypes, sys
gemm = getattr(ctypes.CDLL(sys.argv[1]), sys.argv[2] + "cblas_sgemm")
x, out, f = (ctypes.c_float * 1)(3), (ctypes.c_float * 1)(), ctypes.c_float
gemm(101, 111, 111, 1, 1, 1, f(1), x, 1, x, 1, f(0), out, 1)
sys.exit(out[0] != 9)
"""


def survives(path: str, prefix: str) -> bool:
    """Whether a child process gets a right product from the library at `path`."""
    command = [sys.executable, "-I", "-S", "-c", PROBE, path, prefix]
    try:
        return subprocess.run(command, capture_output=True, timeout=60, check=False).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def addresses(library: ctypes.CDLL, prefix: str, names: list[str]) -> dict[str, int]:
    """Where the functions `names` lie in a library. Raises Unusable when one is missing."""
    missing = [name for name in names if getattr(library, prefix + name, None) is None]
    if missing:
        raise Unusable(f"it lacks {', '.join(missing)}")
    return {name: function_address(getattr(library, prefix + name)) for name in names}


def function_address(function: Any) -> int:
    """The address of a function of a library or of a ctypes callback."""
    return ctypes.cast(function, ctypes.c_void_p).value or 0


# --- where libmlx calls it -----------------------------------------------------------------------


class Mapping(NamedTuple):
    """One line of /proc/self/maps."""

    start: int
    end: int
    permissions: str  # "r-xp"
    offset: int
    path: str

    def holds(self, address: int) -> bool:
        return self.start <= address < self.end


def parse_maps(text: str) -> list[Mapping]:
    """The lines of /proc/self/maps: `7f12a000-7f12b000 r--p 00001000 08:01 1234  /lib/libc.so.6`."""
    mappings = []
    for line in text.splitlines():
        span, permissions, offset, _, _, *path = line.split(maxsplit=5)
        start, end = span.split("-")
        mappings.append(
            Mapping(int(start, 16), int(end, 16), permissions, int(offset, 16), path[0] if path else "")
        )
    return mappings


def own_maps() -> list[Mapping]:
    """This process's memory map."""
    return parse_maps(Path("/proc/self/maps").read_text())


def mapping_of(address: int, maps: list[Mapping]) -> Mapping | None:
    """The mapping that an address lies in, if any."""
    return next((mapping for mapping in maps if mapping.holds(address)), None)


PT_LOAD, PT_DYNAMIC = 1, 2
DT_NULL, DT_PLTRELSZ, DT_STRTAB, DT_SYMTAB, DT_RELA, DT_RELASZ, DT_JMPREL = 0, 2, 5, 6, 7, 8, 23
# By e_machine (x86-64, AArch64), the relocations that fill a slot with a function's address:
# GLOB_DAT and JUMP_SLOT.
SLOT_RELOCATIONS = {62: (6, 7), 183: (1025, 1026)}


class Segment(NamedTuple):
    """One program header of an ELF file."""

    kind: int
    offset: int
    address: int
    size: int


def segments(elf: Any) -> list[Segment]:
    """The program headers of an ELF file's bytes. Raises Unusable when it is no 64-bit ELF file."""
    if elf[:6] != b"\x7fELF\x02\x01":
        raise Unusable("not a 64-bit little-endian ELF file")
    (table,) = struct.unpack_from("<Q", elf, 32)
    size, count = struct.unpack_from("<HH", elf, 54)
    rows = [struct.unpack_from("<IIQQQQ", elf, table + i * size) for i in range(count)]
    return [Segment(kind, offset, address, length) for kind, _, offset, address, _, length in rows]


def imported_slots(elf: Any, prefix: str = "cblas_") -> dict[str, list[int]]:
    """The slots of the imported functions whose names begin with `prefix`, as the file numbers them.

    Raises Unusable, struct.error, KeyError or StopIteration for a file that is laid out otherwise.
    """
    parts = segments(elf)
    (machine,) = struct.unpack_from("<H", elf, 18)
    if machine not in SLOT_RELOCATIONS:
        raise Unusable(f"ELF machine {machine} is unknown")
    dynamic = next(part for part in parts if part.kind == PT_DYNAMIC)
    entries = struct.iter_unpack("<QQ", elf[dynamic.offset : dynamic.offset + dynamic.size // 16 * 16])
    tags = dict(takewhile(lambda entry: entry[0] != DT_NULL, entries))

    def offset_of(address: int) -> int:
        part = next(p for p in parts if p.kind == PT_LOAD and p.address <= address < p.address + p.size)
        return address - part.address + part.offset

    symbols, strings = offset_of(tags[DT_SYMTAB]), offset_of(tags[DT_STRTAB])
    slots: dict[str, list[int]] = {}
    for table, size in ((DT_RELA, DT_RELASZ), (DT_JMPREL, DT_PLTRELSZ)):
        if table not in tags:
            continue
        start = offset_of(tags[table])
        for slot, info, _ in struct.iter_unpack("<QQq", elf[start : start + tags[size] // 24 * 24]):
            if info & 0xFFFFFFFF in SLOT_RELOCATIONS[machine]:
                (name_at,) = struct.unpack_from("<I", elf, symbols + (info >> 32) * 24)
                begin = strings + name_at
                name = elf[begin : elf.find(b"\0", begin)].decode("ascii", "replace")
                if name.startswith(prefix):
                    slots.setdefault(name, []).append(slot)
    return slots


def load_bias(parts: list[Segment], maps: list[Mapping], path: str) -> int:
    """What to add to the file's addresses to get those in memory. Raises Unusable."""
    first = next(part for part in parts if part.kind == PT_LOAD)
    page = mmap.PAGESIZE
    for mapping in maps:
        if mapping.path == path and mapping.offset == first.offset // page * page:
            return mapping.start - first.address // page * page
    raise Unusable(f"{path} is not mapped from its beginning")


def libmlx_slots(maps: list[Mapping]) -> dict[str, list[int]]:
    """Where in memory libmlx.so keeps the addresses of the BLAS functions it calls, by name.

    Raises Unusable when it is not loaded or not laid out as expected.
    """
    path = next((m.path for m in maps if Path(m.path).name == "libmlx.so"), None)
    if path is None:
        raise Unusable("libmlx.so is not among the loaded libraries")
    try:
        with Path(path).open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as elf:
            bias = load_bias(segments(elf), maps, path)
            slots = {name: [bias + a for a in found] for name, found in imported_slots(elf).items()}
    except (OSError, ValueError, KeyError, StopIteration, struct.error) as error:
        raise Unusable(f"{path} is not laid out as expected ({error!r})") from error
    if "cblas_sgemm" not in slots:
        raise Unusable(f"{path} does not import cblas_sgemm")
    for slot in (slot for found in slots.values() for slot in found):
        check_slot(slot, maps, path)
    return slots


def check_slot(slot: int, maps: list[Mapping], path: str) -> None:
    """Raise Unusable unless `slot` lies in the library's own data and points to code."""
    mapping = mapping_of(slot, maps)
    if slot % 8 or mapping is None or mapping.path != path or "r" not in mapping.permissions:
        raise Unusable(f"{path} keeps a function's address in an unexpected place")
    target = mapping_of(read_slot(slot), maps)
    if target is None or "x" not in target.permissions:
        raise Unusable(f"{path} keeps something else where a function's address should be")


def read_slot(slot: int) -> int:
    """The address a slot holds."""
    return ctypes.c_uint64.from_address(slot).value


def write_slots(values: dict[int, int]) -> None:
    """Put addresses into slots, {slot: address}. Raises OSError when a page cannot be made writable.

    A library that binds all its functions at load has the table read-only; its protection returns.
    """
    libc, maps, page = ctypes.CDLL(None, use_errno=True), own_maps(), mmap.PAGESIZE
    for slot, address in values.items():
        mapping = mapping_of(slot, maps)
        start = ctypes.c_void_p(slot // page * page)
        sealed = mapping is not None and "w" not in mapping.permissions
        if sealed and libc.mprotect(start, ctypes.c_size_t(page), mmap.PROT_READ | mmap.PROT_WRITE):
            raise OSError(ctypes.get_errno(), "mprotect")
        ctypes.c_uint64.from_address(slot).value = address
        if sealed:
            libc.mprotect(start, ctypes.c_size_t(page), mmap.PROT_READ)


# --- taking it into use --------------------------------------------------------------------------


def rebind(slots: dict[str, list[int]], functions: dict[str, int], check: Callable[[], str]) -> str:
    """Point the slots at `functions` and return "", or put them back and return what `check` found.

    `check` returns "" when MLX's products are right.
    """
    new = {slot: functions[name] for name, found in slots.items() for slot in found}
    old = {slot: read_slot(slot) for slot in new}
    try:
        write_slots(new)
        problem = check()
    except (OSError, RuntimeError, ValueError) as error:
        problem = str(error)
    if problem:
        write_slots({slot: address for slot, address in old.items() if read_slot(slot) != address})
    return problem


def wrong_product() -> str:
    """What is wrong with MLX's products on the CPU; "" when they agree with float64 to 1e-5.

    1 + a (33, 65) by (65, 17) product in each type that BLAS serves, each operand laid out by rows
    and by columns. The 1 lies in the output beforehand: a function that writes nothing cannot pass
    by finding an old result there.
    """
    import mlx.core as mx

    a: list[list[Any]] = [
        [complex(math.sin(65 * i + j), math.cos(i + 3 * j)) for j in range(65)] for i in range(33)
    ]
    b: list[list[Any]] = [
        [complex(math.cos(17 * i + j), math.sin(2 * i - j)) for j in range(17)] for i in range(65)
    ]
    for dtype in (mx.float32, mx.float64, mx.complex64):
        left, right = (a, b) if dtype == mx.complex64 else (real_part(a), real_part(b))
        columns = list(zip(*right, strict=True))
        expected = [1 + sum(map(mul, row, column)) for row in left for column in columns]
        for product in products(left, right, dtype):
            error = max(abs(x - y) for x, y in zip(product, expected, strict=True))
            if not error <= TOLERANCE * len(right):  # a NaN is wrong too
                return f"its {str(dtype).split('.')[-1]} product is off by {error:.2g}"
    return ""


def real_part(rows: list[list[complex]]) -> list[list[Any]]:
    """The real part of a matrix."""
    return [[x.real for x in row] for row in rows]


def products(left: list[list[Any]], right: list[list[Any]], dtype: Any) -> Iterator[list[Any]]:
    """1 + MLX's product of two matrices, flattened, each operand laid out by rows and by columns."""
    import mlx.core as mx

    with mx.stream(mx.cpu):
        a, b = mx.array(left, dtype=dtype), mx.array(right, dtype=dtype)
        for x in (a, mx.contiguous(a.T).T):
            for y in (b, mx.contiguous(b.T).T):
                one = mx.ones((len(left), len(right[0])), dtype=dtype)
                yield list(mx.addmm(one, x, y).flatten().tolist())  # type: ignore[arg-type]


def measure_gflops(size: int = 1024, repeats: int = 3) -> float:
    """Billions of operations per second of a float32 (size, size) product on the CPU: the best of some."""
    import mlx.core as mx

    with mx.stream(mx.cpu):
        a = mx.full((size, size), 0.5)
        mx.eval(a)
        seconds = []
        for _ in range(repeats):
            start = time.perf_counter()
            mx.eval(a @ a)
            seconds.append(time.perf_counter() - start)
    return 2e-9 * size**3 / min(seconds)


def adopt(candidate: Candidate, slots: dict[str, list[int]]) -> BlasReport | None:
    """Take a candidate into use; None where the machine has none. Raises Unusable."""
    library = open_candidate(candidate)
    if library is None:
        return None
    functions = addresses(library, candidate.prefix, list(slots))
    problem = rebind(slots, functions, wrong_product)
    if problem:
        raise Unusable(problem)
    home = mapping_of(functions["cblas_sgemm"], own_maps())
    threads = getattr(library, candidate.prefix + candidate.threads, None)
    return BlasReport(
        candidate.name,
        path=home.path if home else candidate.paths[0],
        threads=int(threads()) if threads is not None else None,
        gflops=round(measure_gflops(512), 1),
    )


def bound_library(slot: int) -> str:
    """The path of the library that a slot of cblas_sgemm leads to once MLX has made a product."""
    import mlx.core as mx

    with mx.stream(mx.cpu):  # a slot that is bound lazily leads to the loader until its first call
        mx.eval(mx.ones((4, 4)) @ mx.ones((4, 4)))
    home = mapping_of(read_slot(slot), own_maps())
    return home.path if home else ""


@functools.cache
def use_fast_blas() -> BlasReport:
    """Give MLX's CPU products the best BLAS there is, once; later calls return the same report.

    Imports mlx.core. Never raises for the sake of a library: the report's note tells what happened.
    """
    if os.environ.get("GRPO_FAST_BLAS", "").lower() in OFF:
        return BlasReport(OWN, note="turned off by GRPO_FAST_BLAS")
    if sys.platform != "linux":
        return BlasReport(OWN, note=f"nothing to do on {sys.platform}")
    import mlx.core  # noqa: F401  (loads libmlx.so)

    try:
        slots = libmlx_slots(own_maps())
    except Unusable as error:
        return BlasReport(OWN, note=str(error))
    bound = bound_library(slots["cblas_sgemm"][0])
    if any(name in Path(bound).name.lower() for name in FAST_LIBRARIES):
        return BlasReport(Path(bound).name, bound, note="mlx is bound to it already")
    return first_usable(candidates(), slots)


def first_usable(choices: tuple[Candidate, ...], slots: dict[str, list[int]]) -> BlasReport:
    """Adopt the first candidate that works; the note tells what was wrong with those before it."""
    notes: list[str] = []
    for candidate in choices:
        try:
            report = adopt(candidate, slots)
        except Unusable as error:
            notes.append(f"{candidate.name} was not taken: {error}")
            continue
        if report:
            return BlasReport(report.name, report.path, report.threads, report.gflops, "; ".join(notes))
    notes.append("products run on mlx's slow BLAS; `pip install scipy-openblas32` makes them fast")
    return BlasReport(OWN, note="; ".join(notes))
