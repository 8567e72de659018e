"""The zip container of a .pt file: its records, mapped into memory and checked, never unpacked.

torch stores records uncompressed and aligned. Sizes are in the central directory; where a record's
bytes begin follows from its local header, whose name and extra field have lengths of their own.
"""

import mmap
import struct
import zipfile
import zlib
from pathlib import Path
from types import TracebackType
from typing import Self

from grpo_cli.convert.errors import ConversionError
from grpo_cli.models.pickle_reader import shown

# Magic number of torch's format before 1.6, pickled.
LEGACY = bytes.fromhex("80028a0a6cfc9c46f9206aa850192e")
LOCAL_HEADER = struct.Struct("<4s22xHH")
ENCRYPTED = 0x1
CHUNK = 16 << 20  # bytes checked or copied at a time
DAMAGED_ZIP = (
    zipfile.BadZipFile,
    NotImplementedError,
    OSError,
    OverflowError,
    ValueError,
    struct.error,
)
DOWNLOAD_AGAIN = "download or copy the file again"


class TorchZip:
    """The records of one .pt file by their names below its root folder, such as `data/0`.

    A context manager. Raises ConversionError for a file that is missing, a folder, of another format or
    damaged.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._checked: set[str] = set()
        _check_kind(path)
        try:
            with path.open("rb") as file:
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except OSError as error:
            raise ConversionError(f"cannot read {path}: {error.strerror}") from error
        try:
            self._records = self._directory()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Unmap the file, or leave that to the last array that still uses it."""
        try:
            self._map.close()
        except BufferError:
            return

    def __contains__(self, name: str) -> bool:
        return name in self._records

    def size(self, name: str) -> int:
        """Size of a record in bytes."""
        return self._record(name).file_size

    def record(self, name: str) -> memoryview:
        """A record's bytes in the mapped file, after checking its checksum.

        Pages of earlier records are released, so that only one record stays resident.
        """
        entry = self._record(name)
        self.release_pages()
        start = self._start(entry)
        if name not in self._checked:
            self._check_sum(start, entry)
            self._checked.add(name)
        return memoryview(self._map)[start : start + entry.file_size]

    def release_pages(self) -> None:
        """Release the pages read so far; they are read again when needed."""
        self._map.madvise(mmap.MADV_DONTNEED)

    def _record(self, name: str) -> zipfile.ZipInfo:
        if name not in self._records:
            raise ConversionError(f"{self.path} has no record {shown(name)}", DOWNLOAD_AGAIN)
        return self._records[name]

    def _directory(self) -> dict[str, zipfile.ZipInfo]:
        """The central directory without the root folder, which is the original file's stem or `archive`."""
        try:
            with zipfile.ZipFile(self.path) as archive:
                entries = archive.infolist()
        except DAMAGED_ZIP as error:
            raise ConversionError(
                f"{self.path} is cut off or damaged (its zip directory cannot be read)", DOWNLOAD_AGAIN
            ) from error
        names = [entry.orig_filename for entry in entries]
        roots = [name.removesuffix("data.pkl") for name in names if name.count("/") == 1]
        roots = [root for root in roots if root.endswith("/")]
        if len(roots) != 1 or len(set(names)) != len(names):
            raise ConversionError(
                f"{self.path} is a zip file but not a PyTorch checkpoint (it needs one data.pkl)"
            )
        return {entry.orig_filename.removeprefix(roots[0]): entry for entry in entries}

    def _start(self, entry: zipfile.ZipInfo) -> int:
        """Offset of a record's bytes, from its local header."""
        name = entry.orig_filename
        if entry.compress_type != zipfile.ZIP_STORED or entry.compress_size != entry.file_size:
            raise self._damaged(name, "is compressed, which torch never does")
        if entry.flag_bits & ENCRYPTED:
            raise self._damaged(name, "is encrypted")
        at = entry.header_offset
        if at < 0 or at + LOCAL_HEADER.size > len(self._map):
            raise self._damaged(name, "lies past the end of the file")
        signature, name_length, extra_length = LOCAL_HEADER.unpack_from(self._map, at)
        name_at = at + LOCAL_HEADER.size
        if signature != b"PK\x03\x04" or self._map[name_at : name_at + name_length] != _raw_name(entry):
            raise self._damaged(name, "is not where the zip directory says")
        start = name_at + name_length + extra_length
        if start + entry.file_size > len(self._map):
            raise self._damaged(name, "lies past the end of the file")
        return int(start)

    def _check_sum(self, start: int, entry: zipfile.ZipInfo) -> None:
        """Check the CRC-32 chunk by chunk, releasing pages that were read."""
        crc = 0
        end = start + entry.file_size
        with memoryview(self._map) as whole:
            for at in range(start, end, CHUNK):
                with whole[at : min(at + CHUNK, end)] as chunk:
                    crc = zlib.crc32(chunk, crc)
                self.release_pages()
        if crc != entry.CRC:
            raise self._damaged(
                entry.orig_filename, f"does not match its checksum ({crc:08x}, not {entry.CRC:08x})"
            )

    def _damaged(self, name: str, what: str) -> ConversionError:
        return ConversionError(f"{self.path} is damaged: its record {shown(name)} {what}", DOWNLOAD_AGAIN)


def _raw_name(entry: zipfile.ZipInfo) -> bytes:
    """The name as spelled in the zip file; flag bit 11 means UTF-8."""
    return entry.orig_filename.encode("utf-8" if entry.flag_bits & 0x800 else "cp437")


def _check_kind(path: Path) -> None:
    """Raise ConversionError that identifies a file that is not a zip."""
    if path.exists() and not path.is_file():
        raise ConversionError(f"{path} is {'a folder' if path.is_dir() else 'a device'}, not a .pt file")
    try:
        with path.open("rb") as file:
            first = file.read(64)
    except FileNotFoundError:
        raise ConversionError(f"{path} does not exist") from None
    except OSError as error:
        raise ConversionError(f"cannot read {path}: {error.strerror}") from error
    if not first:
        raise ConversionError(f"{path} is empty", DOWNLOAD_AGAIN)
    if first.startswith(LEGACY):
        raise ConversionError(
            f"{path} was saved in the format of PyTorch before 1.6",
            "save it again where torch is installed: `torch.save(torch.load(old, weights_only=True), new)`",
        )
    if first.startswith(b"version https://git-lfs"):
        raise ConversionError(f"{path} is only a Git LFS pointer to the file", "fetch it: `git lfs pull`")
    if not first.startswith(b"PK\x03\x04"):
        raise ConversionError(
            f"{path} is not a PyTorch checkpoint (it does not begin like a zip file)", DOWNLOAD_AGAIN
        )
