"""Detect runs that learn nothing because no group has an advantage, and suggest remedies.

    teaching = Teaching(config=config, own={"short"})
    teaching.take(line, groups, taught=False)       # after every step
    teaching.notices(is_last=False)                 # warnings for the listener
    teaching.explain()                              # at the end: NothingLearnt, or None

The doctor uses the same explanations and lines of TOML.
"""

import json
import statistics
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from grpo_cli.config.rules import COLD
from grpo_cli.config.schema import Config
from grpo_cli.rewards.request import note_on_answer
from grpo_cli.types import RolloutGroup

FEWEST_STEPS = 5  # fewer steps without an advantage can be chance
ALL_CUT = 0.95  # share of truncated completions from which on no answer is reached
SOLVED = 0.95  # accuracy from which on little is left to learn; runs of the embedded task end at 0.95 to 1
BEST = {"correctness": 2.0, "last_number": 1.0, "nanochat_gsm8k": 1.0}  # the reward of a right answer
GUIDE_NEW_TOKENS, GUIDE_TEMPERATURE, GUIDE_GENERATIONS = 128, 0.7, 16
FORMAT_REWARDS = ("int", "strict_format", "soft_format", "xmlcount")
ROOM_FIRST = "Raise max_new_tokens first; the rest may not be needed"
MANY = 20  # different completions among which a meaningful reward varies
REMEMBERED = 1000  # completions counted at most


class NothingLearnt(NamedTuple):
    """The reason why no step had an advantage, and the remedies: a sentence, then lines of TOML."""

    seen: str
    cures: list[str]
    is_solved: bool = False


