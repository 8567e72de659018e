"""Every setting reaches the algorithm it names.

The algorithm's parts have tests of their own; here each setting is given an unusual value, and what
the part it belongs to does with it is compared with numbers worked out by hand.
"""

import dataclasses
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import pytest

from grpo_cli.config.schema import Config
from grpo_cli.engine import events, setup
from grpo_cli.engine.collect_rollouts import set_advantages
from grpo_cli.engine.grpo.losses import Clip
from grpo_cli.engine.grpo.lr_schedule import learning_rate
from grpo_cli.engine.rollout.sampling import Sampling, draw
from grpo_cli.engine.run import Run
from grpo_cli.engine.run_dir.checkpoint import save_checkpoint
from grpo_cli.engine.train import train
from grpo_cli.engine.update.batch import Microbatch, TrainingSequence, pad
from grpo_cli.engine.update.gradient import accumulate, global_norm
from grpo_cli.engine.update.objective import Objective
from grpo_cli.engine.update.optimizer import Optimizer
from grpo_cli.engine.update_policy import make_batches, update_policy
from grpo_cli.models.tree import flat
from tests.engine.small import group, rollout
from tests.engine.test_train import lines, small
from tests.support.steps import scored_groups

Weights = dict[str, mx.array]


def prepared(folder: Path, **changes: Any) -> tuple[Run, list[Microbatch]]:
    """A run of the embedded model before its first update, and that update's microbatches.

    Plain SGD without schedule, so that weights move by rate · gradient; hot, so that there is one;
    advantages are 1 and −1.
    """
    settings = {
        "dtype": "float32",
        "max_train_samples": 64,
        "temperature": 3.0,
        "batch_size": 2,
        "num_generations": 2,
        "max_new_tokens": 8,
        "optimizer": "sgd",
        "learning_rate": 0.1,
        "max_grad_norm": 1e9,
        "lr_scheduler_type": "constant",
        "warmup_ratio": 0.0,
        "max_steps": 4,
    }
    run = setup.prepare(small(folder, **(settings | changes)))
    mx.random.seed(7)
    groups = scored_groups(run)
    for one in groups:
        for index, item in enumerate(one.rollouts):
            item.advantage = 1.0 if index % 2 == 0 else -1.0
    return run, make_batches(run, groups)


def movement(run: Run, batches: list[Microbatch], step: int = 1) -> Weights:
    """The change of every weight by one update."""
    before = flat(run.policy.model.trainable_parameters())
    update_policy(run, step, batches)
    after = flat(run.policy.model.trainable_parameters())
    return {name: after[name] - before[name] for name in before}


def distance(a: Weights, b: Weights, scale: float = 1.0) -> float:
    """Norm of a − scale · b, relative to the norm of a."""
    assert a.keys() == b.keys()
    return global_norm({name: a[name] - scale * b[name] for name in a}) / global_norm(a)


# --- sampling -------------------------------------------------------------------------------------


def test_the_configured_sampling() -> None:
    config = Config(
        max_new_tokens=33, temperature=0.6, top_p=0.9, top_k=7, min_p=0.05, stop=["</answer>", "\n\n"],
        eval_max_new_tokens=44,
    )  # fmt: skip
    stop = ("</answer>", "\n\n")
    assert Sampling.for_training(config) == Sampling(
        max_new_tokens=33, temperature=0.6, top_p=0.9, top_k=7, min_p=0.05, stop=stop
    )
    assert Sampling.for_evaluation(config) == Sampling(
        max_new_tokens=44, temperature=0.0, top_p=1.0, top_k=0, min_p=0.0, stop=stop
    )


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(max_new_tokens=1, top_k=2),
        Sampling(max_new_tokens=1, top_p=0.7),
        Sampling(max_new_tokens=1, min_p=0.4),
    ],
)
def test_left_out_tokens_are_never_drawn_and_the_others_keep_their_odds(sampling: Sampling) -> None:
    logits = mx.log(mx.array([[0.1, 0.5, 0.15, 0.25]] * 1000))
    mx.random.seed(0)
    drawn = draw(logits, sampling)
    tokens: list[int] = drawn.tokens.tolist()  # type: ignore[assignment]
    assert set(tokens) == {1, 3}
    assert tokens.count(1) / 1000 == pytest.approx(2 / 3, abs=0.05)  # 0.5 : 0.25
    whole = mx.where(drawn.tokens == 1, math.log(0.5), math.log(0.25))  # of all four tokens, as in the loss
    assert mx.allclose(drawn.logprobs, whole, atol=1e-6)


