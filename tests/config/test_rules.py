"""Rules between keys: each is broken by one configuration and kept by its neighbour."""

# ruff: noqa: E501 - one case a line

from typing import Any

import pytest

from grpo_cli.config.rules import RULES, breaches
from grpo_cli.config.schema import Config

BROKEN = [
    ({"num_generations": 1}, "error", "num_generations = 1 cannot learn: a group needs at least 2 completions"),
    ({"reward_functions": ["int"], "reward_weights": [1.0, 2.0]}, "error", "reward_weights has length 2, reward_functions has length 1"),
    ({"reward_functions": ["int"], "reward_weights": [0.0]}, "error", "reward_weights are all 0: nothing would be rewarded"),
    ({"repetition_penalty": 1.2}, "error", "repetition_penalty = 1.2 is refused in training"),
    ({"lora_dropout": 0.1, "lora_rank": 8}, "error", "lora_dropout = 0.1 is refused in training"),
    ({"lora_layers": 4}, "warning", "lora_layers = 4 has no effect: lora_rank is 0, full fine-tuning"),
    ({"eval_split": "train"}, "error", 'eval_split = "train" is the training split'),
    ({"loss_type": "reinforce", "num_iterations": 2}, "error", 'num_iterations = 2 does not go with loss_type = "reinforce"'),
    ({"loss_type": "reinforce", "scale_rewards": "group"}, "warning", 'scale_rewards = "group" has no effect: reinforce divides by no deviation'),
    ({"quantize_for_rollouts": True}, "warning", "quantize_for_rollouts = true has no effect for now"),
    ({"top_p": 0.9}, "warning", "top_p = 0.9 cuts tokens off while sampling; the loss uses the uncut logprobs"),
    ({"top_k": 20}, "warning", "top_k = 20 cuts tokens off while sampling; the loss uses the uncut logprobs"),
    ({"min_p": 0.1}, "warning", "min_p = 0.1 cuts tokens off while sampling; the loss uses the uncut logprobs"),
    ({"temperature": 0.01}, "warning", "temperature = 0.01 makes the completions of a group identical"),
]  # fmt: skip

KEPT: list[dict[str, Any]] = [
    {},
    {"num_generations": 2},
    {"reward_functions": ["int"], "reward_weights": [2.0]},
    {"reward_functions": ["int", "xmlcount"], "reward_weights": [0.0, 1.0]},
    {"lora_layers": 4, "lora_rank": 8},
    {"eval_split": "train", "eval_steps": 0},
    {"loss_type": "reinforce", "scale_rewards": "none"},
    {"loss_type": "reinforce"},
    {"loss_type": "dapo", "num_iterations": 2},
    {"temperature": 0.05},
]


@pytest.mark.parametrize(("values", "severity", "message"), BROKEN, ids=[row[2] for row in BROKEN])
def test_a_broken_rule_says_so(values: dict[str, Any], severity: str, message: str) -> None:
    (breach,) = breaches(Config.model_validate(values))
    assert (breach.severity, breach.message) == (severity, message)
    assert breach.keys[0] in values
    assert "write `" in breach.cure or "reward_weights" in breach.cure


@pytest.mark.parametrize("values", KEPT, ids=str)
def test_a_sound_configuration_breaks_nothing(values: dict[str, Any]) -> None:
    assert list(breaches(Config.model_validate(values))) == []


def test_every_rule_has_a_case_that_breaks_it() -> None:
    configs = [Config.model_validate(values) for values, *_ in BROKEN]
    silent = [rule.__name__ for rule in RULES if not any(list(rule(config)) for config in configs)]
    assert silent == []
