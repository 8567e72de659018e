"""Trial of one kind of model: everything that a run does with it, against plain forwards of single sequences.

    trial = tried("qwen3_next")
    trial.verdict, trial.logprobs        # "ok", 1.4e-06

The model is tiny and random, in float32; none of its arrays is left at the zeros or ones that it began with.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import mlx.core as mx
import mlx.nn as nn
from mlx_lm.utils import save_config, save_model

from grpo_cli.config.loss_types import LOSS_TYPES
from grpo_cli.engine.rollout.generate import generate
from grpo_cli.engine.rollout.sampling import Sampling
from grpo_cli.engine.update.batch import make_microbatches
from grpo_cli.engine.update.chunked_logits import find_head
from grpo_cli.engine.update.forward_probe import check_kind, distance, training_plan
from grpo_cli.engine.update.gradient import accumulate
from grpo_cli.errors import ModelError
from grpo_cli.models.adapters import ADAPTER_LAYERS, LoRA, add_adapters, load_adapters, save_adapters
from grpo_cli.models.batch_plan import BatchPlan
from grpo_cli.models.classes import load_weights
from grpo_cli.models.load import Policy
from grpo_cli.models.repairs import repaired
from grpo_cli.models.tree import flat
from grpo_cli.types import Rollout, RolloutGroup
from tests.support.model_kinds import config_of, module_of
from tests.support.random_models import ByteTokenizer, group
from tests.support.shaken_adapters import shaken
from tests.support.steps import objective_of

# Three lengths, one of them twice, so that rows of equal length are together, too.
PROMPTS = [[5, 9, 17, 33, 12, 44, 7, 21, 30, 3, 14], [8, 2, 19], [4, 200, 6], [61, 11, 90, 2, 35, 7, 18]]
NEW_TOKENS = 6
ADVANTAGES = (1.0, -0.4, -0.6)
ADAPTERS = LoRA(rank=4, scale=2.0)
ALLOWED = 1e-4  # of every difference, in float32; of a gradient's relative to its norm
QUANTIZED_BY = 32  # numbers with one scale

Verdict = Literal["ok", "wrong", "refused", "not here"]
# Exceptions of a model that does not fit what a run does with it.
BREAKDOWNS = (ArithmeticError, AttributeError, LookupError, ModelError, RuntimeError, TypeError, ValueError)


class Endless(ByteTokenizer):
    """A tokenizer without an end token."""

    eos_ids = frozenset()


@dataclass(kw_only=True)
class Trial:
    """Result of a trial. Differences are the largest; infinite if something raised, as `reason` says."""

    name: str
    verdict: Verdict = "ok"
    reason: str = ""
    plan: BatchPlan | None = None
    differences: dict[str, float] = field(default_factory=dict)  # by MEASURES
    targets: int = 0  # layers that have adapters
    seconds: float = 0.0

    @property
    def way(self) -> str:
        """Sampling and training as the plan has them."""
        if self.plan is None:
            return ""
        plan = self.plan
        trained = f"{plan.shared}, shared" if plan.share_prefix else f"{plan.trained}, whole"
        return f"{plan.sampled} / {trained}"


# --- making -------------------------------------------------------------------------------------------


def make(name: str, **changes: Any) -> nn.Module:
    """A small random model of a kind, in float32, as it is loaded. `changes`: other values of config.json."""
    return moved(repaired(unrepaired(name, **changes))).train()  # as a run sets it


def unrepaired(name: str, **changes: Any) -> nn.Module:
    """The model as mlx-lm makes it."""
    module = import_module(f"mlx_lm.models.{module_of(name)}")
    mx.random.seed(0)
    model: nn.Module = module.Model(module.ModelArgs.from_dict(config_of(name, **changes)))
    model.set_dtype(mx.float32)
    return model


def moved(model: nn.Module) -> nn.Module:
    """The model with other numbers, as after an update."""
    new = [
        (path, array + 0.05 * mx.random.normal(array.shape))
        for path, array in flat(model.parameters()).items()
        if mx.issubdtype(array.dtype, mx.floating)
    ]
    model.load_weights(new, strict=False)
    mx.eval(model.parameters())
    return model


def planned(model: nn.Module) -> BatchPlan:
    """As a run decides it. Raises ModelError where it refuses."""
    check_kind(model)
    return training_plan(model, True, find_head(model))


def quantized(model: nn.Module, embeddings: bool) -> nn.Module:
    """The model with 4-bit layers where their width allows it, computed once."""
    allows: Any = getattr(model, "quant_predicate", None) or (lambda *_: True)

    def fits(path: str, layer: nn.Module) -> bool:
        is_layer = hasattr(layer, "to_quantized") and "weight" in layer
        is_chosen = embeddings or not isinstance(layer, nn.Embedding)
        return (
            is_layer
            and is_chosen
            and layer.weight.shape[-1] % QUANTIZED_BY == 0
            and bool(allows(path, layer))
        )

    nn.quantize(model, QUANTIZED_BY, 4, class_predicate=fits)
    mx.eval(model(mx.array(PROMPTS[:1])))
    return model


def adapted(model: nn.Module) -> nn.Module:
    """The model with adapters that change what it computes."""
    add_adapters(model, ADAPTERS)
    return shaken(model)


# --- what a run does ----------------------------------------------------------------------------------


def sampled(
    model: nn.Module, plan: BatchPlan, prompts: list[list[int]], size: int, temperature: float = 0.0
) -> list[list[Rollout]]:
    """Groups of `size` completions."""
    policy = Policy(model=model, tokenizer=Endless(), config={}, path=Path(), source="random", plan=plan)  # type: ignore[arg-type]
    return generate(policy, prompts, size, Sampling(max_new_tokens=NEW_TOKENS, temperature=temperature))


def sampled_groups(model: nn.Module, plan: BatchPlan) -> list[RolloutGroup]:
    """Three completions of each prompt, with advantages."""
    mx.random.seed(1)
    rollouts = sampled(model, plan, PROMPTS, len(ADVANTAGES), 1.0)
    groups = [group(prompt, some) for prompt, some in zip(PROMPTS, rollouts, strict=True)]
    for one in groups:
        for rollout, advantage in zip(one.rollouts, ADVANTAGES, strict=True):
            rollout.advantage = advantage
    return groups


def updated(
    model: nn.Module, plan: BatchPlan, groups: list[RolloutGroup]
) -> tuple[dict[str, mx.array], float]:
    """The gradient of one update, and the largest |Δ logprob| between its forward and the sampler."""
    batches = make_microbatches(groups, LOSS_TYPES["grpo"], NEW_TOKENS, len(groups), has_reference=False)
    objective = objective_of(
        "grpo", 1.0, 0.2, 0.2, 0.0, plan.share_prefix, head=find_head(model), together=plan.shared
    )
    parts = [part for batch in batches for part in batch.in_rows(1 if plan.trained == "single" else None)]
    gradients, result = accumulate(model, parts, objective)
    gaps = [
        mx.abs(found - part.old_logprobs).max() for part, found in zip(parts, result.logprobs, strict=True)
    ]
    return flat(gradients), number(mx.stack(gaps).max())


def plain(model: Any, groups: list[RolloutGroup]) -> tuple[dict[str, mx.array], float]:
    """As `updated`, by plain autograd of whole single sequences without a cache.

    On policy the gradient of GRPO's loss is that of −mean over the completions of A · mean(log π).
    """
    rows = [(one.prompt_ids, rollout) for one in groups for rollout in one.rollouts]

    def loss(prompt: list[int], rollout: Rollout) -> tuple[mx.array, mx.array]:
        ids = mx.array([prompt + rollout.token_ids])
        logprobs = nn.log_softmax(model(ids)[0, len(prompt) - 1 : -1].astype(mx.float32))
        chosen = mx.take_along_axis(logprobs, mx.array(rollout.token_ids)[:, None], axis=1)[:, 0]
        return -rollout.advantage * chosen.mean() / len(rows), chosen

    sums: dict[str, mx.array] = {}
    gap = 0.0
    for prompt, rollout in rows:
        (_, chosen), gradient = nn.value_and_grad(model, loss)(prompt, rollout)
        sums = {path: array + sums.get(path, 0.0) for path, array in flat(gradient).items()}
        mx.eval(sums)
        gap = max(gap, number(mx.abs(chosen - mx.array(rollout.logprobs)).max()))
    return sums, gap


def number(array: mx.array) -> float:
    """A scalar; infinite for NaN, so that it is larger than every other."""
    value: Any = array.item()
    return math.inf if math.isnan(value) else float(value)


# --- measures -----------------------------------------------------------------------------------------


def deviation(model: nn.Module, plan: BatchPlan) -> float:
    """The largest |Δ logprob| between sampler and update."""
    return updated(model, plan, sampled_groups(model, plan))[1]


def compare(model: nn.Module, plan: BatchPlan) -> tuple[float, float]:
    """Largest |Δ logprob| of sampler, update and plain forward, and the distance of the gradients."""
    groups = sampled_groups(model, plan)
    gradient, gap = updated(model, plan, groups)
    expected, plain_gap = plain(model, groups)
    apart = distance(gradient, expected)
    return max(gap, plain_gap), math.inf if math.isnan(apart) else apart


def of_rows(found: list[Rollout], alone: Rollout) -> float:
    """Largest |Δ logprob| of greedy completions and one sampled alone; infinite if tokens differ."""
    if any(row.token_ids != alone.token_ids for row in found):
        return math.inf
    gaps = [abs(a - b) for row in found for a, b in zip(row.logprobs, alone.logprobs, strict=True)]
    return max(gaps)


def batch_and_group(model: nn.Module, plan: BatchPlan) -> tuple[float, float]:
    """Prompts of three lengths together, and three completions of one prompt, each beside single rows."""
    alone = [sampled(model, plan, [prompt], 1)[0][0] for prompt in PROMPTS]
    together = sampled(model, plan, PROMPTS, 1)
    by_prompt = max(of_rows(rows, single) for rows, single in zip(together, alone, strict=True))
    return by_prompt, of_rows(sampled(model, plan, PROMPTS[:1], 3)[0], alone[0])


def saved_and_loaded(model: nn.Module, name: str) -> float:
    """Largest difference of logits to those of the model that was saved and loaded."""
    ids = mx.array(PROMPTS[:1])
    with TemporaryDirectory() as folder:
        save_model(folder, model)
        save_config(config_of(name), Path(folder) / "config.json")
        loaded, _ = load_weights(Path(folder))
        return number(mx.abs(loaded(ids) - model(ids)).max())


def adapters_saved_and_loaded(model: nn.Module, name: str, weights: dict[str, mx.array]) -> float:
    """The same for the adapters of an adapted model, on its base of these weights."""
    ids = mx.array(PROMPTS[:1])
    base = make(name)
    base.load_weights(list(weights.items()))
    with TemporaryDirectory() as folder:
        save_adapters(model, ADAPTERS, "base", Path(folder))
        load_adapters(base, Path(folder))
        return number(mx.abs(base(ids) - model(ids)).max())


# --- the whole ----------------------------------------------------------------------------------------

MEASURES = ("logprobs", "gradient", "LoRA gradient", "batch", "group", "saved", "4-bit")


def not_here(error: BaseException) -> str:
    """The reason if something is missing on this machine; empty for any other error."""
    if isinstance(error, SystemExit | ImportError):
        return "needs a package that is not installed" if isinstance(error, SystemExit) else str(error)
    return "needs Metal: it has no other kernel" if "No Metal back-end" in str(error) else ""


def tried(name: str, only_core: bool = False) -> Trial:
    """Try a kind. `only_core`: without batches, groups, saving and quantization."""
    started = time.perf_counter()
    trial = Trial(name=name)
    try:
        model = make(name)
        trial.plan = planned(model)
    except (SystemExit, *BREAKDOWNS) as error:
        trial.reason = not_here(error) or words_of(error)
        trial.verdict = "not here" if not_here(error) else "refused" if type(error) is ModelError else "wrong"
    else:
        measure(trial, model, only_core)
    trial.seconds = time.perf_counter() - started
    return trial


def measure(trial: Trial, model: nn.Module, only_core: bool) -> None:
    """Fill in the differences and the verdict."""
    plan = trial.plan
    assert plan is not None
    moved(model)  # some models keep products of weights, which an update makes obsolete
    weights = flat(model.parameters())
    note(trial, ("logprobs", "gradient"), lambda: compare(model, plan))
    if not only_core:
        note(trial, ("batch", "group"), lambda: batch_and_group(model, plan))
        note(trial, ("saved",), lambda: (saved_and_loaded(model, trial.name),))
    note(trial, ("LoRA gradient",), lambda: compare(adapted(model), plan)[1:])
    trial.targets = sum(isinstance(layer, ADAPTER_LAYERS) for layer in model.modules())
    if not trial.targets:
        trial.verdict, trial.reason = "wrong", "no layer takes adapters"
    if not only_core:
        note(trial, ("saved",), lambda: (adapters_saved_and_loaded(model, trial.name, weights),))
        on_four_bits(trial, plan)


def on_four_bits(trial: Trial, plan: BatchPlan) -> None:
    """Adapters on a quantized base; no fault where mlx-lm cannot quantize or then run the model itself."""
    for embeddings in (True, False):
        try:
            base = quantized(make(trial.name), embeddings)
        except BREAKDOWNS as error:
            trial.reason = (
                f"mlx-lm cannot quantize {'it' if not embeddings else 'its embeddings'}: {words_of(error)}"
            )
            continue
        note(trial, ("4-bit",), lambda base=base: (max(compare(adapted(base), plan)),))
        return


def note(trial: Trial, names: tuple[str, ...], found: Callable[[], tuple[float, ...]]) -> None:
    """Add differences; one that is too large, or an exception, makes the verdict "wrong"."""
    try:
        values = found()
    except BREAKDOWNS as error:
        values = (math.inf,) * len(names)
        trial.reason = "; ".join(filter(None, (trial.reason, f"{names[0]}: {words_of(error)}")))
    for name, value in zip(names, values, strict=True):
        trial.differences[name] = max(value, trial.differences.get(name, 0.0))
        if not value <= ALLOWED:
            trial.verdict = "wrong"


def words_of(error: BaseException) -> str:
    """One line for an error."""
    if isinstance(error, ModelError):
        return error.message
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:200]}"
