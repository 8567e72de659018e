"""`grpo generate`: one prompt or a chat with a model, streamed."""

import sys
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from grpo_cli.cli.doing import doing
from grpo_cli.cli.early import find
from grpo_cli.cli.heavy import start_device
from grpo_cli.cli.options import SetOption
from grpo_cli.cli.terminal import encodable, say, stderr_console, stdout_console
from grpo_cli.errors import GrpoError, Terminated
from grpo_cli.foreign_text import visible
from grpo_cli.types import Example, StopReason
from grpo_cli.words import plural

LEAVING = ("", "/exit", "/quit", "/bye")
HOW_TO_LEAVE = "An empty line, /exit or Ctrl-D ends the chat; Ctrl-C stops an answer."

if TYPE_CHECKING:
    from grpo_cli.config.schema import Config
    from grpo_cli.engine.rollout.sampling import Sampling
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
    set_: SetOption = None,
) -> None:
    """Complete a prompt, or chat.

    The answer is streamed to stdout.
    """
    if bool(prompt) == chat:
        raise typer.BadParameter("give either --prompt TEXT or --chat")
    messages: list[Message] = []
    with doing(f"loading {model} …") as tell:
        from grpo_cli.config.of_model import config_of_model

        config = config_of_model(model, set_ or [])
        find(model, tell)
        start_device()
        from grpo_cli.engine.rollout.chat_template import set_up_template
        from grpo_cli.engine.rollout.sampling import Sampling
        from grpo_cli.environments.make import tooling_of
        from grpo_cli.models.load import load_policy

        policy = load_policy(model)
        if text := config.system_prompt if system is None else system:
            messages.append({"role": "system", "content": text})
        notices = set_up_template(policy.tokenizer, config, [Example(messages=messages, answer="")])
        tooling_of(config, policy.tokenizer)  # raises for tools that the model cannot use
    for notice in notices:
        say(stderr_console(), Text(f"! {visible(notice)}", style="yellow"))
    sampling = Sampling(max_new_tokens=max_tokens, temperature=temperature, stop=tuple(config.stop))
    if prompt:
        answer(policy, [*messages, {"role": "user", "content": prompt}], config, sampling, stoppable=False)
    else:
        talk(policy, messages, config, sampling)


def talk(policy: "Policy", messages: "list[Message]", config: "Config", sampling: "Sampling") -> None:
    """Chat loop: read a line, answer it, remember both, until an exit line or the end of the input."""
    if sys.stdin.isatty():
        say(stderr_console(), Text(HOW_TO_LEAVE, style="dim"))
    while (question := ask()) not in LEAVING:
        messages.append({"role": "user", "content": question})
        try:
            text = answer(policy, messages, config, sampling, stoppable=True)
        except GrpoError as error:  # a turn refused by the chat template does not end the chat
            say(stderr_console(), Text(visible(str(error)), style="red"))
            messages.pop()
            continue
        if text:
            messages.append({"role": "assistant", "content": text})
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


def answer(
    policy: "Policy", messages: "list[Message]", config: "Config", sampling: "Sampling", *, stoppable: bool
) -> str:
    """Stream one completion to stdout and return it, including the completion prefix.

    Ctrl-C ends it. With `stoppable` it only ends the answer: the text so far is returned.
    """
    from grpo_cli.engine.rollout.stream import stream
    from grpo_cli.environments.make import tooling_of

    prefix = config.completion_prefix
    tooling = tooling_of(config, policy.tokenizer)
    session = tooling.make_session(Example(messages=messages, answer=""))
    ids = policy.tokenizer.encode_prompt(messages, prefix, tooling.schemas or None)
    pieces, is_cut_off = [prefix], False
    show(prefix)
    try:
        for piece, ended in stream(policy, ids, sampling, prefix, session):
            show(piece)
            pieces.append(piece)
            is_cut_off = ended is StopReason.LENGTH
    except KeyboardInterrupt as error:
        show("\n")
        if not stoppable or isinstance(error, Terminated):
            raise
        say(stderr_console(), Text("(stopped)", style="dim"))
        return "".join(pieces)
    show("\n")
    if is_cut_off:
        say(stderr_console(), Text(cut_off(sampling.max_new_tokens), style="yellow"))
    return "".join(pieces)


def cut_off(tokens: int) -> str:
    """The note under an answer truncated by the token limit."""
    return f"The answer was cut off after {plural(tokens, 'token')}: `--max-tokens {2 * tokens}` allows more."


def show(piece: str) -> None:
    """Write text as it arrives; control characters become visible, tabs and line breaks stay."""
    console = stdout_console()
    console.file.write(encodable(visible(piece), console.encoding))
    console.file.flush()
