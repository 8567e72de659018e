"""Rules on the whole run: values that are valid alone but have no useful effect together.

All of them are warnings. Values equal to the default never cause one.
"""

from collections.abc import Iterator

from grpo_cli.config.schema import Config
from grpo_cli.config.violation import Rule, Violation, is_meant

# Above these rates even the smallest models degrade within a few steps; usual rates are far lower.
HIGH_RATE, HIGH_LORA_RATE = 1e-3, 1e-2

ADAPTIVE = ("adamw", "adam", "lion")  # optimizers that move a weight by about the rate


def learning_rate_trains(config: Config) -> Iterator[Violation]:
    """The learning rate is above 0 and not far above the usual range."""
    rate, lora = config.learning_rate, config.lora_rank > 0 or bool(config.adapter)
    usual = "5e-5" if lora else "1e-6"
    keys = ("learning_rate", "lora_rank")
    if rate == 0:
        message = "learning_rate = 0.0 trains nothing: the model does not change"
        cure = f"write `learning_rate = {usual}`"
        yield Violation(keys=keys, message=message, cure=cure, severity="warning", trouble="learning-rate")
    elif rate > (HIGH_LORA_RATE if lora else HIGH_RATE) and config.optimizer in ADAPTIVE:
        what = "LoRA" if lora else "full fine-tuning"
        message = f"learning_rate = {rate:g} is very high for {what} with {config.optimizer}"
        cure = f"begin with `learning_rate = {usual}`, and raise it while grad_norm and kl stay stable"
        yield Violation(keys=keys, message=message, cure=cure, severity="warning", trouble="learning-rate")


def muon_has_its_keys(config: Config) -> Iterator[Violation]:
    """Keys of Muon have no effect with another optimizer."""
    for key in ("adamw_learning_rate", "muon_momentum"):
        if is_meant(config, key) and config.optimizer != "muon":
            message = f'{key} = {getattr(config, key):g} has no effect: optimizer is "{config.optimizer}"'
            cure = 'write `optimizer = "muon"`'
            yield Violation(keys=(key, "optimizer"), message=message, cure=cure, severity="warning")


def warmup_ends(config: Config) -> Iterator[Violation]:
    """Warmup ends before the run does."""
    steps = config.max_steps
    whole = round(config.warmup_ratio * steps) >= steps > 1 if steps else config.warmup_ratio == 1
    if whole:
        told = f"all {steps} steps of max_steps" if steps else "the whole run"
        message = f"warmup_ratio = {config.warmup_ratio:g} makes {told} warmup"
        cure = "the learning rate reaches its peak only at the last update; write `warmup_ratio = 0.1`"
        yield Violation(
            keys=("warmup_ratio", "max_steps"),
            message=message,
            cure=cure,
            severity="warning",
            trouble="schedule",
        )


def saves_come(config: Config) -> Iterator[Violation]:
    """At least one periodic checkpoint comes before the last step."""
    last, every = config.max_steps, config.save_steps
    if last and every > last and is_meant(config, "save_steps"):
        late = f"save_steps = {every} is beyond the last step, max_steps = {last}"
        message = f"{late}: nothing is saved before the end"
        cure = f"write `save_steps = {max(1, last // 4)}`, or `save_steps = 0` if that is intended"
        yield Violation(
            keys=("save_steps", "max_steps"),
            message=message,
            cure=cure,
            severity="warning",
            trouble="schedule",
        )


def examples_fill_a_step(config: Config) -> Iterator[Violation]:
    """There are at least as many training examples as prompts in a step."""
    samples, prompts = config.max_train_samples, config.prompts_per_step
    if 0 < samples < prompts:
        message = (
            f"max_train_samples = {samples} is less than one step's {prompts} prompts, batch_size × "
            "gradient_accumulation_steps: a step uses some of them more than once"
        )
        cure = f"write `max_train_samples = {prompts}` or more, or `gradient_accumulation_steps = 1`"
        keys = ("max_train_samples", "batch_size", "gradient_accumulation_steps")
        yield Violation(keys=keys, message=message, cure=cure, severity="warning", trouble="schedule")


def budget_holds_a_completion(config: Config) -> Iterator[Violation]:
    """The microbatch budget holds one full-length completion: completions are never split."""
    budget, most = config.microbatch_tokens, config.max_new_tokens
    if 0 < budget < most:
        message = (
            f"microbatch_tokens = {budget} is less than the longest completion, max_new_tokens = {most}: "
            "longer ones exceed it"
        )
        cure = f"write `microbatch_tokens = {8 * most}`, or `microbatch_tokens = 0` to use batch_size"
        yield Violation(
            keys=("microbatch_tokens", "max_new_tokens"),
            message=message,
            cure=cure,
            severity="warning",
            trouble="memory-needed",
        )


RULES: tuple[Rule, ...] = (
    learning_rate_trains,
    muon_has_its_keys,
    warmup_ends,
    saves_come,
    examples_fill_a_step,
    budget_holds_a_completion,
)
