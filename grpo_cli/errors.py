"""Errors that the user can fix.

Every error has a message that says what failed, with the offending value, a hint that fixes it, and the name
of the chapter of `grpo doctor --explain` with more details. The command line prints them without a traceback.
Any other exception is a bug of this program and keeps its traceback.
"""


class GrpoError(Exception):
    """Base of all errors that the user can fix: `message` says what failed, `hint` how to fix it.

    `trouble`: the chapter that explains it; default is that of the error's class. `trace`: the traceback
    through the user's own code, if the failure is there.
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
    """A dataset that is missing or empty, or lacks a column."""

    trouble = "dataset"


class ModelError(GrpoError):
    """A model or tokenizer that cannot be loaded or does not fit its files."""

    trouble = "model-files"


class CheckpointError(GrpoError):
    """A checkpoint or run folder that cannot be written or read."""

    trouble = "checkpoint-files"


class RewardError(GrpoError):
    """A reward function that cannot be loaded, raises, or returns something that is not a reward."""

    trouble = "rewards"


class ToolError(GrpoError):
    """A tool or an environment that cannot be loaded or used."""

    trouble = "tools"


class TrainingError(GrpoError):
    """A training run that must stop."""

    trouble = "training-stopped"


class Interrupted(KeyboardInterrupt):
    """A signal that ends the program at once, unlike a KeyboardInterrupt that a reward raises itself."""


class Terminated(Interrupted):
    """SIGTERM or SIGHUP: ends the program, while Ctrl-C may end only its current work."""
