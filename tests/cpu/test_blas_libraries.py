"""The choice of a BLAS: the newest that works, examined in a child process."""

import importlib.util
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from grpo_cli.cpu import blas_libraries
from grpo_cli.cpu.blas_libraries import Examined, Library, check_usable, examine, is_intel, libraries
from grpo_cli.cpu.elf import Unusable

OPENBLAS = Library(name="openblas", paths=("libopenblas.so.0",))
MKL = Library(name="mkl", paths=("libmkl_rt.so.2",))
PACKAGE = "OpenBLAS 0.3.29.0.0 DYNAMIC_ARCH Haswell MAX_THREADS=64"


@pytest.mark.parametrize(
    ("config", "version"),
    [(PACKAGE, (0, 3, 29, 0, 0)), ("OpenBLAS 0.3.21 NO_LAPACKE", (0, 3, 21)), ("", ()), ("OpenBLAS", ())],
)
def test_a_version_is_read_from_the_description(config: str, version: tuple[int, ...]) -> None:
    assert Examined("lib", True, config).version == version


@pytest.mark.parametrize(
    ("config", "core"),
    [
        (PACKAGE, "Haswell"),
        ("OpenBLAS 0.3.34.481.3 DYNAMIC_ARCH NO_AFFINITY SkylakeX MAX_THREADS=64", "SkylakeX"),
        ("OpenBLAS 0.3.21 NO_LAPACKE DYNAMIC_ARCH Zen", "Zen"),
        ("OpenBLAS 0.3.21 NO_LAPACKE", ""),
        ("Math Kernel Library Version 2026.2", ""),
    ],
)
def test_the_kernels_are_those_of_a_processor_that_the_description_names(config: str, core: str) -> None:
    """They decide the last bits of a product, so a run records them."""
    assert Examined("lib", True, config).core == core


@pytest.mark.parametrize(
    ("system", "order"),
    [
        (Examined("so", True, "OpenBLAS 0.3.21 Haswell"), ["scipy-openblas32", "openblas", "mkl"]),
        (Examined("so", True, "OpenBLAS 0.3.30 Haswell"), ["openblas", "scipy-openblas32", "mkl"]),
        (Examined("so", True, PACKAGE), ["openblas", "scipy-openblas32", "mkl"]),  # the machine's own
        (Examined("so", False, "OpenBLAS 0.3.30 Haswell"), ["scipy-openblas32", "openblas", "mkl"]),
        (None, ["scipy-openblas32", "openblas", "mkl"]),
    ],
)
def test_the_newest_openblas_that_works_comes_first(
    monkeypatch: pytest.MonkeyPatch, system: Examined | None, order: list[str]
) -> None:
    """0.3.9 would be older than 0.3.21: versions are numbers."""
    found = {"openblas": system, "scipy-openblas32": Examined("package", True, PACKAGE)}
    monkeypatch.setattr(blas_libraries, "examine", lambda library: found.get(library.name))
    monkeypatch.setattr(blas_libraries, "is_intel", lambda: False)
    assert [library.name for library in libraries()] == order
    monkeypatch.setattr(blas_libraries, "is_intel", lambda: True)
    assert [library.name for library in libraries()] == ["mkl", *order[:2]]
    assert Examined("", True, "OpenBLAS 0.3.9").version < Examined("", True, "OpenBLAS 0.3.21").version


@pytest.mark.parametrize(
    ("facts", "expected"),
    [("vendor_id\t: GenuineIntel\n", True), ("vendor_id\t: AuthenticAMD\n", False), (None, False)],
)
def test_the_processor_is_intels_where_its_facts_say_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, facts: str | None, expected: bool
) -> None:
    if facts is not None:
        (tmp_path / "cpuinfo").write_text(facts)
    monkeypatch.setattr(blas_libraries, "CPU_FACTS", tmp_path / "cpuinfo")
    assert is_intel() is expected


# A library in the form of MKL's: a product of 1×1 matrices, and a version that is written into a buffer.
LIKE_MKL = """
#include <string.h>
void cblas_sgemm(int order, int ta, int tb, int m, int n, int k, float alpha, const float *a, int lda,
                 const float *b, int ldb, float beta, float *c, int ldc) { *c = *a * *b; }
void MKL_Get_Version_String(char *text, int length) { strncpy(text, "Library Version 2026.2", length); }
"""


@pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")
def test_mkl_tells_its_version_in_a_buffer(tmp_path: Path) -> None:
    source, built = tmp_path / "like_mkl.c", tmp_path / "like_mkl.so"
    source.write_text(LIKE_MKL)
    subprocess.run(["cc", "-shared", "-fPIC", "-o", str(built), str(source)], check=True)
    mkl = next(library for library in libraries() if library.name == "mkl")
    found = examine(replace(mkl, paths=(str(built),)))
    assert found is not None and found.works
    assert found.version == (2026, 2)


def test_a_library_of_64_bit_integers_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Unusable, match="64-bit integers"):
        check_usable(OPENBLAS, Examined("so", True, "OpenBLAS 0.3.21 USE64BITINT DYNAMIC_ARCH"))
    check_usable(OPENBLAS, Examined("so", True, "OpenBLAS 0.3.21 DYNAMIC_ARCH"))
    monkeypatch.setenv("MKL_INTERFACE_LAYER", "ILP64,GNU")
    with pytest.raises(Unusable, match="64-bit integers"):
        check_usable(MKL, Examined("so", True))
    check_usable(OPENBLAS, Examined("so", True))


@pytest.mark.skipif(not importlib.util.find_spec("scipy_openblas32"), reason="needs scipy-openblas32")
def test_the_package_is_examined_in_a_child_process() -> None:
    found = examine(next(library for library in libraries() if library.name == "scipy-openblas32"))
    assert found is not None and found.works
    assert found.config.startswith("OpenBLAS ")
    assert found.version >= (0, 3, 28)


def test_what_is_no_blas_does_not_work_and_what_is_absent_is_none() -> None:
    assert examine(Library(name="libm", paths=("libm.so.6",))) == Examined("libm.so.6", works=False)
    assert examine(Library(name="absent", paths=("libthere-is-no-such-blas.so.0", "/none/lib.so"))) is None
