"""`python -m tests.bench.slow_tools`: rollouts with slow tools beside the same with instant ones.

    python -m tests.bench.slow_tools --turn-tokens 128 --new-tokens 512      # the embedded model
    python -m tests.bench.slow_tools --model ./SmolLM2

Every completion has `new-tokens` sampled tokens in turns of random lengths, `turn-tokens` on average, and
each turn is answered by a tool that sleeps for a second, or not at all. The same seed gives the same
completions, so both do the same work. `idle` is the share of the time in which no row could be computed,
since all waited for their tools. JSON goes to stdout, a table to stderr. It asserts nothing.
"""

import json
import statistics
import sys
import time
from collections.abc import Callable
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from grpo_cli import device
from grpo_cli.environments.protocol import Environment, Reply, Turn
from grpo_cli.errors import GrpoError

ANSWER = (40, 50, 60, 70, 41, 51, 61, 71)  # ids that every tool answers with


class Sleeping(Environment):
    """Answers every turn after some seconds."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def respond(self, turn: Turn) -> Reply:  # noqa: ARG002
        """Eight ids."""
        time.sleep(self.seconds)
        return Reply(token_ids=ANSWER)


class Turns:
    """A tokenizer for which one id in `length` ends a turn; at a high temperature ids are equally likely."""

    def __init__(self, wrapped: Any, length: int) -> None:
        self.wrapped, self.eos_ids = wrapped, frozenset(range(0, wrapped.vocab_size, length))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.wrapped, name)


def measured(work: Callable[[float], Any], seconds: float) -> dict[str, float]:
    """The time of one generation with tools that take `seconds`, and the time in which every row waited."""
    from grpo_cli.engine.rollout.turns import Outside

    waited, wait = [0.0], Outside.wait

    def timed(self: Outside, on_wait: Callable[[], None]) -> None:
        begun = time.perf_counter()
        wait(self, on_wait)
        waited[0] += time.perf_counter() - begun

    Outside.wait = timed  # type: ignore[method-assign]
    begun = time.perf_counter()
    try:
        groups = work(seconds)
    finally:
        Outside.wait = wait  # type: ignore[method-assign]
    rollouts = [rollout for group in groups for rollout in group]
    return {
        "seconds": time.perf_counter() - begun,
        "idle_seconds": waited[0],
        "calls": sum(rollout.use.turns - 1 for rollout in rollouts),
        "tokens": sum(rollout.length for rollout in rollouts),
    }


def run(model: str, turn_tokens: int, new_tokens: int, tool_seconds: float, repeats: int) -> dict[str, Any]:
    """Instant and slow tools in turns, after one round to warm up; medians."""
    from grpo_cli.engine.rollout.generate import generate
    from grpo_cli.engine.rollout.sampling import KeyChain, Sampling
    from grpo_cli.environments.session import Limits, Session
    from grpo_cli.models.load import load_policy

    policy = load_policy(model)
    prompts = [policy.tokenizer.encode_text(text) for text in ("12 + 30 =", "What?", "7 + 8 =", "1 + 2 + 3")]
    policy.tokenizer = Turns(policy.tokenizer, turn_tokens)  # type: ignore[assignment]
    sampling = Sampling(max_new_tokens=new_tokens, temperature=20.0)
    limits = Limits(max_turns=1 << 20, max_result_tokens=1 << 20)

    def work(seconds: float) -> Any:
        return generate(
            policy, prompts, 8, sampling, random=KeyChain([1, 2]),
            sessions=lambda *_: Session(Sleeping(seconds), limits),
        )  # fmt: skip

    work(0.0)
    found: dict[float, list[dict[str, float]]] = {0.0: [], tool_seconds: []}
    for _ in range(repeats):
        for seconds, results in found.items():
            results.append(measured(work, seconds))
    instant, slow = (
        {name: statistics.median(one[name] for one in results) for name in results[0]}
        for results in found.values()
    )
    return {
        "model": model, "turn_tokens": turn_tokens, "new_tokens": new_tokens, "tool_seconds": tool_seconds,
        "instant": instant, "slow": slow, "ratio": slow["seconds"] / instant["seconds"],
        "idle": slow["idle_seconds"] / slow["seconds"],
    }  # fmt: skip


def table(result: dict[str, Any]) -> Table:
    """One row a kind of tool."""
    rendered = Table(title=f"{result['model']}: 4 prompts x 8 completions")
    for heading in ("tool", "seconds", "idle seconds", "calls", "tokens"):
        rendered.add_column(heading, justify="right")
    for name in ("instant", "slow"):
        one = result[name]
        rendered.add_row(
            name, f"{one['seconds']:.2f}", f"{one['idle_seconds']:.2f}",
            f"{one['calls']:.0f}", f"{one['tokens']:.0f}",
        )  # fmt: skip
    rendered.caption = f"idle {result['idle']:.1%}, {result['ratio']:.2f} times as long"
    return rendered


def main(
    model: Annotated[str, typer.Option(help="A model folder, a hub repository, or `tiny`.")] = "tiny",
    turn_tokens: Annotated[int, typer.Option(min=2, help="Tokens of a turn on average.")] = 32,
    new_tokens: Annotated[int, typer.Option(min=2, help="Sampled tokens of a completion.")] = 128,
    tool_seconds: Annotated[float, typer.Option(min=0.0, help="Seconds of a slow tool.")] = 1.0,
    repeats: Annotated[int, typer.Option(min=1, help="Timed repeats; the median counts.")] = 3,
) -> None:
    """Measure rollouts with slow tools beside rollouts with instant ones."""
    console = Console(stderr=True)
    try:
        device.prepare()
        result = run(model, turn_tokens, new_tokens, tool_seconds, repeats)
    except GrpoError as error:
        console.print(str(error), style="red", markup=False)
        raise typer.Exit(error.exit_code) from error
    console.print(table(result))
    sys.stdout.write(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    typer.run(main)
