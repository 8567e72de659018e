"""A fast matrix product for MLX on a Linux CPU.

MLX's CPU wheel is linked with the reference BLAS: a float32 product runs at about 5 GFLOP/s on two
cores, where OpenBLAS reaches 200 to 300. Before the first product (MLX may be imported already),

    report = use_fast_blas()        # BlasReport(name='scipy-openblas32', threads=2, gflops=270.0, …)

finds a better library (a system OpenBLAS, MKL, or the package scipy-openblas32) and puts the
addresses of its functions into the slots through which libmlx.so calls `cblas_sgemm` and the like:
the entries of its global offset table that the ELF relocations name (elf.py). No compiler, no preloading.

Nothing here may end a run. A library is tried in a child process first, so that one that aborts
ends the child; then some products are compared with float64 results, and on a difference the old
addresses come back. Whatever does not look as expected leaves MLX with its own BLAS, and the report
says why. `GRPO_FAST_BLAS=0` turns all of it off.

"""

import ctypes
import functools
import importlib.util
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from operator import mul
from pathlib import Path
from typing import Any

from grpo_cli.cpu.elf import Unusable, libmlx_slots, mapping_of, own_maps, read_slot, write_slots

OWN = "mlx"  # the name a report has when MLX keeps the BLAS it came with
FAST_LIBRARIES = ("openblas", "mkl", "blis", "armpl", "nvpl")
OFF = ("0", "false", "no", "off")
TOLERANCE = 1e-5


@dataclass(frozen=True, kw_only=True)
class BlasReport:
    """Which BLAS MLX's products on the CPU use, and why not a better one if it is MLX's own."""

    name: str  # "openblas", "mkl", "scipy-openblas32" or "mlx"
    path: str = ""
    threads: int | None = None
    gflops: float | None = None  # of a float32 product, measured when the library was taken
    note: str = ""


# --- which library -------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
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
        Candidate(name="openblas", paths=("libopenblas.so.0", str(beside / "libopenblas.so.0"))),
        Candidate(
            name="mkl", paths=mkl + tuple(str(beside / name) for name in mkl), threads="MKL_Get_Max_Threads"
        ),
        Candidate(
            name="scipy-openblas32",
            paths=tuple(
                str(path) for folder in folders for path in Path(folder, "lib").glob("libscipy_openblas*.so")
            ),
            prefix="scipy_",
        ),
    )


def open_candidate(candidate: Candidate) -> ctypes.CDLL | None:
    """The candidate's library, or None where the machine has none.

    Raises Unusable when it counts in 64-bit integers or does not survive a product.
    """
    # How long OpenBLAS's idle threads spin, as a power of two of cycles (its default is 26). Spinning
    # threads use up their share of a busy machine, and every product then waits for one of them.
    os.environ.setdefault("OPENBLAS_THREAD_TIMEOUT", "20")
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
        name=candidate.name,
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
        return BlasReport(name=OWN, note="turned off by GRPO_FAST_BLAS")
    if sys.platform != "linux":
        return BlasReport(name=OWN, note=f"nothing to do on {sys.platform}")
    import mlx.core  # noqa: F401  (loads libmlx.so)

    try:
        slots = libmlx_slots(own_maps())
    except Unusable as error:
        return BlasReport(name=OWN, note=str(error))
    bound = bound_library(slots["cblas_sgemm"][0])
    if any(name in Path(bound).name.lower() for name in FAST_LIBRARIES):
        return BlasReport(name=Path(bound).name, path=bound, note="mlx is bound to it already")
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
            return BlasReport(
                name=report.name,
                path=report.path,
                threads=report.threads,
                gflops=report.gflops,
                note="; ".join(notes),
            )
    notes.append("products run on mlx's slow BLAS; `pip install scipy-openblas32` makes them fast")
    return BlasReport(name=OWN, note="; ".join(notes))
