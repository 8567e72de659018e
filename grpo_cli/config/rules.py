"""Rules between keys, beyond the bounds on single keys.

Each rule takes a whole configuration and yields violations. A `Violation` names all keys involved: the loader
drops it if one of them is invalid anyway, and points to the line of the first one in the file. To add a rule,
write a function and add it to `RULES`; rules that look at files belong in local_rules.py.
"""

from collections.abc import Iterator

from grpo_cli.config import (
    rules_of_data,
    rules_of_environments,
    rules_of_the_judge,
    rules_of_the_loss,
    rules_of_the_run,
)
from grpo_cli.config.fields import nearest, short, toml_value
from grpo_cli.config.local_rules import LOCAL_RULES
from grpo_cli.config.meant import meant
from grpo_cli.config.schema import Config
from grpo_cli.config.violation import Rule, Violation, is_meant
from grpo_cli.rewards.spec import RewardSpec
from grpo_cli.rewards.table import REWARDS, is_builtin, unknown_hint

COLD = 0.05  # below this temperature the completions of a group are practically identical


def group_has_a_spread(config: Config) -> Iterator[Violation]:
    """A group has at least 2 completions: advantages compare them with each other.

    reinforce_plus_plus compares with the batch, which may consist of groups of one.
    """
    by_batch = config.advantage_estimator == "reinforce_plus_plus"
    compared = config.num_generations * (config.prompts_per_generation if by_batch else 1)
    if compared < 2:
        message = (
            f"num_generations = {config.num_generations} cannot learn: a group needs at least 2 completions"
        )
        yield Violation(
            keys=("num_generations",),
            message=message,
            cure="write `num_generations = 8`",
            trouble="out-of-range",
        )


def rewards_exist(config: Config) -> Iterator[Violation]:
    """Each reward is built in or has the form `file.py:function`."""
    for name in config.reward_functions:
        spec = RewardSpec.parse(name)
        if spec.is_file and not spec.name:
            message = f"Reward function not named: {name}"
            cure = f"write `{spec.file}:function`, with the function's name"
        elif not spec.is_file and spec.name not in REWARDS:
            message, cure = f"Unknown reward function: {short(name)}", unknown_hint(spec.name)
            if known := meant_rewards(config.reward_functions):
                cure = f"write `reward_functions = {toml_value(known)}`; {cure}"
        else:
            continue
        yield Violation(keys=("reward_functions",), message=message, cure=cure, trouble="rewards")


def meant_rewards(names: list[str]) -> list[str] | None:
    """The entries with each unknown name replaced by the probable one; None if one has no match."""
    entries = meant("reward_functions", names) or names
    known = [
        name if is_builtin(name) or RewardSpec.parse(name).is_file else nearest(name, REWARDS)
        for name in entries
    ]
    return None if None in known else [name for name in known if name]


def eval_reward_is_known(config: Config) -> Iterator[Violation]:
    """`eval_reward` is a built-in reward or one of reward_functions."""
    name = config.eval_reward
    if name and name not in config.reward_functions and not is_builtin(name):
        message = f"eval_reward = {short(name)!r} is neither built in nor one of reward_functions"
        cure = f'write `eval_reward = "{config.reward_functions[0]}"`, or add yours to `reward_functions`'
        yield Violation(
            keys=("eval_reward", "reward_functions"), message=message, cure=cure, trouble="rewards"
        )


def one_weight_per_reward(config: Config) -> Iterator[Violation]:
    """`reward_weights` has one entry per reward function."""
    weights, rewards = len(config.reward_weights), len(config.reward_functions)
    if weights and weights != rewards:
        message = f"reward_weights has length {weights}, reward_functions has length {rewards}"
        ones = ", ".join(["1.0"] * rewards)
        cure = (
            f"write `reward_weights = [{ones}]`, one weight for each of {', '.join(config.reward_functions)}"
        )
        yield Violation(keys=("reward_weights", "reward_functions"), message=message, cure=cure)


def some_weight_counts(config: Config) -> Iterator[Violation]:
    """At least one weight is not 0: otherwise every reward is 0 and there is nothing to learn."""
    if config.reward_weights and not any(config.reward_weights):
        ones = toml_value([1.0] * len(config.reward_weights))
        cure = f"write `reward_weights = {ones}`, or remove reward_weights: then each weight is 1"
        yield Violation(
            keys=("reward_weights",), message="reward_weights are all 0: every reward would be 0", cure=cure
        )


def policy_is_what_was_sampled(config: Config) -> Iterator[Violation]:
    """The loss uses the same distribution that the tokens were sampled from."""
    if config.repetition_penalty != 1.0:
        message = f"repetition_penalty = {config.repetition_penalty} is refused in training"
        cure = (
            "the loss would use a different distribution from the sampled one; "
            "write `repetition_penalty = 1.0` and steer with `temperature` or `min_p`"
        )
        yield Violation(keys=("repetition_penalty",), message=message, cure=cure)
    if config.lora_dropout > 0:
        message = f"lora_dropout = {config.lora_dropout} is refused in training"
        cure = "rollouts are sampled without dropout, but the loss would use it; write `lora_dropout = 0.0`"
        yield Violation(keys=("lora_dropout",), message=message, cure=cure)


