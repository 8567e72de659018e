"""The turns of `grpo env try` on the terminal: masks, ids and texts, calls and answers, and the account.

turn 1
 mask 1   51 260
          3<|assistant_end|>
 user     higher                                                            0.00 s
 mask 0   257 104 105 103 104 101 114 258 259
          <|user_start|>higher<|user_end|><|assistant_start|>
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

from grpo_cli.cli.doing import erase
from grpo_cli.cli.terminal import is_interactive, say, stdout_console
from grpo_cli.words import plural

if TYPE_CHECKING:
    from grpo_cli.engine.rollout.play import Answered, Event, Span, TurnWritten
    from grpo_cli.engine.trial import Trial
    from grpo_cli.environments.run_tools import Observation
    from grpo_cli.environments.tools import Call
    from grpo_cli.types import Rollout

LABEL = 10  # columns of a label
IDS, CHARACTERS = 60, 1500  # shown of a span; `--json` has all
FORCED = "dim"
NO_MODEL = "ids and format are those of `tiny`; yours: --model NAME --by-hand"


def line(label: str, text: str, style: str = "", label_style: str = "bold") -> None:
    """A label and a text, whose further lines begin below its first."""
    console = stdout_console()
    if is_interactive(console):
        grid = Table.grid(padding=0)
        grid.add_column(width=LABEL, no_wrap=True)
        grid.add_column(overflow="fold")
        grid.add_row(Text(label, style=label_style), Text(text, style=style))
        say(console, grid)
        return
    first, *others = text.split("\n")
    say(console, Text("\n".join([f"{label:<{LABEL}}{first}", *(f"{'':<{LABEL}}{each}" for each in others)])))


def show_subject(trial: "Trial") -> None:
    """The environment and its tools, the example's columns, and the prompt."""
    config, example = trial.config, trial.prompt.example
    line("subject", config.environment or ", ".join(config.tools), "bold")
    if not trial.has_model:
        line("", NO_MODEL, "dim")
    for schema in trial.schemas:
        line("tool", tool_line(schema))
    if example.columns:
        line("columns", shortened(", ".join(f"{name}={value!r}" for name, value in example.columns.items())))
    for notice in trial.notices:
        line("", notice, "yellow")
    if trial.unread:
        line("", f"`reset` does not take: {', '.join(trial.unread)}", "yellow")
    ids = trial.prompt.ids
    line("prompt", f"{plural(len(ids), 'token')}, not trained", "dim")
    line("", shortened(trial.tokenizer.spell(ids)), FORCED)


def call_form(schema: dict[str, Any]) -> str:
    """A tool's call as it is typed: `lookup city=…`."""
    function = schema["function"]
    return " ".join([function["name"], *(f"{name}=…" for name in properties(function))])


def properties(function: dict[str, Any]) -> dict[str, Any]:
    """The parameters of a tool's schema by name."""
    return dict(function.get("parameters", {}).get("properties", {}))


def show_event(event: "Event") -> None:
    """Print a turn, or the answer to it."""
    from grpo_cli.engine.rollout.play import TurnWritten

    erase()  # what `doing` shows while a model writes
    if isinstance(event, TurnWritten):
        show_turn(event)
    else:
        show_answer(event)


def show_turn(turn: "TurnWritten") -> None:
    """The tokens of a turn: what was written, and what the environment put into it."""
    ended = {None: "", "eos": "", "stop": "stopped by a text of `stop`", "length": "cut off"}
    note = ended.get(turn.stop_reason.value if turn.stop_reason else None, "")
    line(f"turn {turn.number}", note, "yellow", "bold cyan")
    show_spans(turn.spans)


def show_answer(answer: "Answered") -> None:
    """The calls of a turn with their results, the other messages, and the tokens that they became."""
    for call, observation in answer.calls:
        line(" call", call_text(call, observation), "red" if observation.failed else "green")
        if observation.place:
            line("", f"raised at {observation.place}", "red")
    others = [message for message in answer.messages if message["role"] != "tool"]
    for message in others:
        line(f" {message['role']}", f"{shortened(str(message['content']))}   {answer.seconds:.2f} s", "green")
    shown = [observation.text for _, observation in answer.calls]
    results = [message["content"] for message in answer.messages if message["role"] == "tool"]
    if results != shown[: len(results)]:
        line("", "results were shortened to fit: max_result_tokens", "yellow")
    show_spans(answer.spans)


def show_spans(spans: "Sequence[Span]") -> None:
    """Each span's mask and ids, and its text below."""
    for span in spans:
        style = FORCED if span.mask == 0 else ""
        more = f" … ({plural(len(span.token_ids), 'token')})" if len(span.token_ids) > IDS else ""
        line(f" mask {span.mask}", " ".join(map(str, span.token_ids[:IDS])) + more, style)
        line("", shortened(span.text), style)


def call_text(call: "Call", observation: "Observation") -> str:
    """A call with its result and the time that it took: `lookup(city="Paris") → 2.1 million   0.01 s`."""
    return f"{spelled_call(call)} → {shortened(observation.text)}   {observation.seconds:.2f} s"


def spelled_call(call: "Call") -> str:
    """A call as Python spells it."""
    arguments = call.arguments
    if not isinstance(arguments, dict):
        return f"{call.name}({arguments!r})"
    return f"{call.name}({', '.join(f'{name}={value!r}' for name, value in arguments.items())})"


def shortened(text: str) -> str:
    """The text, cut after CHARACTERS."""
    if len(text) <= CHARACTERS:
        return text
    return f"{text[:CHARACTERS]} … ({len(text):,} characters)"


def tool_line(schema: dict[str, Any]) -> str:
    """A tool as the model is told of it: `guess(word: string): Guess the word.`"""
    function = schema["function"]
    named = ", ".join(f"{name}: {one.get('type', 'any')}" for name, one in properties(function).items())
    return f"{function['name']}({named}): {function.get('description', '')}"


def show_account(rollout: "Rollout", ending: str, has_reward: bool) -> None:
    """The end of the rollout: why it ended, its reward, and what it cost."""
    use = rollout.use
    assert use is not None
    line("end", ending, "bold")
    reward = f"{use.reward:g}" if use.reward is not None else "none"
    if use.reward is None and not has_reward:
        reward += ": no `get_reward`; the rewards of `reward_functions` score the completion"
    line("reward", reward, "bold green" if use.reward else "")
    written = sum(rollout.loss_mask)
    line(
        "account",
        f"{plural(use.turns, 'turn')}, {plural(use.calls, 'tool call')} ({use.failures} failed), "
        f"{use.seconds:.2f} s in the environment\n"
        f"{plural(written, 'token')} trained, {len(rollout.loss_mask) - written} not",
    )
