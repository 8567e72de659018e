"""The slots through which libmlx.so calls its BLAS: located in the ELF file, rewritten in memory.

A shared library calls an imported function through a slot of its global offset table, which the loader fills
once. The file's relocations say which slot belongs to which function. This module finds these slots, checks
them, and writes other addresses into them.

Sources: the ELF-64 object file format; the psABIs of x86-64 and AArch64 for the relocation types.
"""

import ctypes
import mmap
import struct
from itertools import takewhile
from pathlib import Path
from typing import Any, NamedTuple


class Unusable(Exception):
    """A library or a file layout that cannot be used; the text becomes the report's note."""


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
    """The memory map of this process."""
    return parse_maps(Path("/proc/self/maps").read_text())


def mapping_of(address: int, maps: list[Mapping]) -> Mapping | None:
    """The mapping that contains an address; None if there is none."""
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
    """The program headers of an ELF file's bytes. Raises Unusable if it is not a 64-bit ELF file."""
    if elf[:6] != b"\x7fELF\x02\x01":
        raise Unusable("not a 64-bit little-endian ELF file")
    (table,) = struct.unpack_from("<Q", elf, 32)
    size, count = struct.unpack_from("<HH", elf, 54)
    rows = [struct.unpack_from("<IIQQQQ", elf, table + i * size) for i in range(count)]
    return [Segment(kind, offset, address, length) for kind, _, offset, address, _, length in rows]


def imported_slots(elf: Any, prefix: str = "cblas_") -> dict[str, list[int]]:
    """Slots of the imported functions whose names begin with `prefix`, by name, as addresses in the file.

    Raises Unusable, struct.error, KeyError or StopIteration for a file with another layout.
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
    """The offset from the file's addresses to those in memory. Raises Unusable."""
    first = next(part for part in parts if part.kind == PT_LOAD)
    page = mmap.PAGESIZE
    for mapping in maps:
        if mapping.path == path and mapping.offset == first.offset // page * page:
            return mapping.start - first.address // page * page
    raise Unusable(f"{path} is not mapped from its beginning")


def libmlx_slots(maps: list[Mapping]) -> dict[str, list[int]]:
    """Memory addresses of the slots of libmlx.so for the BLAS functions it calls, by name.

    Raises Unusable if it is not loaded or has an unexpected layout.
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
    """Raise Unusable unless `slot` is within the library's own data and points to code."""
    mapping = mapping_of(slot, maps)
    if slot % 8 or mapping is None or mapping.path != path or "r" not in mapping.permissions:
        raise Unusable(f"{path} keeps a function's address in an unexpected place")
    target = mapping_of(read_slot(slot), maps)
    if target is None or "x" not in target.permissions:
        raise Unusable(f"{path} keeps something else where a function's address should be")


def read_slot(slot: int) -> int:
    """The address stored in a slot."""
    return ctypes.c_uint64.from_address(slot).value


def write_slots(values: dict[int, int]) -> None:
    """Write addresses into slots, {slot: address}. Raises OSError if a page cannot be made writable.

    The table is read-only in a library that binds its functions at load time; that protection is restored.
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