def adapter_keys_need_adapters(config: Config) -> Iterator[Violation]:
    """LoRA options have no effect with full fine-tuning (lora_rank = 0)."""
    for key in ("lora_layers", "lora_type", "use_rslora"):
        if is_meant(config, key) and not config.lora_rank and not config.adapter:
            message = (
                f"{key} = {toml_value(getattr(config, key))} has no effect: lora_rank is 0, full fine-tuning"
            )
            yield Violation(
                keys=(key, "lora_rank"), message=message, cure="write `lora_rank = 8`", severity="warning"
            )


def evaluation_is_held_out(config: Config) -> Iterator[Violation]:
    """The evaluation split differs from the training split: its accuracy does not measure generalisation."""
    if config.eval_steps and config.eval_split == config.train_split:
        message = f'eval_split = "{config.eval_split}" is the training split'
        cure = 'write `eval_split = "test"`, or `eval_steps = 0` to disable evaluation'
        yield Violation(keys=("eval_split", "train_split", "eval_steps"), message=message, cure=cure)


def penalty_fits_the_completion(config: Config) -> Iterator[Violation]:
    """The overlong penalty's range is at most max_new_tokens; a longer one penalises every completion."""
    if config.soft_overlong_tokens > config.max_new_tokens:
        message = (
            f"soft_overlong_tokens = {config.soft_overlong_tokens} is more than max_new_tokens = "
            f"{config.max_new_tokens}"
        )
        cure = f"write `soft_overlong_tokens = {max(1, config.max_new_tokens // 5)}`"
        yield Violation(keys=("soft_overlong_tokens", "max_new_tokens"), message=message, cure=cure)


def budget_needs_dynamic_sampling(config: Config) -> Iterator[Violation]:
    """`dynamic_sampling_budget` has no effect unless `dynamic_sampling` is on."""
    if is_meant(config, "dynamic_sampling_budget") and not config.dynamic_sampling:
        message = (
            f"dynamic_sampling_budget = {config.dynamic_sampling_budget} has no effect: "
            "dynamic_sampling is false"
        )
        yield Violation(
            keys=("dynamic_sampling_budget", "dynamic_sampling"),
            message=message,
            cure="write `dynamic_sampling = true`",
            severity="warning",
        )


def sampling_is_whole(config: Config) -> Iterator[Violation]:
    """Truncated sampling keeps the ratio exact (engine/rollout/sampling.py), but removed tokens are never
    explored.
    """
    for key, neutral in (("top_p", 1.0), ("top_k", 0), ("min_p", 0.0)):
        value = getattr(config, key)
        if value != neutral:
            message = f"{key} = {value} cuts tokens off while sampling, and those are never explored"
            cure = (
                "the ratio new/old stays exact, because the kept mass is recorded and cancels in it, but the "
                "gradient is that of the full distribution; to sample from the full distribution "
                f"write `{key} = {neutral}`"
            )
            yield Violation(
                keys=(key,), message=message, cure=cure, severity="warning", trouble="sampling-cut"
            )


def groups_can_differ(config: Config) -> Iterator[Violation]:
    """Temperature is high enough for completions, and so rewards, to differ within a group."""
    if config.temperature < COLD:
        message = f"temperature = {config.temperature} makes the completions of a group identical"
        cure = "write `temperature = 0.7` or more"
        yield Violation(
            keys=("temperature",),
            message=message,
            cure=cure,
            severity="warning",
            trouble="identical-completions",
        )


RULES: tuple[Rule, ...] = (
    group_has_a_spread,
    rewards_exist,
    eval_reward_is_known,
    one_weight_per_reward,
    some_weight_counts,
    policy_is_what_was_sampled,
    adapter_keys_need_adapters,
    evaluation_is_held_out,
    penalty_fits_the_completion,
    budget_needs_dynamic_sampling,
    sampling_is_whole,
    groups_can_differ,
    *rules_of_the_loss.RULES,
    *rules_of_the_run.RULES,
    *rules_of_data.RULES,
    *rules_of_environments.RULES,
    *rules_of_the_judge.RULES,
)


def breaches(config: Config, on_this_machine: bool = False) -> Iterator[Violation]:
    """All violations of a configuration, in the order of the rules.

    `on_this_machine`: also check the files it names. Their findings know the model, so they replace less
    specific warnings with the same `trouble`.
    """
    local = [breach for rule in LOCAL_RULES for breach in rule(config)] if on_this_machine else []
    told = {(breach.keys[0], breach.trouble) for breach in local}
    for rule in RULES:
        for breach in rule(config):
            if breach.severity == "error" or (breach.keys[0], breach.trouble) not in told:
                yield breach
    yield from local
