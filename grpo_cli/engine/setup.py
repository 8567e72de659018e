"""Set up a training run: load rewards, data and models, and find the way to compute its forwards.

run = prepare(config, listener)       # train.py trains it, dry_run.py tries one tiny step
"""

from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import mlx.core as mx
from mlx_lm.tuner.trainer import grad_checkpoint

from grpo_cli import device
from grpo_cli.config.fields import toml_value
from grpo_cli.config.local_model import check_name
from grpo_cli.config.resumable import is_gone
from grpo_cli.config.schema import Config
from grpo_cli.config.violation import is_meant
from grpo_cli.distributed.world import ALONE, World
from grpo_cli.engine import events
from grpo_cli.engine.guards.routing_difference import routing_difference
from grpo_cli.engine.judge import judge_in, show_judging, with_judge
from grpo_cli.engine.ranks.same_setup import check_same_setup, loaded
from grpo_cli.engine.rollout.chat_template import set_up_template
from grpo_cli.engine.rollout.prompts import Prompts, evaluation_prompts
from grpo_cli.engine.run import Run
from grpo_cli.engine.run_dir.checkpoint import START_ADAPTERS
from grpo_cli.engine.run_dir.inputs import checksums, fingerprint
from grpo_cli.engine.slower_ways import NO_LAYERS, slower_ways
from grpo_cli.engine.update.activation_checkpoint import can_checkpoint
from grpo_cli.engine.update.chunked_logits import find_head
from grpo_cli.engine.update.expert_balance import mixtures
from grpo_cli.engine.update.forward import ForwardPlan
from grpo_cli.engine.update.forward_probe import check_kind, check_unread, training_plan
from grpo_cli.engine.update.optimizer import Optimizer
from grpo_cli.environments.make import tooling_of
from grpo_cli.environments.table import Environments, load_environments
from grpo_cli.environments.task import load_task
from grpo_cli.errors import CheckpointError, ModelError
from grpo_cli.foreign_text import quoted
from grpo_cli.models.adapters import LoRA, add_adapters
from grpo_cli.models.caches import has_only_keys
from grpo_cli.models.find import warm_start
from grpo_cli.models.load import Policy, check_prompts, load_policy
from grpo_cli.models.tree import flat
from grpo_cli.rewards.table import load_rewards
from grpo_cli.trackers.table import check_installed
from grpo_cli.types import Example
from grpo_cli.words import plural


def prepare(
    config: Config,
    listener: events.Listener = events.silent,
    checkpoint: Path | None = None,
    world: World = ALONE,
    started_at: str = "",
) -> Run:
    """Load rewards, data and models, the fastest first, so that mistakes show early.

    `checkpoint`: source of the weights of a resumed run. `started_at`: the time when the run began, ISO 8601;
    empty = now. Raises TrainingError if the ranks of a `world` have loaded different files.
    """
    if config.exact_float32:  # a resumed run's configuration is known only now
        device.require_exact_float32()
    if world.is_first:
        check_installed(config.report_to)
    device.prepare()
    if checkpoint is None:  # else the checkpoint contains the model, or names its base
        check_name(config.model_name)
    check_unread(str(checkpoint) if checkpoint else config.model_name)
    if config.has_judge:
        check_name(config.judge)
        check_unread(config.judge)
    rewards = load_rewards(config.reward_functions)
    environments = load_environments(config.environments)
    examples = examples_of(config, config.train_split, environments, listener)
    held_out = examples_of(config, config.eval_split, environments, listener) if config.eval_steps else []
    mx.random.seed(config.seed)  # LoRA's initial weights
    policy = trainable_policy(config, checkpoint)
    needs_copy = config.kl_coeff > 0 and policy.lora is None
    if needs_copy:
        check_name(config.model_name)
    started_at = started_at or world.first(datetime.now().isoformat(timespec="seconds"))
    policy.tokenizer.now = datetime.fromisoformat(started_at)
    for notice in set_up_template(policy.tokenizer, config, examples):
        listener(events.Notice(notice))
    rewards = with_judge(rewards, config, policy.tokenizer.now)
    plan = forward_plan(config, policy, listener)
    tooling = tooling_of(config, policy.tokenizer, environments)
    train_prompts = Prompts(examples, policy.tokenizer, config, encoding(listener), tooling)
    eval_prompts = evaluation_prompts(held_out, policy, config, tooling)
    run = Run(
        config=config,
        policy=policy,
        reference=load_policy(config.model_name, config.dtype, for_training=True) if needs_copy else None,
        rewards=rewards,
        train_prompts=train_prompts,
        eval_prompts=eval_prompts,
        optimizer=Optimizer(config, policy.model),
        listener=listener,
        world=world,
        forward_plan=plan,
        make_session=tooling.make_session,
    )
    show_judging(rewards, lambda *progress: run.progress(events.RolloutProgress("judging", *progress)))
    count_prompts(run)
    tell_precision(run)
    record_inputs(run, examples, started_at)
    if world.size > 1:
        adapters = None if checkpoint else warm_start(config.model_name, config.adapter)
        facts = loaded(policy.path, checkpoint, run.state.data, adapters=adapters, judge=judge_path(run))
        check_same_setup(world, facts)
    return run


