"""`grpo generate`: one prompt or a chat with a model, streamed."""

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from grpo_cli.cli.config import show_warnings
from grpo_cli.cli.doing import doing, erase
from grpo_cli.cli.early import find
from grpo_cli.cli.env_view import call_text
from grpo_cli.cli.heavy import start_device
from grpo_cli.cli.options import ConfigOption, SetOption
from grpo_cli.cli.terminal import encodable, say, stderr_console, stdout_console
from grpo_cli.errors import GrpoError, Terminated
from grpo_cli.foreign_text import visible
from grpo_cli.types import Example, StopReason
from grpo_cli.uncollected import uncollected
from grpo_cli.words import plural

LEAVING = ("", "/exit", "/quit", "/bye")
HOW_TO_LEAVE = "An empty line, /exit or Ctrl-D ends the chat; Ctrl-C stops an answer."

if TYPE_CHECKING:
    from grpo_cli.config.schema import Config
    from grpo_cli.engine.rollout.sampling import Sampling
    from grpo_cli.environments.session import Session
    from grpo_cli.environments.tooling import Tooling
    from grpo_cli.models.load import Policy
    from grpo_cli.types import Message


def generate(
    model: Annotated[str, typer.Option("--model", metavar="DIR|REPO|tiny", help="The model to use.")],
    prompt: Annotated[
        str | None, typer.Option("--prompt", metavar="TEXT", help="Complete one prompt.")
    ] = None,
    chat: Annotated[
        bool, typer.Option("--chat", help="Chat; an empty line, /exit or Ctrl-D ends it.")
    ] = False,
    system: Annotated[
        str | None,
        typer.Option("--system", metavar="TEXT", help="System message (default: that of the model's run)."),
    ] = None,
    max_tokens: Annotated[
        int, typer.Option("--max-tokens", metavar="N", min=1, help="Maximum tokens per answer.")
    ] = 512,
    temperature: Annotated[
        float,
        typer.Option("--temperature", metavar="T", min=0.0, help="Sampling temperature; 0 = greedy."),
    ] = 0.0,
    tools: Annotated[
        list[str] | None,
        typer.Option(
            "--tools", metavar="FILE.py:FUNCTION", help="A tool the model may call; may be repeated."
        ),
    ] = None,
    config: ConfigOption = None,
    set_: SetOption = None,
) -> None:
    """Complete a prompt, or chat.

    The answer is streamed to stdout; calls of tools and their results are shown on stderr. Tools, environment
    and prompt format come from --config (default: the model's own run, without code in files).
    """
    if bool(prompt) == chat:
        raise typer.BadParameter("give either --prompt TEXT or --chat")
    messages: list[Message] = []
    with doing(f"loading {model} …") as tell:
        from grpo_cli.config.of_model import config_for_prompts

        loaded = config_for_prompts(model, config, [*named_tools(tools or []), *(set_ or [])])
        erase()
        show_warnings(loaded.warnings)
        find(model, tell)
        start_device()
        with uncollected():
            from grpo_cli.engine.rollout.chat_template import set_up_template
            from grpo_cli.engine.rollout.sampling import Sampling
            from grpo_cli.environments.subject import of_prompts
            from grpo_cli.models.load import load_policy

        policy = load_policy(model)
        if text := loaded.config.system_prompt if system is None else system:
            messages.append({"role": "system", "content": text})
        notices = set_up_template(policy.tokenizer, loaded.config, [Example(messages=messages, answer="")])
        chat_with = Chat(
            policy,
            loaded.config,
            *of_prompts(loaded.config, policy.tokenizer),
            Sampling(max_new_tokens=max_tokens, temperature=temperature, stop=tuple(loaded.config.stop)),
        )
    for notice in notices:
        say(stderr_console(), Text(f"! {visible(notice)}", style="yellow"))
    if prompt:
        answer(chat_with, [*messages, {"role": "user", "content": prompt}], stoppable=False)
    else:
        talk(chat_with, messages)


@dataclass(frozen=True)
class Chat:
    """A model with its tools, and how it is sampled."""

    policy: "Policy"
    config: "Config"
    tooling: "Tooling"
    columns: dict[str, Any]  # that an environment is reset with
    sampling: "Sampling"


def named_tools(names: list[str]) -> list[str]:
    """The overrides of `--tools`, which may be repeated or hold several names with commas."""
    return [f"tools={','.join(names)}", "environment="] if names else []


