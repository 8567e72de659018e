"""Rules on the loss: keys that the chosen loss type cannot use, or that need another key.

What a loss type can do with them stands in its line of loss_types.py.
"""

from collections.abc import Iterator

from grpo_cli.config.fields import default, toml_value
from grpo_cli.config.loss_types import LOSS_TYPES
from grpo_cli.config.schema import Config
from grpo_cli.config.violation import Rule, Violation, is_meant

# Keys of the weight π_old/π_rollout.
CORRECTION = ("importance_sampling_mode", "importance_sampling_cap", "importance_sampling_clip_min")

ADAPTIVE = ("entropy_target", "entropy_coeff_delta", "entropy_coeff_min", "entropy_coeff_max")


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
    """`scale_rewards` has no effect with a loss or estimator that does without."""
    estimator = config.advantage_estimator
    if not is_meant(config, "scale_rewards"):
        return
    message = f'scale_rewards = "{config.scale_rewards}" has no effect: '
    if estimator != "grpo":
        message += f'advantage_estimator = "{estimator}" has its own scale'
        cure = 'write `scale_rewards = "group"`, the default, or `advantage_estimator = "grpo"`'
        keys = ("scale_rewards", "advantage_estimator")
        yield Violation(keys=keys, message=message, cure=cure, severity="warning")
    elif not LOSS_TYPES[config.loss_type].scales_rewards and config.scale_rewards != "none":
        message += f"{config.loss_type} does not scale advantages"
        cure = 'write `scale_rewards = "none"`'
        keys = ("scale_rewards", "loss_type")
        yield Violation(keys=keys, message=message, cure=cure, severity="warning")


def scaling_is_the_batchs(config: Config) -> Iterator[Violation]:
    """GDPO compares by the group and then by the batch, whatever else says how."""
    if config.multi_objective_aggregation != "normalize_then_sum":
        return
    if config.advantage_estimator != "grpo":
        key = "advantage_estimator"
    elif not LOSS_TYPES[config.loss_type].scales_rewards:
        key = "loss_type"
    elif is_meant(config, "scale_rewards"):
        key = "scale_rewards"
    else:
        return
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


def token_ratios_stay_token_ratios(config: Config) -> Iterator[Violation]:
    """vespo and dppo need the ratio of each token."""
    if LOSS_TYPES[config.loss_type].by_token and config.importance_sampling_level == "sequence":
        message = (
            f'importance_sampling_level = "sequence" does not work with loss_type = "{config.loss_type}"'
        )
        cure = 'it needs the ratio of each token; write `importance_sampling_level = "token"`'
        yield Violation(keys=("importance_sampling_level", "loss_type"), message=message, cure=cure)


def keys_of_a_loss_need_it(config: Config) -> Iterator[Violation]:
    """Keys of one loss have no effect with another."""
    for name, loss in LOSS_TYPES.items():
        for key in loss.own_keys:
            if name != config.loss_type and is_meant(config, key):
                message = (
                    f"{key} = {toml_value(getattr(config, key))} has no effect: "
                    f'loss_type is "{config.loss_type}"'
                )
                cure = f'write `loss_type = "{name}"`'
                yield Violation(keys=(key, "loss_type"), message=message, cure=cure, severity="warning")


def routers_are_recorded(config: Config) -> Iterator[Violation]:
    """A layer that is recomputed in the backward keeps nothing of its router."""
    if config.router_aux_loss_coef and config.grad_checkpoint:
        yield Violation(
            keys=("router_aux_loss_coef", "grad_checkpoint"),
            message=f"router_aux_loss_coef = {config.router_aux_loss_coef} does not work with "
            "grad_checkpoint = true",
            cure="recomputed layers keep no router's scores; write `grad_checkpoint = false`, or "
            "`router_aux_loss_coef = 0.0`",
        )


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
    for key in ("kl_estimator", "use_bias_correction_kl", "sync_ref_model"):
        if is_meant(config, key) and not config.kl_coeff:
            message = f"{key} = {toml_value(getattr(config, key))} has no effect: kl_coeff is 0"
            yield Violation(
                keys=(key, "kl_coeff"), message=message, cure="write `kl_coeff = 0.001`", severity="warning"
            )


