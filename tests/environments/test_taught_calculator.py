"""A model that was taught to call the calculator answers better with it than without."""

import random

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import pytest

from grpo_cli.config.schema import Config
from grpo_cli.engine.rollout.generate import generate
from grpo_cli.engine.rollout.sampling import Sampling
from grpo_cli.environments.calculator import Calculator
from grpo_cli.environments.make import tooling_of
from grpo_cli.models.load import Policy, load_policy
from grpo_cli.types import Example, Rollout

STEPS, ROWS = 140, 12
Row = tuple[list[int], list[int]]  # token ids, and 1 for each token that is taught


def example(rng: random.Random, policy: Policy) -> tuple[list[int], str]:
    """A product of two numbers of two digits: prompt ids and the right answer."""
    a, b = rng.randrange(12, 100), rng.randrange(12, 100)
    return policy.tokenizer.encode_prompt([{"role": "user", "content": f"{a}*{b}"}]), f"{a}*{b}"


def taught_row(rng: random.Random, policy: Policy) -> Row:
    """The product as a call of the calculator, its forced result, and the result copied."""
    tokenizer = policy.tokenizer
    prompt, product = example(rng, policy)
    calculator = Calculator(tokenizer)  # type: ignore[arg-type]
    call = [calculator.start, *tokenizer.encode(product), calculator.end]
    forced = [ids for token in call for ids in calculator.read(token)]
    copied = [*forced[1:-1], min(tokenizer.eos_ids)]
    ids = [*prompt, *call, *forced, *copied]
    mask = [0] * len(prompt) + [1] * len(call) + [0] * len(forced) + [1] * len(copied)
    return ids, mask


def teach(policy: Policy) -> None:
    """Supervised steps on the taught tokens."""
    rng, optimizer = random.Random(0), optim.AdamW(learning_rate=1e-3)

    def loss(model: nn.Module, ids: mx.array, mask: mx.array) -> mx.array:
        each = nn.losses.cross_entropy(model(ids[:, :-1]), ids[:, 1:])
        return (each * mask[:, 1:]).sum() / mask.sum()

    gradient = nn.value_and_grad(policy.model, loss)
    for _ in range(STEPS):
        rows = [taught_row(rng, policy) for _ in range(ROWS)]
        width = max(len(ids) for ids, _ in rows)
        ids = mx.array([ids + [0] * (width - len(ids)) for ids, _ in rows])
        mask = mx.array([mask + [0] * (width - len(mask)) for _, mask in rows]).astype(mx.float32)
        _, grads = gradient(policy.model, ids, mask)
        optimizer.update(policy.model, grads)
        mx.eval(policy.model.parameters(), optimizer.state)


def answers(policy: Policy, tools: list[str]) -> list[tuple[str, Rollout]]:
    """Greedy completions of 40 other problems, each with the product asked for."""
    rng = random.Random(1)
    asked = [example(rng, policy) for _ in range(40)]
    make = tooling_of(Config(tools=tools), policy.tokenizer).make_session
    groups = generate(
        policy, [prompt for prompt, _ in asked], 1, Sampling(max_new_tokens=32, temperature=0.0),
        sessions=lambda *_: make(Example(messages=[], answer="")),
    )  # fmt: skip
    return [(product, rollout) for (_, product), (rollout,) in zip(asked, groups, strict=True)]


def accuracy(found: list[tuple[str, Rollout]]) -> float:
    """Share of answers that end in the product."""
    right = []
    for product, rollout in found:
        a, _, b = product.partition("*")
        right.append(rollout.text.rpartition(">")[2] == str(int(a) * int(b)))
    return sum(right) / len(right)


@pytest.mark.slow
def test_a_taught_model_is_better_with_the_calculator_than_without() -> None:
    policy = load_policy("tiny")
    assert accuracy(answers(policy, ["calculator"])) == 0.0
    teach(policy)
    with_it, without = answers(policy, ["calculator"]), answers(policy, [])
    calls = [rollout.use.calls for _, rollout in with_it if rollout.use]
    assert calls == [1] * 40
    assert all(0 in rollout.loss_mask for _, rollout in with_it)
    assert accuracy(with_it) >= 0.8
    assert accuracy(without) <= 0.1
