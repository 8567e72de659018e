"""Problems of a configuration as data: text for people, rows for `--json`."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from grpo_cli.errors import ConfigError
from grpo_cli.foreign_text import quoted

COMMAND_LINE = "--set"


@dataclass(frozen=True)
class Place:
    """Location of a value: file (as the user named it) and line, or `--set`."""

    source: str
    line: int | None = None

    def __str__(self) -> str:
        return f"{self.source}:{self.line}" if self.line else self.source


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One problem to fix. `message` is one searchable line; `cure` says what to write instead."""

    message: str
    cure: str
    key: str = ""  # empty: the whole file
    place: Place | None = None
    severity: Literal["error", "warning"] = "error"
    trouble: str = "configuration"  # the guide's chapter that explains it

    @property
    def located_cure(self) -> str:
        """The cure, prefixed with file and line; a `--set` cure names the option itself."""
        if self.place is None or self.place.source == COMMAND_LINE:
            return self.cure
        return f"{self.place}: {self.cure}"

    def __str__(self) -> str:
        return f"{self.message}\n  {self.located_cure}"

    def as_row(self) -> dict[str, Any]:
        """The row for `--json`: file, line, key, message, cure, severity, trouble."""
        row = asdict(self)
        del row["place"]
        place = self.place or Place("")
        return {"file": place.source or None, "line": place.line, **row}


def config_error(problems: Sequence[Problem], name: str) -> ConfigError:
    """One error for all problems of the configuration `name`; it begins with the first one's text."""
    if len(problems) == 1:
        return ConfigError(problems[0].message, problems[0].located_cure, trouble=problems[0].trouble)
    check = f", then check with `grpo config validate {quoted(name)}`" if name else ""
    hint = f"fix all {len(problems)} problems{check}"
    troubles = {problem.trouble for problem in problems}
    trouble = troubles.pop() if len(troubles) == 1 else "configuration"
    return ConfigError("\n\n".join(map(str, problems)), hint, trouble=trouble)