def forward_plan(config: Config, policy: Policy, listener: events.Listener) -> ForwardPlan:
    """The quickest correct way to compute the model's forwards, found by trying; sets `policy.plan`, too.

    Raises ModelError if no way is correct.
    """
    check_kind(policy.model)
    by_layer = config.grad_checkpoint and can_checkpoint(policy.model)
    if config.grad_checkpoint and not by_layer:
        grad_checkpoint(policy.model.layers[0])
        listener(events.Notice(NO_LAYERS))
    if config.router_aux_loss_coef and not mixtures(policy.model):
        raise ModelError(
            f"router_aux_loss_coef = {config.router_aux_loss_coef}, but {policy.source} has no experts whose "
            "router is a linear layer",
            "write `router_aux_loss_coef = 0.0`",
        )
    head = find_head(policy.model)
    # mlx-lm's checkpointed layer would fill its cache again during recomputation, and ours knows keys only.
    may_share = not config.grad_checkpoint or (by_layer and has_only_keys(policy.model, windows=True))
    policy.plan = plan = training_plan(policy.model, may_share, head, by_layer)
    forward = ForwardPlan(plan.share_prefix, head, by_layer, plan.shared)
    other_experts = routing_difference(policy.model, plan)
    for text in slower_ways(policy.model, plan, forward, may_share, other_experts):
        listener(events.Notice(text))
    return forward


def count_prompts(run: Run) -> None:
    """Encode the prompts that the run needs, check them, and report those that are too long."""
    prompts = run.train_prompts
    prompts.count(run.prompts_wanted)  # only these are encoded before the first step
    check_prompts(run.policy, prompts.ids)
    if prompts.left_out:
        run.skipped_prompts = prompts.left_out
        run.listener(events.Notice(skipped_notice(prompts, run.config)))


def tell_precision(run: Run) -> None:
    """Report that this device rounds the run's float32 products, if any of its matrices are float32."""
    arrays = flat(run.policy.model.parameters()).values()
    if device.is_float32_exact() or not any(a.dtype == mx.float32 and a.ndim > 1 for a in arrays):
        return
    run.listener(
        events.Notice(
            "this device computes float32 products as TF32, with 10 bits of mantissa instead of 23; "
            "`exact_float32 = true` computes them in full, more slowly"
        )
    )


def judge_path(run: Run) -> Path | None:
    """The folder of the judge's weights; None without a judge."""
    judge = judge_in(run.rewards)
    return judge.policy.path if judge else None


def record_inputs(run: Run, examples: list[Example], started_at: str) -> None:
    """Record in the run's state the data and files that it depends on, for comparison on resume."""
    run.state.data, run.state.started_in = fingerprint(examples), str(Path.cwd())
    run.state.started_at = started_at
    frozen = run.reference or (run.policy if run.policy.lora else None)
    folders = {"base weights": frozen.path if frozen else None, "judge weights": judge_path(run)}
    weights = {name: folder for name, folder in folders.items() if folder}
    run.state.inputs = checksums(run.config, examples, run.eval_prompts, weights)