def test_rollouts_are_drawn_with_the_configured_sampling(tmp_path: Path) -> None:
    """Of one token to choose from there is one completion, at any temperature."""
    run, _ = prepared(tmp_path, temperature=5.0, top_k=1, num_generations=3, max_new_tokens=6)
    for one in scored_groups(run):
        first, *others = [item.token_ids for item in one.rollouts]
        assert others == [first, first]
        assert len(first) <= 6


# --- objective ------------------------------------------------------------------------------------


def test_the_configured_objective() -> None:
    config = Config(clip_eps=0.1, clip_eps_high=0.3, delta=3.0)
    objective = Objective(config)
    assert (objective.clip, objective.correction) == (Clip(0.1, 0.3, 3.0), None)
    assert not objective.config.has_sequence_ratio
    assert Config(importance_sampling_level="sequence").has_sequence_ratio
    assert Config(loss_type="gspo").has_sequence_ratio
    symmetric = Objective(Config(clip_eps=0.1, clip_eps_high=0.0))
    assert symmetric.clip == Clip(0.1, 0.1, 0.0)


# Rewards [1, 0, 0, 1] and [0, 0, 0, 1]: means 1/2 and 1/4, standard deviations √(1/3) and 1/2,
# and √(15/56) of all eight.
CENTERED = [[0.5, -0.5, -0.5, 0.5], [-0.25, -0.25, -0.25, 0.75]]
SCALES = {
    ("dapo", "group"): [math.sqrt(1 / 3) + 1e-4, 0.5 + 1e-4],
    ("dapo", "batch"): [math.sqrt(15 / 56) + 1e-4] * 2,
    ("dapo", "none"): [1.0, 1.0],
    ("grpo", "group"): [math.sqrt(1 / 3) + 1e-4, 0.5 + 1e-4],
    ("dr_grpo", "none"): [1.0, 1.0],
    ("reinforce", "group"): [1.0, 1.0],
    ("reinforce", "batch"): [1.0, 1.0],
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return setup.prepare(small(tmp_path_factory.mktemp("wiring"), dtype="float32"))


@pytest.mark.parametrize(("loss_type", "scale_rewards"), list(SCALES))
def test_advantages_are_scaled_as_configured(run: Run, loss_type: str, scale_rewards: str) -> None:
    config = run.config.model_copy(update={"loss_type": loss_type, "scale_rewards": scale_rewards})
    groups = [group([1], [rollout([2]) for _ in range(4)]) for _ in range(2)]
    for one, rewards in zip(groups, [[1.0, 0.0, 0.0, 1.0], [0.0, 0.0, 0.0, 1.0]], strict=True):
        for item, reward in zip(one.rollouts, rewards, strict=True):
            item.reward = reward
    set_advantages(groups, config)
    for one, centered, scale in zip(groups, CENTERED, SCALES[loss_type, scale_rewards], strict=True):
        expected = [value / scale for value in centered]
        assert [item.advantage for item in one.rollouts] == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    ("loss_type", "weights"),
    [  # completions of 1 and 3 tokens
        ("dapo", [1 / 4, 1 / 4]),
        ("reinforce", [1 / 4, 1 / 4]),
        ("grpo", [1 / 2, 1 / 6]),
        ("gspo", [1 / 2, 1 / 6]),
        ("bnpo", [1 / 4, 1 / 4]),
        ("cispo", [1 / 4, 1 / 4]),
        ("dr_grpo", [1 / 80, 1 / 80]),  # 2 · max_new_tokens
    ],
)
def test_tokens_are_averaged_as_configured(run: Run, loss_type: str, weights: list[float]) -> None:
    config = run.config.model_copy(update={"loss_type": loss_type, "max_new_tokens": 40})
    groups = [group([1], [rollout([2], 1.0), rollout([2, 3, 4], -1.0)])]
    (batch,) = make_batches(dataclasses.replace(run, config=config), groups)
    assert batch.weights.squeeze(-1).tolist() == pytest.approx(weights)


