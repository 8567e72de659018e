"""One rollout of an environment, written token by token by a person or a model, and reported turn by turn.

    play = Play(tokenizer, prompt, session, sampling, tell=print)
    play.by_hand(["3", "4"])           # or play.by_model(policy)
    play.rollout().use.reward

The tokens, masks and answers are those of training: rows, turns and the environment's session are the same
code. Only the batch is missing.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from grpo_cli.engine.rollout.completion_text import CompletionText
from grpo_cli.engine.rollout.continuous_batch import stop_reason
from grpo_cli.engine.rollout.generate import finish
from grpo_cli.engine.rollout.prompts import Prompt
from grpo_cli.engine.rollout.rows import CompletionRow
from grpo_cli.engine.rollout.sampling import Sampling
from grpo_cli.engine.rollout.stream import consult, sampled
from grpo_cli.environments.by_hand import end_id, typed_ids
from grpo_cli.environments.run_tools import Observation
from grpo_cli.environments.session import Session
from grpo_cli.environments.tool_environment import tools_in
from grpo_cli.environments.tools import Call
from grpo_cli.models.load import Policy
from grpo_cli.models.tokenizer import Tokenizer
from grpo_cli.types import Message, Rollout, StopReason


@dataclass(frozen=True)
class Span:
    """Tokens with one loss mask."""

    token_ids: list[int]
    mask: int  # 1: trained; 0: an environment wrote them
    text: str  # special tokens spelled out


@dataclass(frozen=True)
class TurnWritten:
    """A turn has ended: its tokens, with what the environment put into it."""

    number: int  # from 1
    spans: list[Span]
    stop_reason: StopReason | None  # None: the person stopped in the middle of it


@dataclass(frozen=True)
class Answered:
    """The environment has answered a turn."""

    messages: list[Message]  # as rendered, shortened ones included; empty: it answered with ids
    calls: list[tuple[Call, Observation]] = field(default_factory=list)
    spans: list[Span] = field(default_factory=list)
    seconds: float = 0.0


Event = TurnWritten | Answered
Tell = Callable[[Event], None]


class Play:
    """The rollout while it is written."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        prompt: Prompt,
        session: Session,
        sampling: Sampling,
        *,
        tell: Tell,
        prefix: str = "",
    ) -> None:
        self.tokenizer, self.session, self.sampling, self.tell = tokenizer, session, sampling, tell
        self.row = CompletionRow(index=0, prompt=prompt.ids)
        self.row.begin(session)
        self.text = CompletionText(tokenizer, prefix)
        self.shown = 0  # tokens that were reported

    @property
    def is_in_a_turn(self) -> bool:
        """True if the turn has begun: the environment wrote into it, and it goes on."""
        return self.row.stop_reason is None and len(self.row.token_ids) > self.shown

    def by_model(self, policy: Policy) -> None:
        """Let the model write the turns. Raises TrainingError for logits that are NaN."""
        for _ in sampled(policy, self.row, self.sampling, self.text):
            self.consult()

    def by_hand(self, turns: Iterable[str]) -> None:
        """Write these turns until the rollout ends. An unfinished one ends as truncated.

        The environment may write into a turn. If it wrote the last token, the turn goes on with the next
        text, and an empty one ends it.
        """
        for text in turns:
            self.write(text)
            if self.row.stop_reason is not None:
                return
        self.tell_turn()
        self.row.stop_reason = StopReason.LENGTH

    def write(self, text: str) -> None:
        """Write a turn, or its continuation."""
        for token in typed_ids(self.tokenizer, text):
            self.add(token)
            if self.row.stop_reason is not None:  # an end token was typed, or the limit is reached
                return
        is_answered = bool(text) and self.row.loss_mask[-1:] == [0] and self.is_in_a_turn
        if is_answered:
            return
        end = end_id(self.tokenizer)
        if end is None:
            self.row.stop_reason = StopReason.STOP
            self.consult()
        else:
            self.add(end)

    def add(self, token: int) -> None:
        """Append a typed token, as a model's is appended."""
        self.row.add(token, 0.0, 0.0, None)
        self.row.stop_reason = stop_reason(self.row, self.sampling, self.text)
        self.consult()

    def consult(self) -> None:
        """Let the environment read the newest token, or answer the turn that ended with it."""
        if self.row.stop_reason is None:
            consult(self.row, self.session, self.tokenizer, self.sampling)
            if self.row.stop_reason is not None:  # what it would write does not fit
                self.tell_turn()
            return
        self.tell_turn()
        messages, seconds = len(self.session.messages), self.session.seconds
        tools = tools_in(self.session.environment)
        before = tools.observations if tools else None
        consult(self.row, self.session, self.tokenizer, self.sampling)
        calls = tools.last_calls if tools and tools.observations is not before else []
        spans = self.spans()
        if spans or calls:
            answer = self.session.messages[messages + 1 :]
            self.tell(Answered(answer, calls, spans, self.session.seconds - seconds))

    def tell_turn(self) -> None:
        """Report the turn that has ended."""
        spans = self.spans()
        if spans:
            self.tell(TurnWritten(self.session.turns, spans, self.row.stop_reason))

    def spans(self) -> list[Span]:
        """The tokens that were not reported, cut where the mask changes; they count as reported."""
        found: list[Span] = []
        start = self.shown
        ids, mask = self.row.token_ids, self.row.loss_mask
        for place in range(start, len(ids)):
            if place + 1 == len(ids) or mask[place + 1] != mask[place]:
                part = ids[start : place + 1]
                found.append(Span(part, mask[place], self.tokenizer.spell(part)))
                start = place + 1
        self.shown = len(ids)
        return found

    def rollout(self) -> Rollout:
        """The rollout, with the environment's account. Raises ToolError if its reward fails."""
        return finish(self.row, self.text)