def reference_can_move(config: Config) -> Iterator[Violation]:
    """Only full fine-tuning has a reference model of its own; its options need the synchronization."""
    if config.sync_ref_model and config.lora_rank:
        message = f"sync_ref_model = true does not work with lora_rank = {config.lora_rank}"
        cure = "the reference is the model without its adapters; write `sync_ref_model = false`"
        yield Violation(keys=("sync_ref_model", "lora_rank"), message=message, cure=cure)
    for key in ("ref_model_mixup_alpha", "ref_model_sync_steps"):
        if is_meant(config, key) and not config.sync_ref_model:
            message = f"{key} = {toml_value(getattr(config, key))} has no effect: sync_ref_model is false"
            cure = "write `sync_ref_model = true`"
            yield Violation(keys=(key, "sync_ref_model"), message=message, cure=cure, severity="warning")


def entropy_bounds_are_bounds(config: Config) -> Iterator[Violation]:
    """The bounds of adaptive entropy are in order, and its keys need it."""
    least, most = config.entropy_coeff_min, config.entropy_coeff_max
    if least > most:
        message = f"entropy_coeff_min = {least} is above entropy_coeff_max = {most}"
        cure = f"write `entropy_coeff_min = {toml_value(min(least, most))}`"
        yield Violation(keys=("entropy_coeff_min", "entropy_coeff_max"), message=message, cure=cure)
    for key in ADAPTIVE if not config.use_adaptive_entropy else ():
        if is_meant(config, key):
            value = toml_value(getattr(config, key))
            message = f"{key} = {value} has no effect: use_adaptive_entropy is false"
            cure = "write `use_adaptive_entropy = true`"
            keys = (key, "use_adaptive_entropy")
            yield Violation(keys=keys, message=message, cure=cure, severity="warning")


def entropy_filter_filters(config: Config) -> Iterator[Violation]:
    """The choice of the entropies has no effect if all tokens have a policy loss."""
    if is_meant(config, "top_entropy_policy") and config.top_entropy_quantile == 1.0:
        message = 'top_entropy_policy = "current" has no effect: top_entropy_quantile is 1.0'
        keys = ("top_entropy_policy", "top_entropy_quantile")
        yield Violation(
            keys=keys, message=message, cure="write `top_entropy_quantile = 0.2`", severity="warning"
        )


def correction_needs_another_sampler(config: Config) -> Iterator[Violation]:
    """Importance-sampling correction has no effect if rollouts come from the policy itself."""
    for key in CORRECTION:
        if is_meant(config, key) and not config.quantize_for_rollouts:
            message = (
                f"{key} = {toml_value(getattr(config, key))} has no effect: quantize_for_rollouts is false"
            )
            cure = "write `quantize_for_rollouts = true`"
            yield Violation(
                keys=(key, "quantize_for_rollouts"), message=message, cure=cure, severity="warning"
            )


def correction_goes_with_the_loss(config: Config) -> Iterator[Violation]:
    """vespo takes token-level weights into its own; dppo has the sampler's ratio and needs none."""
    mode, kind = config.importance_sampling_mode, LOSS_TYPES[config.loss_type].sampler_weight
    if not config.quantize_for_rollouts:
        return
    if kind == "inside" and mode.startswith("sequence"):
        message = f'importance_sampling_mode = "{mode}" does not work with loss_type = "{config.loss_type}"'
        cure = f'write `importance_sampling_mode = "{mode.replace("sequence", "token")}"`'
        yield Violation(keys=("importance_sampling_mode", "loss_type"), message=message, cure=cure)
    for key in CORRECTION if kind == "none" else ():
        if is_meant(config, key):
            value = toml_value(getattr(config, key))
            message = f'{key} = {value} has no effect: loss_type = "{config.loss_type}" corrects by its ratio'
            cure = f"write `{key} = {toml_value(default(key))}`"
            yield Violation(keys=(key, "loss_type"), message=message, cure=cure, severity="warning")


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
    token_ratios_stay_token_ratios,
    keys_of_a_loss_need_it,
    routers_are_recorded,
    delta_is_beyond_the_clip,
    kl_options_need_kl,
    reference_can_move,
    entropy_bounds_are_bounds,
    entropy_filter_filters,
    correction_needs_another_sampler,
    correction_goes_with_the_loss,
    correction_is_by_what_the_ratio_is,
)
