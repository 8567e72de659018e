"""The ids between the model's last token and its next turn.

    suffix = suffix_for(tokenizer, schemas)
    suffix.after({"role": "assistant", "content": "…", "tool_calls": […]}, ended=True, replies=[
        {"role": "tool", "name": "lookup", "content": "2.1 million"}
    ])     →  ids of "\\n<|im_start|>user\\n<tool_response>\\n2.1 million\\n</tool_response><|im_end|>\\n…"

The conversation so far is never rendered or tokenized again: the model's own tokens stay as it sampled them.
A short conversation of the same form is rendered by the chat template, and what follows the assistant's turn
in it is tokenized. A reply's text is data: a special token spelled in it stays text.
"""

from collections.abc import Sequence
from typing import Any, Protocol

from grpo_cli.environments.text_parts import Part, PartsEncoder, key, parts_of, probe
from grpo_cli.errors import ModelError
from grpo_cli.foreign_text import one_line, well_formed
from grpo_cli.models.nanochat_tokenizer import NanochatTokenizer
from grpo_cli.models.tokenizer import ChatTokenizer, Tokenizer
from grpo_cli.types import Message

Schemas = list[dict[str, Any]]
QUESTION = "qzxQuestionxzq"
SHOWN = 30  # characters of a template's text on each side of a difference


class Suffix(Protocol):
    """Renders replies to a turn."""

    def after(self, assistant: Message, ended: bool, replies: Sequence[Message]) -> list[int]:
        """Ids from the model's last token to its next turn.

        `assistant`: its turn, with its tool calls. `ended`: it wrote its end token; if not, the suffix begins
        with that token.
        """


def suffix_for(tokenizer: Tokenizer, schemas: Schemas | None = None) -> Suffix:
    """The suffix of a model's conversations; `schemas`: the tools that its prompts show."""
    if isinstance(tokenizer, NanochatTokenizer):
        return NanochatSuffix(tokenizer)
    if not isinstance(tokenizer, ChatTokenizer):
        raise TypeError(f"no suffix for a {type(tokenizer).__name__}")
    if not tokenizer.wrapped.has_chat_template:
        return ParagraphSuffix(tokenizer)
    return TemplateSuffix(tokenizer, schemas or [])


class NanochatSuffix:
    """nanochat's conversations: `<|assistant_end|><|user_start|>…<|user_end|><|assistant_start|>`."""

    def __init__(self, tokenizer: NanochatTokenizer) -> None:
        self.tokenizer = tokenizer

    def after(self, assistant: Message, ended: bool, replies: Sequence[Message]) -> list[int]:  # noqa: ARG002
        """As Suffix. Raises ModelError for a reply that is not a user's."""
        roles = sorted({message["role"] for message in replies} - {"user"})
        if roles:
            raise ModelError(
                f"nanochat's chat format has no role {roles[0]!r} here",
                "answer the model with messages of the role `user`",
                trouble="chat-template",
            )
        special = self.tokenizer.encoding.encode_single_token
        ids, _ = self.tokenizer.render(replies)
        lead = [] if ended else [special("<|assistant_end|>")]
        return [*lead, *ids[1:], special("<|assistant_start|>")]


class ParagraphSuffix:
    """A base model's prompts: messages are paragraphs, and no end token stands between them."""

    def __init__(self, tokenizer: ChatTokenizer) -> None:
        self.encoder = PartsEncoder(tokenizer)

    def after(self, assistant: Message, ended: bool, replies: Sequence[Message]) -> list[int]:  # noqa: ARG002
        """As Suffix."""
        parts = [Part("\n\n", False)]
        for message in replies:
            parts += [Part(well_formed(message["content"]), True), Part("\n\n", False)]
        return self.encoder.encode(parts, self.encoder.tokenizer.wrapped.eos_token or "")


class TemplateSuffix:
    """Conversations of a chat template."""

    def __init__(self, tokenizer: ChatTokenizer, schemas: Schemas) -> None:
        self.tokenizer = tokenizer
        self.schemas = schemas
        self.encoder = PartsEncoder(tokenizer)

    def after(self, assistant: Message, ended: bool, replies: Sequence[Message]) -> list[int]:
        """As Suffix. Raises ModelError if the template refuses the replies or shows no end of the turn."""
        asked = [{**message, "content": probe(number)} for number, message in enumerate(replies)]
        rendered = self.render(assistant, asked)
        end = self.end_of_turn(rendered, assistant)
        parts = parts_of(rendered[end.stop :], [message["content"] for message in replies])
        marker = rendered[end]
        ids = self.encoder.encode(parts, marker)
        return ids if ended else [*self.tokenizer.encode(marker), *ids]

    def render(self, assistant: Message, replies: Sequence[Message], is_to_answer: bool = True) -> str:
        """A question, the assistant's turn and the replies. Its calls keep their names and ids alone."""
        error: ModelError | None = None
        for turn in forms_of(assistant):
            try:
                messages = [{"role": "user", "content": QUESTION}, turn, *replies]
                return self.tokenizer.render(messages, self.schemas, is_to_answer)
            except ModelError as refused:
                error = error or refused
        assert error is not None
        raise error

    def end_of_turn(self, rendered: str, assistant: Message) -> slice:
        """The place of the end token: the first after the text; after calls, the last before the reply."""
        first = rendered.find(key(0))
        anchor = self.end_of_text(rendered, assistant, first)
        between = rendered[anchor:first]
        ends = {text for text, number in self.encoder.added.items() if number in self.tokenizer.eos_ids}
        found = [match for match in self.encoder.spellings(between) if match[1] in ends]
        if not found and assistant.get("tool_calls"):
            raise ModelError(
                "The model's chat template ends a turn that calls tools with none of the model's end tokens: "
                f"…{one_line(between[-SHOWN:])}…",
                "add the token that ends it to `eos_token_id` in the model's generation_config.json",
                trouble="end-tokens",
            )
        if not found:  # a template may end a turn that is not the last by a token that the model never writes
            found = self.encoder.spellings(between)[:1]
        if not found:
            return slice(anchor, anchor)
        start, stop = found[-1 if assistant.get("tool_calls") else 0].span(1)
        return slice(anchor + start, anchor + stop)

    def end_of_text(self, rendered: str, assistant: Message, first: int) -> int:
        """The place after the assistant's text, or after its call's name if the template has no such text."""
        calls = assistant.get("tool_calls") or []
        for word in [ASSISTANT, *(call["function"]["name"] for call in calls)]:
            place = rendered.find(word, rendered.find(QUESTION) + len(QUESTION), first)
            if place >= 0:
                return place + len(word)
        raise ModelError(
            "The model's chat template shows no end of the assistant's turn before a reply",
            "use a model whose template shows messages of the roles that answer it",
            trouble="chat-template",
        )