@dataclass(kw_only=True)
class Teaching:
    """Record of a run's steps: log lines, rewards and completions, until a step has an advantage."""

    config: Config
    own: Collection[str] = ()  # names of the rewards that come from a user's file
    has_taught: bool = False  # some step had an advantage, maybe before a resume
    lines: list[dict[str, Any]] = field(default_factory=list)  # log lines, until a step had an advantage
    values: dict[str, set[float]] = field(default_factory=dict)  # up to two distinct values of each reward
    completions: set[int] = field(default_factory=set)  # hashes of the completions' texts
    note: str = ""  # hint about answers that a reward may misread
    accuracy: float | None = None  # of the latest evaluation
    steps: int = 0

    def take(self, line: dict[str, Any], groups: list[RolloutGroup], taught: bool) -> None:
        """Record a step. `taught`: one of its groups had an advantage and the update was made."""
        self.steps += 1
        self.has_taught = self.has_taught or taught
        self.lines = [] if self.has_taught else [*self.lines, line]
        self.note = self.note or next(filter(None, (note_on_answer(group.example) for group in groups)), "")
        for rollout in [rollout for group in groups for rollout in group.rollouts]:
            if len(self.completions) < REMEMBERED:
                self.completions.add(hash(rollout.text))
            for name, value in rollout.rewards.items():
                seen = self.values.setdefault(name, set())
                if value is not None and len(seen) < 2:
                    seen.add(value)

    def notices(self, is_last: bool) -> Iterator[str]:
        """The warnings after this step: only once, after FEWEST_STEPS steps or the last step of fewer."""
        if self.steps != FEWEST_STEPS and not (is_last and self.steps < FEWEST_STEPS):
            return
        nothing = self.explain()
        if nothing is not None and not is_last:  # after the last step the summary says it
            yield f"nothing to learn in the first {self.steps} steps: {nothing.seen}; {told(nothing.cures)}"
        elif nothing is None and len(self.completions) >= MANY:
            yield from (f"{text}; look at it in completions.jsonl" for text in self.constants(self.own))

    def explain(self) -> NothingLearnt | None:
        """The reason if nothing was learned; None if a step had an advantage, or without steps."""
        if self.has_taught or not self.lines:
            return None
        late = self.lines[-max(FEWEST_STEPS, len(self.lines) // 3) :]
        means = {name: series(late, f"rewards/{name}") for name in BEST}
        if learned := solved(self.accuracy, means):
            return NothingLearnt(f"nothing is left to learn ({learned})", [], is_solved=True)
        rewards, count = series(self.lines, "reward_mean"), len(self.lines)
        if not rewards:
            return NothingLearnt(f"no reward applies to any completion of {every(count)}", [unscored_words()])
        if not any(rewards):
            seen = f"the mean reward is 0 in {every(count)}: {components(self.lines)}"
            cures = [zero_words(series(late, "truncated_fraction")), *more_to_learn_from(self.config)]
        else:
            seen = f"all rewards are equal in each group of {every(count)}: {components(self.lines)}"
            cures = equal_cures(self.config, series(late, "reward_mean"))
        constant = list(self.constants(self.values)) if len(self.completions) > 1 else []
        return NothingLearnt("; ".join([seen, *constant]), cures)

    def constants(self, names: Collection[str]) -> Iterator[str]:
        """A sentence for each reward that is the same for all completions, although these differ."""
        for name, seen in self.values.items():
            if name in names and len(seen) == 1:
                count = f"{len(self.completions)}{'+' * (len(self.completions) == REMEMBERED)}"
                [value] = seen
                note = f" ({self.note})" if self.note and name in self.own else ""
                yield f"reward `{name}` is constant: {value:g} for {count} different completions{note}"


def every(count: int) -> str:
    """`all 3 steps` or `its only step`."""
    return f"all {count} steps" if count > 1 else "its only step"


def told(cures: Sequence[str]) -> str:
    """The remedies as one sentence."""
    words, *lines = cures or [""]
    return "; ".join([words, *(f"`{line}`" for line in lines)])


def series(lines: Sequence[Mapping[str, Any]], key: str) -> list[float]:
    """The values of a key in log lines, in order, without those that are missing or null."""
    return [value for line in lines if (value := line.get(key)) is not None]


def components(lines: Sequence[Mapping[str, Any]]) -> str:
    """Each reward's mean over the steps, as text."""
    names = sorted({key for line in lines for key in line if key.startswith("rewards/")})
    means = [f"{name} {statistics.fmean(v):.3g}" for name in names if (v := series(lines, name))]
    return ", ".join(means[:8]) or "no reward applied"


def solved(accuracy: float | None, means: Mapping[str, Sequence[float]]) -> str:
    """Evidence that almost all answers are right, such as `accuracy 100 %`; empty if there is none.

    `means`: means of the rewards in BEST in the latest steps.
    """
    if accuracy is not None:
        return f"accuracy {100 * accuracy:.0f} %" if accuracy >= SOLVED else ""
    for reward, most in BEST.items():
        right = means.get(reward)
        if right and statistics.fmean(right) >= SOLVED * most:
            return f"{100 * statistics.fmean(right) / most:.0f} % of its completions are right"
    return ""


def zero_words(cut: Sequence[float]) -> str:
    """The remedy if all rewards are 0. `cut`: shares of truncated completions in the latest steps."""
    if cut and min(cut) >= ALL_CUT:
        share = 100 * statistics.fmean(cut)
        return f"no completion reaches its answer: {share:.0f} % are cut off. {ROOM_FIRST}"
    return (
        "look at a completion first: if it deserves a reward, the reward function is wrong; if no completion "
        "can be right, sample more and longer ones and add easier rewards"
    )


def unscored_words() -> str:
    """The remedy if every reward returned None or NaN for every completion."""
    return (
        "every reward returned None: call one by itself on a row of the dataset; usually it looks at a "
        "column that has another name, or skips all kinds of rows that the dataset has"
    )


def equal_cures(config: Config | None, rewards: Sequence[float]) -> list[str]:
    """Remedies that make the rewards of a group differ. `rewards`: their means in the latest steps."""
    if config and config.temperature < COLD:
        words = f"at temperature = {config.temperature:g} all completions are the same: raise it"
        return [words, *warmer(config)]
    if rewards and not any(rewards):
        return ["all of them are 0: the fix for `rewards-zero` applies here", *more_to_learn_from(config)]
    words = (
        "sample more, and more varied, completions per prompt, and use rewards that distinguish good from "
        "better; prompts that are always or never solved teach nothing"
    )
    return [words, *warmer(config), *more_to_learn_from(config)]


def warmer(config: Config | None) -> list[str]:
    """A line of TOML with a higher temperature, if the run's is low."""
    is_low = config is not None and config.temperature < GUIDE_TEMPERATURE
    return [f"temperature = {GUIDE_TEMPERATURE}"] if is_low else []


def more_to_learn_from(config: Config | None) -> list[str]:
    """Lines of TOML with more and longer completions, and with rewards that are easier to earn.

    Those reward the tags around an answer, which an environment's task does not have.
    """
    generations = config.num_generations if config else 8
    lines = [f"num_generations = {max(GUIDE_GENERATIONS, 2 * generations)}"]
    if config is None or config.max_new_tokens < GUIDE_NEW_TOKENS:
        lines.append(f"max_new_tokens = {GUIDE_NEW_TOKENS}")
    given = config.reward_functions if config else ["correctness"]
    names = {name.removesuffix("_reward_func") for name in given}
    easier = [name for name in FORMAT_REWARDS if name not in names]
    if easier and not (config and config.environments):
        lines.append(f"reward_functions = {json.dumps([*given, *easier], ensure_ascii=False)}")
    return lines
