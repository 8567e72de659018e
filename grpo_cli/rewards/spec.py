"""One entry of `reward_functions`: the name of a built-in reward, or `path/to/file.py:function`.

    RewardSpec.parse("correctness_reward_func")  →  RewardSpec(file="", name="correctness")
    RewardSpec.parse("my/rewards.py:short")      →  RewardSpec(file="my/rewards.py", name="short")
    RewardSpec.parse("my/rewards.py")            →  RewardSpec(file="my/rewards.py", name=""): not named

Whoever needs to know what an entry means asks here: the loader, the rules, the ranks, the evaluation.
"""

from pathlib import Path
from typing import NamedTuple


class RewardSpec(NamedTuple):
    """What an entry names; whether that exists is for others to say."""

    file: str  # as it was written; empty: a built-in reward
    name: str  # of the function; empty: not named

    @staticmethod
    def parse(text: str) -> "RewardSpec":
        """Split an entry at its last colon. Every text means something: errors come with what is missing."""
        if text.endswith(".py"):
            return RewardSpec(text, "")
        file, _, name = text.rpartition(":")
        return RewardSpec(file, name) if file else RewardSpec("", text.removesuffix("_reward_func"))

    @property
    def is_file(self) -> bool:
        """Whether it is code in somebody's file, and not a built-in reward."""
        return bool(self.file)

    @property
    def path(self) -> Path:
        """The file, with `~` expanded."""
        return Path(self.file).expanduser()
