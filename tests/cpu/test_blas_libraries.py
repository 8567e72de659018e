"""The choice of a BLAS: the newest that works, examined in a child process."""

import importlib.util

import pytest

from grpo_cli.cpu import blas_libraries
from grpo_cli.cpu.blas_libraries import Examined, Library, check_usable, examine, libraries
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
    assert [library.name for library in libraries()] == order
    assert Examined("", True, "OpenBLAS 0.3.9").version < Examined("", True, "OpenBLAS 0.3.21").version


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
