"""The journal of environments' answers: answers.jsonl in a run's folder, one line per answered turn.

    answers = AnswerJournal(folder, rank=0, scope=scope_of(run), vocabulary=49152)
    session = answers.recorded(session, at=40, row=3, prompt=ids)    # its environment records and replays
    answers.passed(40)                                               # a checkpoint was saved there

A run that was killed in the middle of a step resumes at its last checkpoint and samples the same tokens
again. The answers that it was given are then replayed from here, and no tool is called twice for them
(environments/recorded.py says for which environments). Each line is written at once, so that it survives the
end of the process; a line that was not written to its end is left out, and the turn is asked again.

Lines from before the last checkpoint but one are removed at each checkpoint. Each rank that has the run's
folder writes a file of its own, and all read all of them. A file of LARGEST bytes takes no further lines.
A received run folder may hold anything: lines are bounded in size, in all and validated; others are left out.
"""

import contextlib
import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

from grpo_cli.engine.run_dir.answer_files import NAME, PATTERN, remove_answers
from grpo_cli.engine.run_dir.log import LogFile
from grpo_cli.environments.recorded import (
    Place,
    Record,
    RecordedEnvironment,
    can_be_recorded,
    extended,
)
from grpo_cli.environments.session import Session
from grpo_cli.files import open_regular, write_file
from grpo_cli.untrusted_json import DamagedFile, checked, parse_object

LARGEST, LONGEST_LINE = 128 << 20, 1 << 20  # bytes

Key = tuple[int, int, int, bool]  # at, row, turn, is_end


class AnswerJournal:
    """The answers of a run since its last checkpoints. Used by several threads at once."""

    def __init__(
        self,
        folder: Path,
        *,
        rank: int = 0,
        scope: str,
        vocabulary: int,
        position: int = 0,
        is_new: bool = False,
    ) -> None:
        """`scope`: a digest of the settings that answers depend on. `vocabulary`: ids are below it.

        `position`: the run's place in the stream of prompts. `is_new`: the run begins; remove older journals.
        """
        self.folder = folder
        self.path = folder / (NAME if rank == 0 else f"answers-{rank}.jsonl")
        self.scope, self.vocabulary = scope, vocabulary
        self.lock = threading.Lock()
        self.records: dict[Key, Record] = {}
        self.file: LogFile | None = None
        self.saved_at = position  # at the last checkpoint
        self.refusal: OSError | None = None  # the reason if nothing is recorded any more
        if is_new:
            remove_answers(folder if rank == 0 else self.path)
        else:
            self.load()

    def recorded(self, session: Session | None, at: int, row: int, prompt: list[int]) -> Session | None:
        """The session with an environment that is recorded and replayed, if it is of such a kind."""
        if session is None or not can_be_recorded(session.environment):
            return session
        digest = extended(self.scope, prompt)
        environment = RecordedEnvironment(session.environment, self, Place(at, row), digest)
        return replace(session, environment=environment)

    def find(self, at: int, row: int, turn: int, is_end: bool = False) -> Record | None:
        """The record of a turn; None if there is none."""
        return self.records.get((at, row, turn, is_end))

    def add(self, record: dict[str, Any]) -> None:
        """Write a record. One that would not be read again is left out."""
        try:
            line = json.dumps(record).encode()
        except (TypeError, ValueError, RecursionError):  # a reply that is not JSON
            return
        found = self.read(line)
        if found is None or found.model_dump(exclude_unset=True) != json.loads(line):
            return
        with self.lock:
            self.records[key_of(found)] = found
            self.write(line + b"\n")

    def write(self, line: bytes) -> None:
        """Append a line. If the disk refuses it, nothing is recorded from then on."""
        if self.refusal is not None or not self.folder.is_dir():  # a rank on another machine has no folder
            return
        try:
            self.file = self.file or opened(self.path)
            if self.file.position + len(line) <= LARGEST:
                self.file.add(line)
            self.refusal = self.file.refusal
        except OSError as error:
            self.refusal = error

    def passed(self, position: int) -> None:
        """Remove what came before the last checkpoint but one. A checkpoint was saved at `position`.

        The last but one may be needed: the newest may be damaged, or still be written by rank 0.
        """
        with self.lock:
            kept, self.saved_at = self.saved_at, position
            self.records = {key: record for key, record in self.records.items() if record.at >= position}
            if self.file is None and not self.path.is_file():
                return
            self.close()
            try:
                lines = [line for line in lines_of(self.path) if (one := self.read(line)) and one.at >= kept]
                write_file(self.path, b"".join(line + b"\n" for line in lines))
            except OSError as error:
                self.refusal = error

    def follow(self, folder: Path) -> None:
        """Go on in this folder, to which the run's was moved."""
        with self.lock:
            self.folder, self.path = folder, folder / self.path.name

    def load(self) -> None:
        """Read the answers of all ranks."""
        left = LARGEST
        for path in sorted(self.folder.glob(PATTERN)):
            with contextlib.suppress(OSError):  # a folder or a pipe, which is not ours
                for line in lines_of(path, left):
                    left -= len(line)
                    if (record := self.read(line)) and record.at >= self.saved_at:
                        self.records[key_of(record)] = record

    def read(self, line: bytes) -> Record | None:
        """The record of a line; None if it is not one."""
        try:
            record = checked(Record, parse_object(line)) if len(line) < LONGEST_LINE else None
        except DamagedFile:
            return None
        ids = record.reply.token_ids if record and record.reply else []
        return record if all(number < self.vocabulary for number in ids) else None

    def close(self) -> None:
        """Close the file."""
        if self.file is not None:
            self.file.close()
            self.file = None

    def remove(self) -> None:
        """Delete the file: the run is complete."""
        with self.lock:
            self.close()
            remove_answers(self.path)


def scope_of(*settings: Any) -> str:
    """The digest of the settings that answers depend on."""
    return sha256(json.dumps(settings, sort_keys=True, default=repr).encode()).hexdigest()


def key_of(record: Record) -> Key:
    """A record's place."""
    return record.at, record.row, record.turn, record.is_end


def lines_of(path: Path, most: int = LARGEST) -> Iterator[bytes]:
    """The whole lines in the first `most` bytes of a journal. Raises OSError if it is not a regular file."""
    with open_regular(path) as file:
        while file.tell() < most and (line := file.readline(LONGEST_LINE)):
            if line.endswith(b"\n"):
                yield line[:-1]


def opened(path: Path) -> LogFile:
    """The journal, opened for appending. A line that was not written to its end is closed."""
    file = LogFile(path, None)
    if file.position and not ends_line(path):
        file.add(b"\n")
    return file


def ends_line(path: Path) -> bool:
    """True if a file's last byte ends a line."""
    with open_regular(path) as file:
        file.seek(-1, 2)
        return file.read() == b"\n"
