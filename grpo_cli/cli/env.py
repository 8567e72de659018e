"""`grpo env`: try an environment or tools, by hand or with a model."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from grpo_cli.cli.config import show_warnings
from grpo_cli.cli.doing import doing
from grpo_cli.cli.early import find
from grpo_cli.cli.env_view import call_form, show_account, show_event, show_subject
from grpo_cli.cli.heavy import start_device
from grpo_cli.cli.help import GrpoCommand, examples
from grpo_cli.cli.options import ConfigOption, DatasetKey, SeedKey, SetOption, given
from grpo_cli.cli.stuck import watched
from grpo_cli.cli.terminal import print_json, say, stderr_console
from grpo_cli.errors import ConfigError, ToolError

if TYPE_CHECKING:
    from grpo_cli.config.schema import Config
    from grpo_cli.engine.rollout.play import Event, Play
    from grpo_cli.engine.trial import Asked, Trial
    from grpo_cli.types import Rollout

HOW_TO_PLAY = "You are the model: an empty line is an empty turn, Ctrl-D ends the completion."
HOW_TO_CALL = "A line such as `/{}` calls a tool."
LINES = 'write one turn of the model per line; one of several lines as JSON: `"first\\nsecond"`'

env_app = typer.Typer(
    no_args_is_help=True,
    help="Try environments and tools.",
    epilog=examples(
        "grpo env try guess",
        "grpo env try my_env.py:Wordle --column word=house",
    ),
)


@env_app.command(
    "try",
    cls=GrpoCommand,
    epilog=examples(
        "grpo env try guess --model tiny",
        "grpo env try my_env.py:Wordle --column word=house --answers turns.txt",
    ),
)
def try_(
    entries: Annotated[
        list[str] | None,
        typer.Argument(metavar="SPEC", help="guess, my_env.py:Wordle, or my_tools.py:lookup."),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option("--model", metavar="DIR|REPO|tiny", help="The model that plays (default: you)."),
    ] = None,
    by_hand: Annotated[
        bool, typer.Option("--by-hand", help="Play yourself, in the tokens and chat format of --model.")
    ] = False,
    answers: Annotated[
        str | None,
        typer.Option("--answers", metavar="FILE", help="Play these turns, one per line; - reads stdin."),
    ] = None,
    column: Annotated[
        list[str] | None,
        typer.Option("--column", metavar="NAME=VALUE", help="A column for `reset`; may be repeated."),
    ] = None,
    prompt: Annotated[
        str | None, typer.Option("--prompt", metavar="TEXT", help="The user's message.")
    ] = None,
    dataset: DatasetKey = None,
    row: Annotated[
        int, typer.Option("--row", metavar="N", min=0, help="Row of the dataset, or episode, from 0.")
    ] = 0,
    temperature: Annotated[
        float | None,
        typer.Option(
            "--temperature", metavar="T", min=0.0, help="0 = greedy (default: the configuration's)."
        ),
    ] = None,
    seed: SeedKey = None,
    config: ConfigOption = None,
    set_: SetOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Play one completion of an environment or with tools.

    Shows each turn with its token ids and loss mask, calls and answers, and the reward at the end. Type the
    turns, texts or calls such as `/lookup city=Paris`, or let --model write them.
    """
    if not entries and not config:
        raise typer.BadParameter("name an environment: `grpo env try guess`, or --config")
    is_by_hand = by_hand or model is None or answers is not None
    turns = read_turns(answers) if answers else None
    with doing(f"loading {', '.join(entries or []) or config} …", shown=not as_json) as show:
        loaded, from_dataset = load(
            entries or [], config, model, [*given(dataset=dataset, seed=seed), *(set_ or [])]
        )
        if model:
            find(model, show)
        start_device()  # before what imports MLX
        from grpo_cli.engine.trial import Asked
        from grpo_cli.environments.subject import read_columns

        try:
            columns = read_columns(column or [])
        except ValueError as error:
            raise typer.BadParameter(f"write --column NAME=VALUE, not {str(error)!r}") from None
        asked = Asked(
            entries=entries or [],
            model=model,
            by_hand=is_by_hand,
            columns=columns,
            prompt=prompt,
            row=row,
            temperature=temperature,
            from_dataset=from_dataset,
        )
    run_trial(asked, loaded, turns, as_json)