def test_the_kl_term_pulls_as_hard_as_configured(tmp_path: Path) -> None:
    """Gradient = policy gradient + kl_coeff · gradient of the KL: its share doubles with kl_coeff."""
    moved = {}
    for kl_coeff in (0.0, 0.5, 1.0):
        run, batches = prepared(tmp_path, kl_coeff=kl_coeff)
        for batch in batches if kl_coeff else []:
            assert batch.ref_logprobs is not None
            batch.ref_logprobs = batch.ref_logprobs * 1.5
        moved[kl_coeff] = movement(run, batches)
    half, whole = [
        {name: moved[kl_coeff][name] - moved[0.0][name] for name in moved[0.0]} for kl_coeff in (0.5, 1.0)
    ]
    assert global_norm(half) > 1e-2 * global_norm(moved[0.0])
    assert distance(whole, half, scale=2.0) < 1e-3


@pytest.mark.parametrize("kind", ["full", "LoRA", "LoRA folder"])
def test_the_first_kl_is_zero_at_any_temperature(tmp_path: Path, kind: str) -> None:
    """Policy and reference are the same model, read at the same temperature."""
    changes: dict[str, Any] = {"LoRA": {"lora_rank": 2}}.get(kind, {})
    if kind == "LoRA folder":
        earlier, batches = prepared(tmp_path, lora_rank=2)
        update_policy(earlier, 1, batches)
        save_checkpoint(tmp_path / "adapters", earlier.snapshot())
        changes = {"model_name": str(tmp_path / "adapters")}
    settings = {"temperature": 0.7, "completion_prefix": "It is ", "optimizer": "adam"}
    run, batches = prepared(tmp_path, kl_coeff=0.1, **(settings | changes))
    assert update_policy(run, 1, batches)["kl"] == pytest.approx(0.0, abs=1e-6)
    assert update_policy(run, 2, batches)["kl"] > 1e-5  # the reference stays where the policy began


