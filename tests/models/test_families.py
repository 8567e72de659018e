"""The most used types of model, tiny and random: rollouts, gradients and adapters against plain single rows.

test_all_families.py has all others. The table of `python -m tests.bench.architectures`
(tests/bench/RESULTS.md) has more: batches, groups, saving and quantized bases.
"""

import math
from importlib.metadata import version

import mlx.core as mx
import mlx.nn as nn
import pytest

from grpo_cli.errors import ModelError
from grpo_cli.models.batch_plan import BatchPlan
from grpo_cli.models.tree import flat
from tests.support import kind_trials
from tests.support.kind_trials import MEASURES, Trial, adapted, compare, make, planned, tried
from tests.support.kind_verdicts import MOST_USED, problem_of
from tests.support.model_kinds import KINDS, WINDOW, config_of, untried

OF_MLX_LM = "0.32.2"  # the version whose types tests/support/model_kinds has

METAL = "needs Metal: it has no other kernel"


@pytest.mark.parametrize("name", MOST_USED)
def test_the_most_used_kinds_agree_with_plain_single_rows(name: str) -> None:
    trial = tried(name, only_core=True)
    assert problem_of(trial) == ""
    assert trial.differences.keys() == {"logprobs", "gradient", "LoRA gradient"}
    assert trial.targets >= 8  # four layers of each of two blocks, at least


@pytest.mark.skipif(version("mlx-lm") != OF_MLX_LM, reason=f"the kinds are those of mlx-lm {OF_MLX_LM}")
def test_every_type_of_mlx_lm_has_a_kind() -> None:
    assert untried() == []


def test_windows_are_shorter_than_the_longest_prompt() -> None:
    windows = {
        value
        for name in KINDS
        for fields in (config_of(name), config_of(name).get("text_config", {}))
        for key, value in fields.items()
        if "window" in key and isinstance(value, int) and key not in ("sliding_window_pattern", "conv_window")
    }
    assert windows == {WINDOW}
    assert max(map(len, kind_trials.PROMPTS)) > WINDOW


# --- the trial itself ---------------------------------------------------------------------------------


def test_a_whole_trial_of_a_sound_kind_has_every_number() -> None:
    trial = tried("llama")
    assert (trial.verdict, trial.reason, trial.targets) == ("ok", "", 14)
    assert trial.differences.keys() == set(MEASURES)
    assert max(trial.differences.values()) < 1e-5


@pytest.mark.parametrize(("function", "measure"), [("plain", "gradient"), ("updated", "gradient")])
def test_a_gradient_that_is_off_by_a_thousandth_is_wrong(
    monkeypatch: pytest.MonkeyPatch, function: str, measure: str
) -> None:
    real = getattr(kind_trials, function)

    def off(*arguments: object) -> tuple[dict[str, mx.array], float]:
        gradient, gap = real(*arguments)
        return {name: array * 1.001 for name, array in gradient.items()}, gap

    monkeypatch.setattr(kind_trials, function, off)
    trial = tried("llama", only_core=True)
    assert trial.verdict == "wrong"
    assert trial.differences[measure] == pytest.approx(1e-3, rel=0.01)
    assert trial.differences["logprobs"] < 1e-5


def test_rows_with_other_tokens_or_logprobs_differ() -> None:
    one, other = kind_trials.sampled(kind_trials.make("llama"), BatchPlan(), [[5, 9], [8, 2]], 1)
    assert one[0].token_ids != other[0].token_ids
    assert kind_trials.of_rows(one, other[0]) == math.inf
    before = list(one[0].logprobs)
    moved = kind_trials.sampled(kind_trials.make("llama"), BatchPlan(), [[5, 9]], 1)[0]
    moved[0].logprobs[2] += 0.25
    assert kind_trials.of_rows(moved, one[0]) == pytest.approx(abs(moved[0].logprobs[2] - before[2]))


def test_an_exception_is_a_wrong_kind_with_its_words() -> None:
    trial = Trial(name="llama")

    def raises() -> tuple[float, ...]:
        raise ValueError("no such shape\nand more")

    kind_trials.note(trial, ("batch", "group"), raises)
    assert (trial.verdict, trial.reason) == ("wrong", "batch: ValueError: no such shape")
    assert trial.differences == {"batch": math.inf, "group": math.inf}


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (SystemExit(1), "needs a package that is not installed"),
        (RuntimeError("[metal_kernel] No Metal back-end."), METAL),
        (ModelError("bitnet cannot read a sequence: RuntimeError: No Metal back-end"), METAL),
        (ModelError("has layers that keep a state"), ""),
        (ValueError("shapes"), ""),
    ],
)  # fmt: skip
def test_only_what_is_missing_on_the_machine_is_not_here(error: BaseException, reason: str) -> None:
    assert kind_trials.not_here(error) == reason


def test_adapters_train_on_experts_in_mxfp4() -> None:
    """As gpt-oss comes: experts in 4-bit floats, all other weights in full."""
    model = make("gpt_oss")
    plan = planned(model)

    def is_expert(path: str, layer: nn.Module) -> bool:
        return ".experts." in path and hasattr(layer, "to_quantized")

    nn.quantize(model, 32, 4, mode="mxfp4", class_predicate=is_expert)
    packed = [name for name, array in flat(model.parameters()).items() if array.dtype == mx.uint32]
    assert len(packed) == 2 * 3  # gate, up and down of both layers
    assert max(compare(adapted(model), plan)) < 1e-4  # logprobs and gradient, with plain autograd
