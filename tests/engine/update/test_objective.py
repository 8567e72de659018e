"""The objective: its configuration, and clip ratio and KL as means over tokens."""

from grpo_cli.config.loss_types import LOSS_TYPES
from grpo_cli.config.schema import Config
from grpo_cli.engine.grpo.losses import Clip
from grpo_cli.engine.update.batch import make_microbatches
from grpo_cli.engine.update.forward import token_logprobs
from grpo_cli.engine.update.gradient import accumulate
from grpo_cli.engine.update.objective import Objective
from tests.support.random_models import group, nanochat_policy, rollout
from tests.support.steps import objective_of
from tests.support.update_groups import TEMPERATURE, nearby_reference, with_old_logprobs


def test_clip_ratio_and_kl_are_means_over_tokens() -> None:
    policy = nanochat_policy()
    reference = nearby_reference(policy)
    groups = [group([1, 2], [rollout([5, 6, 7], 1.0), rollout([8], -1.0)])]
    with_old_logprobs(policy.model, groups, shift=-0.4)  # ratios e^0.4 = 1.49 and e^−0.4 = 0.67
    batches = make_microbatches(groups, LOSS_TYPES["dapo"], 6, 1, has_reference=True)
    for batch in batches:
        batch.ref_logprobs = token_logprobs(reference.model, batch, 1.0)
    _, result = accumulate(policy.model, batches, objective_of("dapo", TEMPERATURE, 0.2, 0.2, 0.1))
    assert result.clip_ratio == 1.0  # 3 tokens above with A > 0, 1 token below with A < 0
    assert result.kl is not None
    assert result.kl > 0


def test_the_configured_objective() -> None:
    config = Config(clip_eps=0.1, clip_eps_high=0.3, delta=3.0)
    objective = Objective(config)
    assert (Clip.of(objective.config), objective.correction) == (Clip(0.1, 0.3, 3.0), None)
    assert not objective.config.has_sequence_ratio
    assert Config(importance_sampling_level="sequence").has_sequence_ratio
    assert Config(loss_type="gspo").has_sequence_ratio
    symmetric = Objective(Config(clip_eps=0.1, clip_eps_high=0.0))
    assert Clip.of(symmetric.config) == Clip(0.1, 0.1, 0.0)