# --- update ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "expected"),
    [  # a peak of 0.08 after a warmup of 2 of 4 updates
        ("constant", [0.04, 0.08, 0.08, 0.08]),
        ("linear", [0.04, 0.08, 0.08, 0.04]),
        ("cosine", [0.04, 0.08, 0.08, 0.04]),
    ],
)
def test_the_optimizer_steps_at_the_rate_of_the_schedule(
    run: Run, shape: str, expected: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    rates: list[float] = []
    monkeypatch.setattr(run.optimizer, "step", lambda _model, _gradients, _norm, rate: rates.append(rate))
    batch = pad([TrainingSequence([1, 2], rollout([3], 1.0), 1.0)])
    settings = {"learning_rate": 0.08, "warmup_ratio": 0.5, "max_steps": 4, "lr_scheduler_type": shape}
    one = dataclasses.replace(run, config=run.config.model_copy(update=settings))
    for step, rate in enumerate(expected, start=1):
        assert update_policy(one, step, [batch])["lr"] == pytest.approx(rate)
        assert rates[-1] == pytest.approx(rate)
        assert update_policy(one, step, [])["lr"] == rates[-1]
    thirds = dataclasses.replace(one, config=one.config.model_copy(update={"warmup_ratio": 0.25}))
    falls = {"constant": 1.0, "linear": 2 / 3, "cosine": 0.75}  # one third of the way down
    assert update_policy(thirds, 3, [])["lr"] == pytest.approx(0.08 * falls[shape])


def test_the_log_has_the_rate_of_the_schedule(tmp_path: Path) -> None:
    settings = {"max_steps": 3, "lr_scheduler_type": "linear", "warmup_ratio": 0.34, "learning_rate": 0.01}
    config = small(tmp_path, max_new_tokens=4, batch_size=1, num_generations=2, **settings)
    train(config)
    rates = [line["lr"] for line in lines(config.run_dir)]
    assert rates == pytest.approx([0.01, 0.01, 0.005])
    assert rates == [learning_rate(step, 3, 0.01, 0.34, "linear") for step in (1, 2, 3)]


def test_weights_move_by_the_scheduled_rate_times_the_gradient(tmp_path: Path) -> None:
    moved = []
    for step, rate in ((1, 0.05), (2, 0.1)):  # the first update of a warmup of two is at half the peak
        run, batches = prepared(tmp_path, warmup_ratio=0.5)
        gradients, _ = accumulate(run.policy.model, batches, Objective(run.config))
        moved.append(movement(run, batches, step))
        assert distance(moved[-1], flat(gradients), scale=-rate) < 1e-3
    assert distance(moved[1], moved[0], scale=2.0) < 1e-3


def test_the_gradient_is_clipped_to_max_grad_norm(tmp_path: Path) -> None:
    run, batches = prepared(tmp_path)
    free = movement(run, batches)
    norm = global_norm(free) / 0.1  # moved by 0.1 · gradient
    run, batches = prepared(tmp_path, max_grad_norm=norm / 3)
    clipped = movement(run, batches)
    assert distance(free, clipped, scale=3.0) < 1e-3
    run, batches = prepared(tmp_path, max_grad_norm=norm * 3)
    assert distance(free, movement(run, batches)) < 1e-6


# Two updates of the weight 2 at rate 0.1 with gradients 1 and −0.5, betas 0.6 and 0.8, decay 0.5.
ADAM_SECOND = (0.6 * 0.4 - 0.4 * 0.5) / (1 - 0.6**2) / math.sqrt((0.8 * 0.2 + 0.2 * 0.25) / (1 - 0.8**2))
TWO_STEPS = {
    "adamw": (2.0 * 0.95 - 0.1) * 0.95 - 0.1 * ADAM_SECOND,
    "adam": 2.0 - 0.1 - 0.1 * ADAM_SECOND,
    # moment: 0.2 · 1 after the first; the second's sign is that of 0.6 · 0.2 − 0.4 · 0.5 = −0.08
    "lion": (2.0 * 0.95 - 0.1) * 0.95 + 0.1,
    "sgd": (2.0 - 0.1 * (1.0 + 0.5 * 2.0)) - 0.1 * (-0.5 + 0.5 * 1.8),
}


@pytest.mark.parametrize("name", list(TWO_STEPS))
def test_two_steps_of_every_optimizer_by_hand(name: str) -> None:
    layer = nn.Linear(1, 1, bias=False)
    layer.weight = mx.array([[2.0]])
    config = Config(
        optimizer=name,  # type: ignore[arg-type]
        adam_beta1=0.6,
        adam_beta2=0.8,
        weight_decay=0.5,
        max_grad_norm=9.0,
        learning_rate=0.3,
    )
    optimizer = Optimizer(config, layer)
    for gradient in (1.0, -0.5):
        optimizer.step(layer, {"weight": mx.array([[gradient]])}, abs(gradient), learning_rate=0.1)
    assert layer.weight.item() == pytest.approx(TWO_STEPS[name], abs=1e-5)


# --- memory ---------------------------------------------------------------------------------------


@pytest.fixture
def layer_calls(run: Run, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[None]]:
    """Grows with every forward of a layer. mlx-lm's checkpointing changes the class: undone at the end."""
    calls: list[None] = []
    layer_class = type(run.policy.model.layers[0])
    original = layer_class.__call__

    def counted(self: nn.Module, *inputs: Any, **options: Any) -> Any:
        calls.append(None)
        return original(self, *inputs, **options)

    monkeypatch.setattr(layer_class, "__call__", counted)
    yield calls


def test_a_checkpointed_step_computes_layers_twice_and_moves_the_same(
    tmp_path: Path, layer_calls: list[None]
) -> None:
    moved = []
    for grad_checkpoint in (False, True):
        run, batches = prepared(tmp_path, grad_checkpoint=grad_checkpoint)
        assert run.forward_plan.share_prefix
        assert run.forward_plan.recompute is grad_checkpoint
        layer_calls.clear()
        moved.append(movement(run, batches))
    # forward and backward, each for the prompts and for the completions
    assert len(layer_calls) == 2 * 2 * len(run.policy.model.layers) * len(batches)
    assert distance(moved[0], moved[1]) < 1e-5


def test_a_model_whose_layers_cannot_be_stood_for_is_checkpointed_without_a_shared_prompt(
    tmp_path: Path, layer_calls: list[None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As mlx-lm does it, which changes the layers' class: `layer_calls` undoes that at the end."""
    plain, batches = prepared(tmp_path)
    expected = movement(plain, batches)
    monkeypatch.setattr(setup, "can_checkpoint", lambda _: False)
    told: list[events.Event] = []
    run = setup.prepare(plain.config.model_copy(update={"grad_checkpoint": True}), told.append)
    assert (run.forward_plan.share_prefix, run.forward_plan.recompute) == (False, False)
    assert told == [events.Notice(setup.NO_LAYERS)]
    layer_calls.clear()
    assert distance(expected, movement(run, batches)) < 1e-5
    assert len(layer_calls) == 2 * len(run.policy.model.layers) * len(batches)
