"""A local model as a reward: the judge of the reward `judge`.

    rewards = with_judge(load_rewards(config.reward_functions), config)      # loads it, if one is asked for

It is loaded like any model, is never trained, and answers greedily in this thread with the sampler of the
rollouts, after these have ended. So its answers depend on nothing but the question, and equal questions are
asked once: the latest answers are kept in memory. rewards/judging.py has the questions and reads the answers.
"""

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

from grpo_cli.config.local_model import positions
from grpo_cli.config.schema import Config
from grpo_cli.engine.memory.estimate import JUDGE_ROWS
from grpo_cli.engine.recovery import RowLimit
from grpo_cli.engine.rollout.generate import Progress, generate, no_progress
from grpo_cli.engine.rollout.sampling import Sampling
from grpo_cli.engine.update.forward_probe import sampling_plan
from grpo_cli.models.load import Policy, load_policy
from grpo_cli.models.tree import flat
from grpo_cli.rewards.builtin import completion_text, judge
from grpo_cli.rewards.judging import JUDGE_UNREAD, asked, groups_of, read_ranking, read_score, without_markers
from grpo_cli.rewards.table import InThisThread, RewardFunction
from grpo_cli.types import Message

REMEMBERED = 20_000  # answers kept

Named = tuple[str, RewardFunction]


def with_judge(rewards: list[Named], config: Config, now: datetime | None = None) -> list[Named]:
    """The rewards with the judge's model in place of the reward `judge`, if it is one of them.

    `now`: the date for its chat template. Raises ModelError if it cannot be loaded.
    """
    if all(function is not judge for _, function in rewards):
        return rewards
    loaded = Judge(load_policy(config.judge, config.dtype), config)
    loaded.policy.plan = sampling_plan(loaded.policy.model)
    loaded.policy.tokenizer.now = now
    return [(name, loaded if function is judge else function) for name, function in rewards]


def judge_in(rewards: Sequence[Named]) -> "Judge | None":
    """The loaded judge among the rewards."""
    return next((function for _, function in rewards if isinstance(function, Judge)), None)


def show_judging(rewards: Sequence[Named], on_progress: Progress) -> None:
    """Report the progress of the judge among the rewards, if there is one."""
    judge = judge_in(rewards)
    if judge is not None:
        judge.on_progress = on_progress


class Judge(InThisThread):
    """A judge model, callable as a reward: scores of 0 to 1, or None for an unusable answer."""

    def __init__(self, policy: Policy, config: Config) -> None:
        self.policy = policy
        self.mode, self.template = config.judge_mode, config.judge_prompt
        self.sampling = Sampling(max_new_tokens=config.judge_max_tokens, temperature=0.0)
        self.limit = RowLimit(JUDGE_ROWS)
        self.on_progress: Progress = no_progress  # of its answers to the questions of one call
        self.answers: dict[str, str] = {}  # by question, the oldest first
        tokenizer = policy.tokenizer
        spelled = {tokenizer.spell([number]) for number in tokenizer.control_ids}
        self.markers = {text for text in spelled if len(text) > 1}

    @property
    def size(self) -> int:
        """Bytes of its weights."""
        return sum(array.nbytes for array in flat(self.policy.model.parameters()).values())

    def __call__(
        self,
        prompts: Sequence[Any],
        completions: Sequence[Any],
        answer: Sequence[str],
        log_metric: Callable[[str, float], None] | None = None,
        log_extra: Callable[[str, list[Any]], None] | None = None,
    ) -> list[float | None]:
        """One score per completion; the answers and the share of unusable ones go to the log."""
        texts = [self.harmless(completion_text(completion)) for completion in completions]
        asks = [self.harmless(task_of(prompt)) for prompt in prompts]
        rate = self.rate_each if self.mode == "score" else self.rate_groups
        values, said = rate(asks, texts, [self.harmless(gold) for gold in answer])
        if log_extra is not None:
            log_extra("judge_answer", said)
        if log_metric is not None and values:
            log_metric(JUDGE_UNREAD, values.count(None) / len(values))
        return values

    def rate_each(
        self, prompts: list[str], texts: list[str], golds: list[str]
    ) -> tuple[list[float | None], list[str]]:
        """A question for each completion: the scores, and the answers that they come from."""
        rows = zip(prompts, golds, texts, strict=True)
        said = self.ask([asked("score", self.template, prompt, gold, [text]) for prompt, gold, text in rows])
        return [read_score(answer) for answer in said], said

    def rate_groups(
        self, prompts: list[str], texts: list[str], golds: list[str]
    ) -> tuple[list[float | None], list[str]]:
        """A question for each prompt, which lists its different completions: scores, and answers."""
        groups = groups_of(zip(prompts, golds, strict=True))
        different = [list(dict.fromkeys(texts[place] for place in group)) for group in groups]
        firsts = [(prompts[group[0]], golds[group[0]]) for group in groups]
        said = self.ask(
            [
                asked("rank", self.template, prompt, gold, shown)
                for (prompt, gold), shown in zip(firsts, different, strict=True)
            ]
        )
        values, answers = [], []
        for group, shown, answer in zip(groups, different, said, strict=True):
            by_text = dict(zip(shown, read_ranking(answer, len(shown)), strict=True))
            values += [by_text[texts[place]] for place in group]
            answers += [answer] * len(group)
        return values, answers

    def ask(self, questions: list[str]) -> list[str]:
        """The judge's answers, one per question; empty for a question that is too long for it."""
        new = [question for question in dict.fromkeys(questions) if question not in self.answers]
        ids = [self.encode(question) for question in new]
        most = positions(self.policy.config)
        fitting = [
            place
            for place, prompt in enumerate(ids)
            if most is None or len(prompt) + self.sampling.max_new_tokens <= most
        ]
        found = generate(
            self.policy, [ids[place] for place in fitting], 1, self.sampling,
            on_progress=self.on_progress, limit=self.limit,
        )  # fmt: skip
        texts = dict(zip(fitting, (rollouts[0].text for rollouts in found), strict=True))
        known = self.answers | {question: texts.get(place, "") for place, question in enumerate(new)}
        self.answers = dict(list(known.items())[-REMEMBERED:])
        return [known[question] for question in questions]

    def encode(self, question: str) -> list[int]:
        """Token ids of a question as the user's message."""
        return self.policy.tokenizer.encode_prompt([{"role": "user", "content": question}])

    def harmless(self, text: str) -> str:
        """A text without the chat format's markers."""
        return without_markers(text, self.markers)


def task_of(prompt: str | list[Message]) -> str:
    """The text of a prompt: all of a text, or its messages without the system's."""
    messages = getattr(prompt, "messages", prompt)
    if isinstance(messages, str):
        return messages
    return "\n\n".join(str(message["content"]) for message in messages if message["role"] != "system")
