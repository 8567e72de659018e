"""Run on each rank: the gradient of one step for several loss types, written by rank 0.

    python -m tests.support.rank_gradients FILE PROMPTS
    python -m tests.support.rank_gradients FILE PROMPTS forced      # and those of a plain loop

`forced`: an environment wrote some of the tokens.
"""

import sys

from grpo_cli.device import prepare

prepare()

import mlx.core as mx  # noqa: E402  (after the device)
import mlx.nn as nn  # noqa: E402

from grpo_cli.config.loss_types import LOSS_TYPES  # noqa: E402
from grpo_cli.config.schema import Config  # noqa: E402
from grpo_cli.distributed.join import join  # noqa: E402
from grpo_cli.engine.ranks.balance import assign_ranks  # noqa: E402
from grpo_cli.engine.update.batch import Counting, make_microbatches  # noqa: E402
from grpo_cli.engine.update.gradient import accumulate  # noqa: E402
from grpo_cli.engine.update.objective import Objective  # noqa: E402
from grpo_cli.models.tree import flat  # noqa: E402
from grpo_cli.types import RolloutGroup  # noqa: E402
from tests.support.loss_cases import BASE, microbatches, with_forced_tokens  # noqa: E402
from tests.support.plain_loss import plain_loss  # noqa: E402
from tests.support.random_models import group, llama_policy, rollout  # noqa: E402
from tests.support.steps import objective_of  # noqa: E402

TYPES = ("grpo", "bnpo", "dapo", "gspo", "gmpo", "luspo", "vespo")


def groups(prompts: int) -> list[RolloutGroup]:
    """Groups of four completions with unlike lengths and advantages."""
    return [
        group(
            list(range(10 + place, 16 + 2 * place)),
            [
                rollout(
                    [(7 * place + 3 * turn + token) % 250 for token in range(2 + turn + place)], turn - 1.5
                )
                for turn in range(4)
            ],
        )
        for place in range(prompts)
    ]


def with_turns(file: str, prompts: int) -> None:
    """Every loss type, and rank 0 adds the plain loop's gradient under the name `plain`."""
    found = {}
    with join() as world:
        policy = llama_policy()
        made = with_forced_tokens(groups(prompts))
        for name in LOSS_TYPES:
            config = Config(**BASE, loss_type=name)
            batches = assign_ranks(microbatches(config, made, 1, policy), world.size)
            gradients, _ = accumulate(policy.model, batches, Objective(config), world=world)
            found |= {f"{name}.{key}": value for key, value in flat(gradients).items()}
            if world.is_first:
                loss = nn.value_and_grad(policy.model, plain_loss)
                _, expected = loss(policy.model, policy.model, made, config.model_dump())
                found |= {f"plain {name}.{key}": value for key, value in flat(expected).items()}
        if world.is_first:
            mx.savez(file, **found)


def main(file: str, prompts: int) -> None:
    """All losses, one after the other."""
    found = {}
    with join() as world:
        model = llama_policy().model
        for name in TYPES:
            batches = make_microbatches(
                groups(prompts), LOSS_TYPES[name], 32, 1, False, Counting(prompts_per_forward=2)
            )
            gradients, result = accumulate(
                model, assign_ranks(batches, world.size), objective_of(name, 1.0, 0.2, 0.2, 0.0), world=world
            )
            found |= {f"{name}.{key}": value for key, value in flat(gradients).items()}
            found |= {
                f"{name}.{key}": mx.array([float(getattr(result, key))])
                for key in ("loss", "grad_norm", "clip_ratio", "clip_ratio_low", "clip_ratio_high")
            }
        if world.is_first:
            mx.savez(file, **found)


if __name__ == "__main__":
    (with_turns if "forced" in sys.argv else main)(sys.argv[1], int(sys.argv[2]))