ASSISTANT = "qzxAnswerxzq"
EMPTY: tuple[Any, ...] = ({}, "{}")  # a call's arguments, which the suffix does not depend on


def forms_of(assistant: Message) -> list[Message]:
    """The turn in the forms that templates accept: arguments as an object or as text, one call or several."""
    plain = {"role": "assistant", "content": ASSISTANT}
    calls = assistant.get("tool_calls")
    if not calls:
        return [plain]
    forms = []
    for arguments in EMPTY:
        bare = [{**call, "function": {**call["function"], "arguments": arguments}} for call in calls]
        forms += [{**plain, "tool_calls": bare}, {**plain, "tool_calls": bare[:1]}]
    return forms


# --- before the first step -----------------------------------------------------------------------------


def check_template(tokenizer: Tokenizer, schemas: Schemas | None = None, with_user: bool = False) -> None:
    """Refuse a chat template with which a conversation cannot go on, before the first step.

    It must show the tools, render what answers the model (messages of tools; those of the user without tools
    or `with_user`), and leave earlier turns as they are. Raises ModelError with the place of a change.
    """
    suffix = suffix_for(tokenizer, schemas)
    if schemas:
        if not isinstance(suffix, TemplateSuffix):
            raise ModelError(
                "The model has no chat template that could show it tools",
                "use a model that was trained to call tools, or an environment that answers texts",
                trouble="chat-template",
            )
        name = schemas[0]["function"]["name"]
        _check_tools_shown(suffix, name)
        suffix.after(_calling(name, 2), False, [{**_answering(name, n), "content": "a"} for n in (1, 2)])
        _check_replies(suffix, _calling(name, 1), _answering(name, 1))
    if with_user or not schemas:
        plain = {"role": "assistant", "content": ASSISTANT}
        _check_replies(suffix, plain, {"role": "user", "content": probe(0)})


def _check_replies(suffix: Suffix, assistant: Message, reply: Message) -> None:
    """Refuse a template that cannot render this reply, or changes earlier turns when more follow."""
    suffix.after(assistant, True, [{**reply, "content": "a"}])
    if isinstance(suffix, TemplateSuffix):
        _check_prefix(suffix, assistant, reply)


def _calling(name: str, count: int) -> Message:
    """A turn of the assistant with calls."""
    calls = [
        {"type": "function", "id": f"call{number:05d}", "function": {"name": name, "arguments": {}}}
        for number in range(1, count + 1)
    ]
    return {"role": "assistant", "content": ASSISTANT, "tool_calls": calls}


def _answering(name: str, number: int) -> Message:
    """A message of a tool."""
    return {"role": "tool", "name": name, "tool_call_id": f"call{number:05d}", "content": probe(0)}


def _check_tools_shown(suffix: TemplateSuffix, name: str) -> None:
    """Refuse a template that does not show the tools to the model."""
    question: list[Message] = [{"role": "user", "content": QUESTION}]
    shown = suffix.tokenizer.render(question, suffix.schemas)
    if name not in shown or shown == suffix.tokenizer.render(question, None):
        raise ModelError(
            "The model's chat template does not show tools to the model",
            "use a model whose template has a place for tools, or write them into the `system_prompt`",
            trouble="chat-template",
        )


def _check_prefix(suffix: TemplateSuffix, assistant: Message, reply: Message) -> None:
    """Refuse a template that changes earlier turns when more follow.

    A template may leave out the reasoning of earlier turns, since the model's own tokens are kept as they
    are: the assistant's turn is compared as one that is not the last.
    """
    turn = next(iter(forms_of(assistant)))
    messages: list[Message] = [{"role": "user", "content": QUESTION}, turn, reply]
    render = suffix.tokenizer.render
    once = render(messages, suffix.schemas, False)
    _compare(render(messages[:1], suffix.schemas, False), once)
    _compare(once, render([*messages, turn, reply], suffix.schemas))


def _compare(before: str, after: str) -> None:
    """Refuse a text that is not the beginning of another. White space may differ, as in Hermes's template."""
    if "".join(after.split()).startswith("".join(before.split())):
        return
    pairs = zip(before, after, strict=False)
    place = next((n for n, (a, b) in enumerate(pairs) if a != b), min(len(before), len(after)))
    start = max(0, place - SHOWN)
    shown = [f"…{one_line(text[start : place + SHOWN])}…" for text in (before, after)]
    raise ModelError(
        f"The model's chat template changes earlier turns when more follow:\n{shown[0]}\nbecomes\n{shown[1]}",
        "the model would meet other texts in use than in training: put a chat_template.jinja into its folder "
        "that only adds text for further messages",
        trouble="chat-template",
    )
