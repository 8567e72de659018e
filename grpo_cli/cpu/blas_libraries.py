"""The BLAS libraries of a machine, and the order in which they are tried.

    [library, *others] = libraries()       # Library(name='scipy-openblas32', version='0.3.29', …)

On Intel's processors MKL comes first, where it is installed (`pip install mkl`), elsewhere last. Next is
the newest OpenBLAS, be it the system's or that of the package scipy-openblas32: an old one may lack the
kernels of a newer processor.

A library is examined in a child process: MKL ends the process if a part of it is missing, and a build for
another processor crashes with an illegal instruction.
"""

import functools
import importlib.util
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from grpo_cli.cpu.elf import Unusable

CPU_FACTS = Path("/proc/cpuinfo")
ABSENT = 3  # exit code of the child process for a library that the machine does not have


@dataclass(frozen=True, kw_only=True)
class Library:
    """A CBLAS library with 32-bit integers: its paths, and the names of its functions."""

    name: str
    paths: tuple[str, ...]  # tried in this order; a bare file name is looked up by the loader
    prefix: str = ""
    threads: str = "openblas_get_num_threads"
    config: str = "openblas_get_config"
    settings: Mapping[str, str] = field(default_factory=dict, hash=False)  # of the environment, where unset


@dataclass(frozen=True)
class Examined:
    """A library that exists: its path, a correct product in a child process, and its own description."""

    path: str
    works: bool
    config: str = ""  # such as "OpenBLAS 0.3.29 DYNAMIC_ARCH Haswell"

    @property
    def version(self) -> tuple[int, ...]:
        """(0, 3, 29); empty if its description names none."""
        found = re.search(r"\d+(?:\.\d+)+", self.config)
        return tuple(int(part) for part in found[0].split(".")) if found else ()

    @property
    def core(self) -> str:
        """The kind of processor that OpenBLAS computes for; empty if its description names none."""
        found = re.search(r"DYNAMIC_ARCH.* (\w+)(?: MAX_THREADS=\d+)?$", self.config)
        return found[1] if found else ""


# Spinning time of OpenBLAS's idle threads, as a power of two of cycles (default 26), and of MKL's, in
# milliseconds (default 200). Spinning threads use up their CPU time on a busy machine, and every product then
# waits for one of them.
OPENBLAS_SETTINGS = {"OPENBLAS_THREAD_TIMEOUT": "20"}
# STRICT: the same bits wherever in memory an array lies, and however many threads. It is not slower.
MKL_SETTINGS = {"KMP_BLOCKTIME": "1", "MKL_CBWR": "AUTO,STRICT"}


def libraries() -> tuple[Library, ...]:
    """The libraries to try, in order."""
    beside = Path(sys.prefix, "lib")  # conda, and MKL's package on PyPI
    names = ("libmkl_rt.so.3", "libmkl_rt.so.2")
    mkl = Library(
        name="mkl",
        paths=names + tuple(str(beside / name) for name in names),
        threads="MKL_Get_Max_Threads",
        config="MKL_Get_Version_String",
        settings=MKL_SETTINGS,
    )
    spec = importlib.util.find_spec("scipy_openblas32")
    folders = (spec.submodule_search_locations or []) if spec else []
    system = Library(
        name="openblas",
        paths=("libopenblas.so.0", str(beside / "libopenblas.so.0")),
        settings=OPENBLAS_SETTINGS,
    )
    package = Library(
        name="scipy-openblas32",
        paths=tuple(
            str(path) for folder in folders for path in Path(folder, "lib").glob("libscipy_openblas*.so")
        ),
        prefix="scipy_",
        settings=OPENBLAS_SETTINGS,
    )
    newest_first = sorted((system, package), key=lambda library: version_of(library), reverse=True)
    return (mkl, *newest_first) if is_intel() else (*newest_first, mkl)


def is_intel() -> bool:
    """True on a Linux machine with a processor of Intel's."""
    return CPU_FACTS.exists() and "GenuineIntel" in CPU_FACTS.read_text(errors="replace")


def version_of(library: Library) -> tuple[int, ...]:
    """The version of an installed library; empty if there is none, or it does not work."""
    found = examine(library)
    return found.version if found and found.works else ()


@functools.cache
def examine(library: Library) -> Examined | None:
    """Examine the first of the library's paths that the machine has; None if it has none."""
    for path in library.paths:
        if os.sep in path and not Path(path).exists():
            continue
        command = [sys.executable, "-I", "-S", "-c", PROGRAM, path, library.prefix, library.config]
        try:
            child = subprocess.run(command, capture_output=True, timeout=60, check=False)
        except (OSError, subprocess.TimeoutExpired):
            return Examined(path, works=False)
        if child.returncode != ABSENT:
            config = child.stdout.decode(errors="replace").strip()
            return Examined(path, works=child.returncode == 0, config=config)
    return None


# A 1×1 product. Prints the library's description, if it has one.
PROGRAM = """
import ctypes, sys
path, prefix, config = sys.argv[1:]
try:
    library = ctypes.CDLL(path)
except OSError:
    sys.exit(3)
describe = getattr(library, prefix + config, None)
if describe is not None and config.startswith("MKL"):
    text = ctypes.create_string_buffer(200)
    describe(text, len(text))
    print(text.value.decode(errors="replace"), flush=True)
elif describe is not None:
    describe.restype = ctypes.c_char_p
    print((describe() or b"").decode(errors="replace"), flush=True)
gemm = getattr(library, prefix + "cblas_sgemm")
x, out, f = (ctypes.c_float * 1)(3), (ctypes.c_float * 1)(), ctypes.c_float
gemm(101, 111, 111, 1, 1, 1, f(1), x, 1, x, 1, f(0), out, 1)
sys.exit(out[0] != 9)
"""


def check_usable(library: Library, found: Examined) -> None:
    """Raise Unusable if the library uses 64-bit sizes, which MLX does not pass, or fails in a product."""
    wide_mkl = library.name == "mkl" and "ILP64" in os.environ.get("MKL_INTERFACE_LAYER", "").upper()
    if wide_mkl or "USE64BITINT" in found.config:
        raise Unusable("it is built for 64-bit integers")
    if not found.works:
        raise Unusable("a product in a child process failed")
