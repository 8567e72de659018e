"""Saving of checkpoints during a run, and deletion of old ones once a newer one is complete.

saver.save(snapshot)            # checkpoint-<step>; False: it failed, with a notice; the run continues
saver.save_final(snapshot)      # `final`; a failure ends the run
"""

import shutil
from dataclasses import dataclass, field
from pathlib import Path

from grpo_cli.engine import events
from grpo_cli.engine.recovery import RowLimit
from grpo_cli.engine.run_dir.answers import AnswerJournal
from grpo_cli.engine.run_dir.checkpoint import Snapshot, check_space, save_checkpoint
from grpo_cli.engine.run_dir.folder import words_for_the_disk, write_config
from grpo_cli.engine.run_dir.lock import RunLock
from grpo_cli.engine.run_dir.log import RunLog
from grpo_cli.engine.run_dir.manifest import FINAL, checkpoints
from grpo_cli.engine.run_dir.rollout_log import RolloutLog
from grpo_cli.engine.run_dir.run_state import read_state
from grpo_cli.errors import CheckpointError
from grpo_cli.files import from_here
from grpo_cli.folders import remove
from grpo_cli.foreign_text import quoted

MOST_FAILURES = 3  # failed saves in a row that end the run
MOVED = "the run's folder {folder} was moved to {place}: the run continues there"
DELETED = "the run's folder {folder} was deleted: it was created again; files written before are not in it"