def load(
    entries: list[str], name: str | None, model: str | None, overrides: list[str]
) -> "tuple[Config, bool]":
    """The configuration, and True if the example comes from its dataset.

    Without --config it is that of the model's own run, for its prompt format; else prompts are plain.
    """
    from grpo_cli.config.of_model import config_for_prompts

    loaded = config_for_prompts(model, name, overrides)
    if not entries or name:
        show_warnings(loaded.warnings)
    source = loaded.sources["dataset"]
    if name:
        return loaded.config, source == "--set" or (source != "default" and not loaded.config.num_episodes)
    return loaded.config, source == "--set"


def run_trial(asked: "Asked", config: "Config", turns: list[str] | None, as_json: bool) -> None:
    """Begin the rollout, let it be written, and print it with its end."""
    from grpo_cli.engine.trial import ending, prepare_trial
    from grpo_cli.environments.subject import files_of

    with watched(files_of(asked.entries, config)), without_circular_hint():
        with doing("preparing …", shown=not as_json):
            trial = prepare_trial(asked, config)
        record: list[dict[str, Any]] = []
        if not as_json:
            show_subject(trial)

        def tell(event: "Event") -> None:
            record.append(event_row(event))
            if not as_json:
                show_event(event)

        play = trial.play(tell)
        if trial.policy is None:
            play.by_hand(turns if turns is not None else ask_turns(play, trial))
        else:
            with doing(f"{asked.model} writes …", shown=not as_json):
                play.by_model(trial.policy)
        rollout = play.rollout()
    if as_json:
        print_json(document_of(trial, record, rollout, ending(play, trial.config)))
    else:
        show_account(rollout, ending(play, trial.config), trial.has_reward)


@contextmanager
def without_circular_hint() -> Iterator[None]:
    """Within the block, an error's hint that names this command is left out: it runs already."""
    try:
        yield
    except ToolError as error:
        if "grpo env try" in error.hint and error.trace:
            error.hint = ""
        raise


def event_row(event: "Event") -> dict[str, Any]:
    """A turn, or the answer to one, as plain data."""
    row = asdict(event)
    if calls := row.get("calls"):
        row["calls"] = [{**call, **observation} for call, observation in calls]
    return {"event": "turn" if "number" in row else "answer", **row}


def document_of(
    trial: "Trial", events: list[dict[str, Any]], rollout: "Rollout", ended: str
) -> dict[str, Any]:
    """The whole trial as plain data."""
    example = trial.prompt.example
    return {
        "environment": trial.config.environment,
        "tools": trial.schemas,
        "columns": example.columns,
        "messages": example.messages,
        "prompt_ids": trial.prompt.ids,
        "prompt": trial.tokenizer.spell(trial.prompt.ids),
        "events": events,
        "token_ids": rollout.token_ids,
        "loss_mask": rollout.loss_mask,
        "completion": rollout.text,
        "ended": ended,
        "stop_reason": rollout.stop_reason.value,
        **(asdict(rollout.use) if rollout.use else {}),
    }


def read_turns(name: str) -> list[str]:
    """The turns in a file, or on stdin (-). Raises ConfigError if it cannot be read."""
    try:
        text = sys.stdin.read() if name == "-" else Path(name).read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8"
        raise ConfigError(f"Turns cannot be read: {name}: {reason}", LINES, trouble="tools") from error
    return [turn_of(line) for line in text.splitlines()]


def turn_of(line: str) -> str:
    """The turn of one line: its text, or that of a JSON string."""
    import json

    if line.startswith('"') and line.endswith('"'):
        try:
            return str(json.loads(line))
        except ValueError:
            return line
    return line


def ask_turns(play: "Play", trial: "Trial") -> Iterator[str]:
    """The turns that a person types, or that stdin holds, until its end."""
    is_person = sys.stdin.isatty()
    if is_person:
        say(stderr_console(), Text(HOW_TO_PLAY, style="dim"))
        for schema in trial.schemas[:1]:
            say(stderr_console(), Text(HOW_TO_CALL.format(call_form(schema)), style="dim"))
    while True:
        if is_person:
            asked = "     … › " if play.is_in_a_turn else f"turn {play.session.turns} › "
            stderr_console().print(asked, end="", style="bold cyan", markup=False)
        line = sys.stdin.readline()
        if not line:
            if is_person:  # Ctrl-D leaves the cursor after the prompt
                say(stderr_console(), Text(""))
            return
        yield turn_of(line.rstrip("\r\n"))