def examples_of(
    config: Config, split: str, environments: Environments | None, listener: events.Listener
) -> list[Example]:
    """Load the examples of a split; notices and progress go to the listener."""
    return load_task(
        config,
        split,
        environments,
        lambda text: listener(events.Notice(text)),
        lambda text: listener(events.Loading(text)),
    )


def encoding(listener: events.Listener) -> Callable[[int, int], None]:
    """A callback that reports the number of encoded prompts to the listener."""
    return lambda count, total: listener(events.Loading(f"encoding prompts: {count:,} of {total:,}"))


def skipped_notice(prompts: Prompts, config: Config) -> str:
    """Message for training prompts that are left out as too long."""
    return (
        f"{prompts.left_out} of {plural(len(prompts.encoded), 'training prompt')} left out: longer than "
        f"max_prompt_length = {config.max_prompt_length} tokens"
    )


def trainable_policy(config: Config, checkpoint: Path | None = None) -> Policy:
    """Load the policy with trainable weights: all of them, new LoRA adapters, or those of a warm start.

    The source is a checkpoint of the run, or the configured model. Raises ModelError if LoRA keys contradict
    the adapters that training starts from, CheckpointError if the checkpoint lacks a warm start's.
    """
    if checkpoint is not None:
        return resumed_policy(config, checkpoint)
    adapters = warm_start(config.model_name, config.adapter)
    if adapters:
        policy = load_policy(str(adapters), config.dtype, base=config.model_name if config.adapter else "")
        check_shape(config, policy, adapters)
        policy.start = flat(policy.model.trainable_parameters())
    else:
        policy = load_policy(config.model_name, config.dtype, for_training=config.lora_rank == 0)
        make_trainable(policy, config)
    policy.model.train()
    return policy


def make_trainable(policy: Policy, config: Config) -> None:
    """Add new adapters if lora_rank > 0, else unfreeze every weight."""
    if not config.lora_rank:
        policy.model.unfreeze()
        return
    policy.lora = LoRA(
        rank=config.lora_rank, scale=config.adapter_scale, layers=config.lora_layers, kind=config.lora_type
    )
    add_adapters(policy.model, policy.lora)


def resumed_policy(config: Config, checkpoint: Path) -> Policy:
    """The policy of a checkpoint, with the adapters that its run started from."""
    is_here = not is_gone("model_name", config.model_name)
    is_adapters = is_here and warm_start(config.model_name) is not None
    base = config.model_name if is_here and not is_adapters else ""
    policy = load_policy(str(checkpoint), config.dtype, config.lora_rank == 0, base)
    if policy.lora is None:
        policy.model.unfreeze()
    if (checkpoint / START_ADAPTERS).is_file():
        policy.start = flat(mx.load(str(checkpoint / START_ADAPTERS)))
    elif config.adapter or is_adapters:
        raise CheckpointError(
            f"{checkpoint} lacks {START_ADAPTERS}, the adapters that the run started from",
            f"copy it from another checkpoint of the run: `ls {quoted(checkpoint.parent)}`",
            trouble="checkpoint-files",
        )
    policy.model.train()
    return policy


def check_shape(config: Config, policy: Policy, adapters: Path) -> None:
    """Raise ModelError for LoRA keys that contradict the adapters that training starts from."""
    lora = policy.lora
    if lora is None:
        return
    layers = lora.layers or len(policy.model.layers)
    held = {"lora_rank": lora.rank, "lora_type": lora.kind, "lora_layers": layers, "lora_scale": lora.scale}
    asked = {
        "lora_rank": config.lora_rank or lora.rank,
        "lora_type": config.lora_type if is_meant(config, "lora_type") else lora.kind,
        "lora_layers": config.lora_layers or layers,
        "lora_scale": config.adapter_scale if is_meant(config, "lora_scale") else lora.scale,
    }
    for key, value in asked.items():
        if value != held[key]:
            raise ModelError(
                f"{key} = {toml_value(getattr(config, key))}, but training starts from the adapters in "
                f"{adapters}, with {toml_value(held[key])}",
                f"leave {key} out; for new adapters on top of them, fuse them first: "
                f"`grpo convert --fuse {quoted(adapters)}`",
                trouble="contradiction",
            )