@dataclass(kw_only=True)
class Saver:
    """Saves the checkpoints of a run in the locked folder, and keeps the newest `keep` and the best.

    A folder that is moved during the run is followed, and one that is deleted is created again. `folder` is
    absolute, since a reward may change the current folder; `shown` is its short form for messages.
    """

    lock: RunLock
    keep: int
    log: RunLog
    listener: events.Listener
    failures: int = 0  # failed saves in a row
    has_told: bool = False  # that answers are not recorded
    saved_step: int = -1  # step of the latest checkpoint saved
    writes: bool = True  # False on all ranks but 0
    limit: RowLimit = field(default_factory=RowLimit)  # answers failures of the device
    rollouts: RolloutLog | None = None
    answers: AnswerJournal | None = None  # what it holds is no longer needed two checkpoints later

    def __post_init__(self) -> None:
        self._name(self.lock.folder)

    def _name(self, folder: Path) -> None:
        self.folder = folder
        self.shown = from_here(folder)
        if self.answers:
            self.answers.follow(folder)
        self.resume_command = f"grpo resume {quoted(self.shown)}"

    def save(self, snapshot: Snapshot) -> bool:
        """Save `checkpoint-<step>` and delete old checkpoints. False if saving failed.

        A failure is reported by a notice. Raises CheckpointError for the third failure in a row.
        """
        if not self.writes:
            self.pass_answers(snapshot)
            return True
        try:
            self._write(f"checkpoint-{snapshot.state.step}", snapshot)
        except CheckpointError as error:
            self.failures += 1
            if self.failures == MOST_FAILURES:
                raise CheckpointError(
                    f"{error.message}; that is {MOST_FAILURES} times in a row",
                    f"{error.hint}; then `{self.resume_command}`",
                    trouble="cannot-save",
                ) from error
            self.listener(
                events.Notice(f"{error.message}. Training continues and tries again at the next checkpoint.")
            )
            return False
        self.failures = 0
        self.remove_old()
        self.pass_answers(snapshot)
        return True

    def pass_answers(self, snapshot: Snapshot) -> None:
        """Shorten the journal of answers after a checkpoint."""
        if self.answers:
            self.answers.passed(snapshot.state.prompts_used)
            if self.answers.refusal and not self.has_told:
                self.has_told = True
                reason = self.answers.refusal.strerror
                self.listener(events.Notice(f"what environments answer is no longer recorded: {reason}"))

    def check_room(self, snapshot: Snapshot) -> None:
        """Compare the free disk space with the size of the run's checkpoints, before the first step.

        Raises CheckpointError if not even one checkpoint fits; a notice warns if not all of them will.
        """
        if not self.writes:
            return
        check_space(self.folder, snapshot.size)
        config = snapshot.config
        # The best by evaluation is kept, too, and a new one is written before an old one is deleted.
        more = self.keep + 2 if config.save_steps else 0
        needed = (more + 1) * snapshot.size
        free = shutil.disk_usage(self.folder).free
        if free < needed:
            self.listener(
                events.Notice(
                    f"the run will keep up to {needed / 1e9:.2f} GB of checkpoints, and {self.shown} has "
                    f"{free / 1e9:.2f} GB free: lower `keep_checkpoints` or choose another `output_dir`"
                )
            )

    def save_final(self, snapshot: Snapshot) -> Path:
        """Save `final`. Raises CheckpointError on failure, since there is no later attempt."""
        try:
            if self.writes:
                self._write(FINAL, snapshot)
        except CheckpointError as error:
            error.hint += f"; then `{self.resume_command}` saves it"
            raise
        return self.folder / FINAL

    def rescue(self, snapshot: Snapshot) -> Path:
        """Save `checkpoint-<step>` when the run ends. Raises CheckpointError on failure."""
        name = f"checkpoint-{snapshot.state.step}"
        if self.writes:
            self._write(name, snapshot)
        return self.folder / name

    def _write(self, name: str, snapshot: Snapshot) -> None:
        self._find_folder(snapshot)
        try:
            self.log.sync()  # the checkpoint stores the lengths of the logs
        except OSError as error:
            raise CheckpointError(
                f"Failed to save checkpoint: the log: {self.log.refusal or error.strerror}",
                f"check the disk of {self.shown}",
                trouble="cannot-save",
            ) from error
        self._try(self.folder / name, snapshot)
        self.saved_step = snapshot.state.step
        self.listener(events.CheckpointSaved(snapshot.state.step, self.shown / name))

    def _try(self, path: Path, snapshot: Snapshot) -> None:
        """Save, and try again where the device fails (recovery.py)."""
        while True:
            try:
                save_checkpoint(path, snapshot)
            except (RuntimeError, MemoryError) as error:
                self.limit.answer(error, 1, divisible=False)
            else:
                return self.limit.succeeded()

    def _find_folder(self, snapshot: Snapshot) -> None:
        """Follow the run's folder if it was moved; create it again, with the config, if it was deleted."""
        before = self.shown
        with words_for_the_disk(self.folder):
            folder = self.lock.follow()
        if folder is None:
            self.lock.make_again()
            with words_for_the_disk(self.folder):
                write_config(self.folder, snapshot.config)
                self.log.write_to(self.folder)
                if self.rollouts:
                    self.rollouts.write_to(self.folder)
            self.listener(events.Notice(DELETED.format(folder=before)))
        elif folder != self.folder:
            self._name(folder)
            self.listener(events.Notice(MOVED.format(folder=before, place=self.shown)))

    def remove_old(self) -> None:
        """Delete all but the newest checkpoints and the best by evaluation; `final` always stays."""
        numbered = [path for path in checkpoints(self.folder) if path.name != FINAL]
        best = best_of(numbered)
        for path in numbered[: -self.keep]:
            if path != best:
                remove(path)


def best_of(folders: list[Path]) -> Path | None:
    """The checkpoint with the highest accuracy in the evaluation after its step; the newest if equal."""
    best: tuple[float, Path] | None = None
    for folder in folders:
        try:
            evaluation = read_state(folder)[0].evaluation
        except CheckpointError:  # a damaged checkpoint cannot be the best
            continue
        accuracy = evaluation.get("eval_accuracy") if evaluation else None
        if accuracy is not None and (best is None or accuracy >= best[0]):
            best = (accuracy, folder)
    return best[1] if best else None
