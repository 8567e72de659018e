"""`grpo generate`: one prompt or a chat with a model, streamed."""

import sys
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from grpo_cli.cli.doing import doing
from grpo_cli.cli.early import find
from grpo_cli.cli.heavy import start_device
from grpo_cli.cli.terminal import encodable, say, stderr_console, stdout_console
from grpo_cli.errors import GrpoError
from grpo_cli.foreign_text import visible

if TYPE_CHECKING:
    from grpo_cli.config.schema import Config
    from grpo_cli.engine.sampling import Sampling
    from grpo_cli.models.load import Policy
    from grpo_cli.types import Message


def generate(
    model: Annotated[str, typer.Option("--model", metavar="DIR|REPO|tiny", help="The model to ask.")],
    prompt: Annotated[str | None, typer.Option("--prompt", metavar="TEXT", help="Ask this once.")] = None,
    chat: Annotated[bool, typer.Option("--chat", help="Talk; an empty line or Ctrl-D ends it.")] = False,
    system: Annotated[
        str | None,
        typer.Option("--system", metavar="TEXT", help="System message; by default that of the model's run."),
    ] = None,
    max_tokens: Annotated[
        int, typer.Option("--max-tokens", metavar="N", min=1, help="Longest answer in tokens.")
    ] = 512,
    temperature: Annotated[
        float,
        typer.Option("--temperature", metavar="T", min=0.0, help="0 takes the likeliest token each time."),
    ] = 0.0,
) -> None:
    """Complete a prompt, or chat.

    The answer is streamed to stdout.
    """
    if bool(prompt) == chat:
        raise typer.BadParameter("give either --prompt TEXT or --chat")
    with doing(f"loading {model} …") as tell:
        from grpo_cli.config.of_model import config_of_model

        config = config_of_model(model)
        find(model, tell)
        start_device()
        from grpo_cli.engine.sampling import Sampling
        from grpo_cli.models.load import load_policy

        policy = load_policy(model)
    sampling = Sampling(max_tokens, temperature, stop=tuple(config.stop))
    messages: list[Message] = []
    text = config.system_prompt if system is None else system
    if text:
        messages.append({"role": "system", "content": text})
    if prompt:
        answer(policy, [*messages, {"role": "user", "content": prompt}], config, sampling)
    else:
        talk(policy, messages, config, sampling)


def talk(policy: "Policy", messages: "list[Message]", config: "Config", sampling: "Sampling") -> None:
    """Read a line, answer it, remember both, until an empty line or the end of the input."""
    while question := ask():
        messages.append({"role": "user", "content": question})
        try:
            text = answer(policy, messages, config, sampling)
        except GrpoError as error:  # a turn the model's template refuses does not end the chat
            say(stderr_console(), Text(visible(str(error)), style="red"))
            messages.pop()
            continue
        messages.append({"role": "assistant", "content": text})


def ask() -> str:
    """The next line of a person or a pipe; empty at the end."""
    if sys.stdin.isatty():
        stderr_console().print("› ", end="", style="bold cyan")
    return sys.stdin.readline().strip()


def answer(policy: "Policy", messages: "list[Message]", config: "Config", sampling: "Sampling") -> str:
    """Stream one completion to stdout and return it, the prefix it was made to begin with included."""
    from grpo_cli.engine.stream import stream

    prefix = config.completion_prefix
    ids = policy.tokenizer.encode_prompt(messages, prefix)
    pieces = [prefix]
    show(prefix)
    for piece in stream(policy, ids, sampling, prefix):
        show(piece)
        pieces.append(piece)
    show("\n")
    return "".join(pieces)


def show(piece: str) -> None:
    """Write text as it comes; what could steer the terminal is made visible, tabs and line breaks stay."""
    console = stdout_console()
    console.file.write(encodable(visible(piece), console.encoding))
    console.file.flush()
