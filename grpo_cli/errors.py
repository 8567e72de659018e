"""What can go wrong for a reason a person can mend.

Every error here carries the sentence that says what failed, with the offending value in it, and a
hint that cures it, and names the chapter of `grpo doctor --explain` that goes on from there. The command
line prints them without a traceback; any other exception is a bug of ours and keeps its traceback.
"""


class GrpoError(Exception):
    """A failure a person can act on: `message` says what failed, `hint` how to cure it.

    `trouble` is the chapter that explains it; without one, the chapter of the error's family. `trace` is the
    traceback through a person's own code, where the failure is in that.
    """

    exit_code = 1
    trouble = ""

    def __init__(self, message: str, hint: str = "", *, trouble: str = "", trace: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.trouble = trouble or self.trouble
        self.trace = trace

    def __str__(self) -> str:
        return f"{self.message}\n\nhint: {self.hint}" if self.hint else self.message


class ConfigError(GrpoError):
    """A configuration file, key or value that cannot be used."""

    exit_code = 2
    trouble = "configuration"


class DataError(GrpoError):
    """A dataset that is missing, empty or lacks a column."""

    trouble = "dataset"


class ModelError(GrpoError):
    """A model or tokenizer that cannot be loaded or does not fit its files."""

    trouble = "model-files"


class CheckpointError(GrpoError):
    """A checkpoint or run folder that cannot be written or read."""

    trouble = "checkpoint-files"


class RewardError(GrpoError):
    """A reward function that cannot be loaded, raises, or returns something that is no reward."""

    trouble = "rewards"


class TrainingError(GrpoError):
    """A training run that must stop."""

    trouble = "training-stopped"


class Interrupted(KeyboardInterrupt):
    """A signal that ends the work at once, unlike a KeyboardInterrupt that a reward raises by itself."""


class Terminated(Interrupted):
    """SIGTERM or SIGHUP: the program is to end, where a Ctrl-C may mean only what it is doing."""
