"""An output file named by the user: checked before the work, written in one go after it.

    file = OutputFile(Path("all.jsonl"), force=False)      # GrpoError at once if it exists
    ...                                                    # minutes of work
    file.write(text)

An existing file is refused unless it is empty, an earlier result of the same kind, or `force` is set. It
then stays until the new one is complete.
"""

import errno
import os
from collections.abc import Callable
from pathlib import Path

from grpo_cli.errors import ConfigError, GrpoError
from grpo_cli.files import chosen_path, write_file
from grpo_cli.foreign_text import quoted


class OutputFile:
    """The destination of a result. Symbolic links are followed; devices and pipes are written directly."""

    def __init__(
        self,
        named: Path,
        *,
        force: bool,
        cannot: str = "Cannot write",
        exists: str = "Output file exists",
        replace: str = "`--force` replaces it once the result is complete; or choose another file",
        is_earlier: Callable[[Path], bool] = lambda _: False,
        error: type[GrpoError] = GrpoError,
    ) -> None:
        """Raise ConfigError for an existing file that is not an earlier result, `error` if it cannot be
        written; `cannot` and `exists` begin the messages, `replace` is the hint.
        """
        self.named, self.cannot, self.error = named, cannot, error
        self.path = chosen_path(named).resolve()
        try:
            if not force and self.has_content and not is_earlier(self.path):
                raise ConfigError(f"{exists}: {named}", replace, trouble="config-exists")
            self._check_folder()
        except OSError as error:
            raise self._refused(error) from None

    def write(self, content: str) -> None:
        """Write the content. Raises GrpoError if that fails."""
        data = content.encode(errors="replace")
        try:
            if self.is_stream:
                self.path.write_bytes(data)
            else:
                write_file(self.path, data)
        except OSError as error:
            raise self._refused(error) from None

    @property
    def has_content(self) -> bool:
        """True if the file exists and is not empty."""
        return self.path.is_file() and self.path.stat().st_size > 0

    @property
    def is_stream(self) -> bool:
        """True for a device or a pipe, such as /dev/stdout."""
        return self.path.exists() and not self.path.is_file() and not self.path.is_dir()

    def _check_folder(self) -> None:
        folder = self.path.parent
        folder.stat()
        if self.path.is_dir():
            raise IsADirectoryError(errno.EISDIR, "Is a directory")
        if not self.is_stream and not os.access(folder, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, f"Permission denied in {folder}")

    def _refused(self, error: OSError) -> GrpoError:
        there = next(path for path in self.path.parents if path.exists())
        hint = f"`mkdir -p {quoted(self.named.parent)}` makes the folder"
        if not there.is_dir() or there == self.path.parent:
            hint = "choose a file in a writable folder"
        return self.error(f"{self.cannot} {self.named}: {error.strerror}", hint, trouble="config-exists")