def talk(chat: Chat, messages: "list[Message]") -> None:
    """Chat loop: read a line, answer it, remember both, until an exit line or the end of the input."""
    if sys.stdin.isatty():
        say(stderr_console(), Text(HOW_TO_LEAVE, style="dim"))
    while (question := ask()) not in LEAVING:
        messages.append({"role": "user", "content": question})
        try:
            answered = answer(chat, messages, stoppable=True)
        except GrpoError as error:  # a turn refused by the chat template does not end the chat
            say(stderr_console(), Text(visible(str(error)), style="red"))
            messages.pop()
            continue
        if answered:
            messages += answered
        else:  # stopped before the first token
            messages.pop()


def ask() -> str:
    """The next line from a user or a pipe; empty at the end. Ctrl-C raises KeyboardInterrupt."""
    if not sys.stdin.isatty():
        return sys.stdin.readline().strip()
    try:  # from the prompt on: whoever sees it may press Ctrl-C before the line is waited for
        stderr_console().print("› ", end="", style="bold cyan")
        line = sys.stdin.readline()
    except Terminated:
        raise
    except KeyboardInterrupt:
        say(stderr_console(), Text("\nInterrupted: the chat has ended.", style="dim"))
        raise
    if not line:  # Ctrl-D leaves the cursor after the prompt
        say(stderr_console(), Text(""))
    return line.strip()


def answer(chat: Chat, messages: "list[Message]", *, stoppable: bool) -> "list[Message]":
    """Stream one completion to stdout and return its messages, including the completion prefix.

    With tools it has several: turns and results. Ctrl-C ends it. With `stoppable` it only ends the answer:
    the messages so far are returned.
    """
    from grpo_cli.engine.rollout.stream import stream

    prefix, tooling = chat.config.completion_prefix, chat.tooling
    columns = {**chat.columns, "question": messages[-1]["content"]}
    example = tooling.begin(Example(messages=messages, answer="", columns=columns))
    ids = chat.policy.tokenizer.encode_prompt(example.messages, prefix, tooling.schemas_for(example) or None)
    session = tooling.make_session(example)
    turns: list[Message] = []
    pieces, is_cut_off, told = [prefix], False, 0
    show(prefix)
    try:
        for piece, ended in stream(chat.policy, ids, chat.sampling, prefix, session):
            if session and len(session.messages) > told + 1:  # else it answered with ids, shown as text
                show_replies(session, session.messages[told:])
                turns, pieces = [*turns, *session.messages[told:]], []
            told = len(session.messages) if session else 0
            show(piece)
            pieces.append(piece)
            is_cut_off = ended is StopReason.LENGTH
    except KeyboardInterrupt as error:
        show("\n")
        if not stoppable or isinstance(error, Terminated):
            raise
        say(stderr_console(), Text("(stopped)", style="dim"))
        return said(turns, pieces)
    show("\n")
    if is_cut_off:
        say(stderr_console(), Text(cut_off(chat.sampling.max_new_tokens), style="yellow"))
    return said(turns, pieces)


def said(turns: "list[Message]", pieces: list[str]) -> "list[Message]":
    """The turns of an answer with its last one, if that has any text."""
    text = "".join(pieces)
    return [*turns, {"role": "assistant", "content": text}] if text else turns


def show_replies(session: "Session", messages: "list[Message]") -> None:
    """Show the calls of a turn with their results, or what the environment answered."""
    from grpo_cli.environments.tool_environment import tools_in

    show("\n")
    tools = tools_in(session.environment)
    for call, observation in tools.last_calls if tools else []:
        style = "red" if observation.failed else "green"
        say(stderr_console(), Text(f"  ⚙ {call_text(call, observation)}", style=style))
    for message in messages:
        if message["role"] == "user":
            say(stderr_console(), Text(f"  ⚙ {message['content']}", style="green"))


def cut_off(tokens: int) -> str:
    """The note under an answer truncated by the token limit."""
    return f"The answer was cut off after {plural(tokens, 'token')}: `--max-tokens {2 * tokens}` allows more."


def show(piece: str) -> None:
    """Write text as it arrives; control characters become visible, tabs and line breaks stay."""
    console = stdout_console()
    console.file.write(encodable(visible(piece), console.encoding))
    console.file.flush()
