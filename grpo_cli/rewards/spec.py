"""One entry of `reward_functions`: the name of a built-in reward, or `path/to/file.py:function`.

    RewardSpec.parse("correctness_reward_func")  →  RewardSpec(file="", name="correctness")
    RewardSpec.parse("my/rewards.py:short")      →  RewardSpec(file="my/rewards.py", name="short")
    RewardSpec.parse("my/rewards.py")            →  RewardSpec(file="my/rewards.py", name=""): not named

The loader, the rules, the ranks and the evaluation all parse entries here.
"""

from pathlib import Path
from typing import NamedTuple


class RewardSpec(NamedTuple):
    """A parsed entry; it need not exist."""

    file: str  # as written; empty: a built-in reward
    name: str  # function name; empty: missing

    @staticmethod
    def parse(text: str) -> "RewardSpec":
        """Split an entry at its last colon. Every text can be parsed; the loader reports missing parts."""
        if text.endswith(".py"):
            return RewardSpec(text, "")
        file, _, name = text.rpartition(":")
        return RewardSpec(file, name) if file else RewardSpec("", text.removesuffix("_reward_func"))

    @property
    def is_file(self) -> bool:
        """True for code in a user's file, False for a built-in reward."""
        return bool(self.file)

    @property
    def path(self) -> Path:
        """The file, with `~` expanded."""
        return Path(self.file).expanduser()
