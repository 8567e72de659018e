"""Faster matrix products for MLX on a Linux CPU, by replacing its BLAS at run time.

MLX's CPU wheel is linked with the reference BLAS: a float32 product runs at about 5 GFLOP/s on two cores,
where OpenBLAS reaches 200 to 300. Before the first product (MLX may be imported already),

    report = use_fast_blas()        # BlasReport(name='scipy-openblas32', threads=2, gflops=270.0, …)

finds a faster library (MKL, or the newest OpenBLAS: blas_libraries.py). It writes the addresses of
the library's functions into the slots through which libmlx.so calls `cblas_sgemm` and others: the entries of
its global offset table that the ELF relocations name (elf.py). This needs no compiler and no preloading.

A failure here never ends a run. A library is tested in a child process first, so an abort ends only the
child. Then products are compared with float64 results, and on a difference the old addresses are restored.
If anything is unexpected, MLX keeps its own BLAS and the report says why. `GRPO_FAST_BLAS=0` turns all of it
off.
"""

import ctypes
import functools
import math
import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from operator import mul
from pathlib import Path
from typing import Any

from grpo_cli.cpu.blas_libraries import Library, check_usable, examine, libraries
from grpo_cli.cpu.elf import Unusable, libmlx_slots, mapping_of, own_maps, read_slot, write_slots

OWN = "mlx"  # BlasReport.name if MLX keeps its own BLAS
FAST_LIBRARIES = ("openblas", "mkl", "blis", "armpl", "nvpl")
OFF = ("0", "false", "no", "off")
TOLERANCE = 1e-5


@dataclass(frozen=True, kw_only=True)
class BlasReport:
    """The BLAS that MLX uses on the CPU, and the reason if it is MLX's own slow one."""

    name: str  # "openblas", "mkl", "scipy-openblas32" or "mlx"
    version: str = ""  # such as "0.3.29"; empty if the library does not say
    path: str = ""
    core: str = ""  # kind of processor whose kernels it runs, such as "SkylakeX"; or MKL's way of exactness
    threads: int | None = None
    gflops: float | None = None  # of a float32 product, measured when the library was adopted
    note: str = ""


def addresses(library: ctypes.CDLL, prefix: str, names: list[str]) -> dict[str, int]:
    """Addresses of the functions `names` in a library. Raises Unusable if one is missing."""
    missing = [name for name in names if getattr(library, prefix + name, None) is None]
    if missing:
        raise Unusable(f"it lacks {', '.join(missing)}")
    return {name: function_address(getattr(library, prefix + name)) for name in names}


def function_address(function: Any) -> int:
    """The address of a library function or ctypes callback."""
    return ctypes.cast(function, ctypes.c_void_p).value or 0


# --- adoption --------------------------------------------------------------------------


def rebind(slots: dict[str, list[int]], functions: dict[str, int], check: Callable[[], str]) -> str:
    """Point the slots at `functions`; returns "", or the problem after restoring the old addresses.

    `check` returns "" if MLX's products are correct, else the problem.
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
    """Describe errors in MLX's products on the CPU; "" if they agree with float64 to 1e-5.

    Tests 1 + a (33, 65) by (65, 17) product in each dtype that BLAS computes, with each operand in row-major
    and column-major order. The output contains the 1 beforehand, so a function that writes nothing cannot
    pass by leaving an old result there. Then a product that is large enough for several threads.
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
    return "" if large_product_is_exact() else "its large product of whole numbers is wrong"


def large_product_is_exact() -> bool:
    """True if a product that several threads compute, of whole numbers that float32 holds, is exact."""
    import mlx.core as mx

    rows, shared, columns = 513, 700, 301
    with mx.stream(mx.cpu):
        a = mx.arange(rows)[:, None] % 7 * mx.ones((1, shared)) + mx.arange(shared) % 2  # (513, 700)
        b = mx.ones((shared, 1)) * (mx.arange(columns) % 5)  # (700, 301)
        row, column = mx.arange(rows) % 7 * shared + shared // 2, mx.arange(columns) % 5
        expected = row[:, None] * column
        found = [a @ b, a @ mx.contiguous(b.T).T, mx.contiguous(a.T).T @ b]
        return all(bool((product == expected).all().item()) for product in found)


def real_part(rows: list[list[complex]]) -> list[list[Any]]:
    """The real part of a matrix."""
    return [[x.real for x in row] for row in rows]


def products(left: list[list[Any]], right: list[list[Any]], dtype: Any) -> Iterator[list[Any]]:
    """1 + MLX's product of two matrices, flattened, for each operand in row-major and column-major order."""
    import mlx.core as mx

    with mx.stream(mx.cpu):
        a, b = mx.array(left, dtype=dtype), mx.array(right, dtype=dtype)
        for x in (a, mx.contiguous(a.T).T):
            for y in (b, mx.contiguous(b.T).T):
                one = mx.ones((len(left), len(right[0])), dtype=dtype)
                yield list(mx.addmm(one, x, y).flatten().tolist())  # type: ignore[arg-type]


def measure_gflops(size: int = 1024, repeats: int = 3) -> float:
    """GFLOP/s of a float32 (size, size) product on the CPU: the best of `repeats` runs."""
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


def adopt(choice: Library, slots: dict[str, list[int]]) -> BlasReport | None:
    """Switch MLX to a library; None if the machine does not have it. Raises Unusable."""
    found = examine(choice)
    if found is None:
        return None
    check_usable(choice, found)
    for name, value in choice.settings.items():
        os.environ.setdefault(name, value)
    library = ctypes.CDLL(found.path)
    functions = addresses(library, choice.prefix, list(slots))
    problem = rebind(slots, functions, wrong_product)
    if problem:
        raise Unusable(problem)
    home = mapping_of(functions["cblas_sgemm"], own_maps())
    threads = getattr(library, choice.prefix + choice.threads, None)
    return BlasReport(
        name=choice.name,
        version=".".join(map(str, found.version)),
        path=home.path if home else found.path,
        core=found.core or os.environ.get("MKL_CBWR", ""),
        threads=int(threads()) if threads is not None else None,
        gflops=round(measure_gflops(512), 1),
    )


def bound_library(slot: int) -> str:
    """Path of the library that a slot of cblas_sgemm points to after MLX has computed a product."""
    import mlx.core as mx

    with mx.stream(mx.cpu):  # with lazy binding a slot points to the loader until its first call
        mx.eval(mx.ones((4, 4)) @ mx.ones((4, 4)))
    home = mapping_of(read_slot(slot), own_maps())
    return home.path if home else ""


@functools.cache
def use_fast_blas() -> BlasReport:
    """Switch MLX's CPU products to the best BLAS available, once; later calls return the same report.

    Imports mlx.core. Problems with a library are never raised; the report's note describes them.
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
        return BlasReport(name=Path(bound).name, path=bound, note="mlx is already linked to it")
    return first_usable(libraries(), slots)


def first_usable(choices: tuple[Library, ...], slots: dict[str, list[int]]) -> BlasReport:
    """Adopt the first library that works; the note describes the problems of those before it."""
    notes: list[str] = []
    for choice in choices:
        try:
            report = adopt(choice, slots)
        except (Unusable, OSError) as error:
            notes.append(f"{choice.name} was not used: {error}")
            continue
        if report:
            return replace(report, note="; ".join(notes))
    notes.append("products run on mlx's slow BLAS; `pip install scipy-openblas32` makes them fast")
    return BlasReport(name=OWN, note="; ".join(notes))
