"""Rules on the loss: keys that the chosen loss type cannot use, or that need another key.

What a loss type can do with them stands in its line of loss_types.py.
"""

from collections.abc import Iterator

from grpo_cli.config.fields import toml_value
from grpo_cli.config.loss_types import LOSS_TYPES
from grpo_cli.config.schema import Config
from grpo_cli.config.violation import Rule, Violation, is_meant


def updates_have_a_ratio(config: Config) -> Iterator[Violation]:
    """A loss without a ratio is strictly on-policy: one update per batch of rollouts."""
    if LOSS_TYPES[config.loss_type].has_ratio:
        return
    for key in ("num_iterations", "steps_per_generation"):
        value = getattr(config, key)
        if value > 1:
            message = f'{key} = {value} does not work with loss_type = "{config.loss_type}"'
            cure = (
                f'it has no ratio to correct for further updates; write `{key} = 1`, or `loss_type = "dapo"`'
            )
            yield Violation(keys=(key, "loss_type"), message=message, cure=cure)


def scaling_has_an_effect(config: Config) -> Iterator[Violation]:
    """`scale_rewards` has no effect with a loss that takes advantages as they are."""
    if LOSS_TYPES[config.loss_type].scales_rewards or not is_meant(config, "scale_rewards"):
        return
    if config.scale_rewards != "none":
        message = (
            f'scale_rewards = "{config.scale_rewards}" has no effect: {config.loss_type} does not scale '
            "advantages"
        )
        yield Violation(
            keys=("scale_rewards", "loss_type"),
            message=message,
            cure='write `scale_rewards = "none"`',
            severity="warning",
        )


def scaling_is_the_batchs(config: Config) -> Iterator[Violation]:
    """GDPO scales by the group and then by the batch, whatever `scale_rewards` or the loss type says."""
    if config.multi_objective_aggregation != "normalize_then_sum":
        return
    keeps = LOSS_TYPES[config.loss_type].scales_rewards
    if keeps and not is_meant(config, "scale_rewards"):
        return
    key = "scale_rewards" if keeps else "loss_type"
    message = f'{key} = "{getattr(config, key)}" does not change the scaling of advantages: '
    yield Violation(
        keys=(key, "multi_objective_aggregation"),
        message=message + 'multi_objective_aggregation = "normalize_then_sum" scales by group and batch',
        cure=f'write `{key} = "{Config.model_fields[key].default}"`, or '
        '`multi_objective_aggregation = "sum_then_normalize"`',
        severity="warning",
    )


def sequences_have_a_ratio(config: Config) -> Iterator[Violation]:
    """A loss without an importance ratio cannot have one by sequence."""
    if not LOSS_TYPES[config.loss_type].has_ratio and config.importance_sampling_level == "sequence":
        message = (
            f'importance_sampling_level = "sequence" does not work with loss_type = "{config.loss_type}"'
        )
        cure = 'it has no ratio; write `importance_sampling_level = "token"`, or `loss_type = "gspo"`'
        yield Violation(keys=("importance_sampling_level", "loss_type"), message=message, cure=cure)


def delta_is_beyond_the_clip(config: Config) -> Iterator[Violation]:
    """`delta`, the two-sided clip's outer bound, is above the ordinary clip."""
    if not config.delta:
        return
    if not LOSS_TYPES[config.loss_type].has_clip:
        message = f'delta = {config.delta} has no effect: loss_type = "{config.loss_type}" has no clip'
        yield Violation(
            keys=("delta", "loss_type"), message=message, cure="write `delta = 0.0`", severity="warning"
        )
    elif config.delta <= 1.0 + (config.clip_eps_high or config.clip_eps):
        high = 1.0 + (config.clip_eps_high or config.clip_eps)
        message = f"delta = {config.delta} is not above the upper clip, {high:g}"
        cure = "it bounds ratios that the clip does not; write `delta = 4.0`, or `delta = 0.0` to disable it"
        yield Violation(keys=("delta", "clip_eps_high", "clip_eps"), message=message, cure=cure)


def kl_options_need_kl(config: Config) -> Iterator[Violation]:
    """KL options have no effect with kl_coeff = 0."""
    for key in ("kl_estimator", "use_bias_correction_kl"):
        if is_meant(config, key) and not config.kl_coeff:
            message = f"{key} = {toml_value(getattr(config, key))} has no effect: kl_coeff is 0"
            yield Violation(
                keys=(key, "kl_coeff"), message=message, cure="write `kl_coeff = 0.001`", severity="warning"
            )


def correction_needs_another_sampler(config: Config) -> Iterator[Violation]:
    """Importance-sampling correction has no effect if rollouts come from the policy itself."""
    for key in ("importance_sampling_mode", "importance_sampling_cap"):
        if is_meant(config, key) and not config.quantize_for_rollouts:
            message = (
                f"{key} = {toml_value(getattr(config, key))} has no effect: quantize_for_rollouts is false"
            )
            cure = "write `quantize_for_rollouts = true`"
            yield Violation(
                keys=(key, "quantize_for_rollouts"), message=message, cure=cure, severity="warning"
            )


def correction_is_by_what_the_ratio_is(config: Config) -> Iterator[Violation]:
    """Sequence-level ratios need a sequence-level correction."""
    mode = config.importance_sampling_mode
    by_sequence = config.has_sequence_ratio
    written = is_meant(config, "importance_sampling_mode")
    if config.quantize_for_rollouts and by_sequence and written and mode.startswith("token"):
        message = (
            f'importance_sampling_mode = "{mode}" is applied by sequence here, as the ratio of the loss is'
        )
        cure = f'write `importance_sampling_mode = "{mode.replace("token", "sequence")}"`'
        keys = ("importance_sampling_mode", "importance_sampling_level", "loss_type")
        yield Violation(keys=keys, message=message, cure=cure, severity="warning")


RULES: tuple[Rule, ...] = (
    updates_have_a_ratio,
    scaling_has_an_effect,
    scaling_is_the_batchs,
    sequences_have_a_ratio,
    delta_is_beyond_the_clip,
    kl_options_need_kl,
    correction_needs_another_sampler,
    correction_is_by_what_the_ratio_is,
)
