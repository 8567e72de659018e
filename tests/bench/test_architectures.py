"""Lines of the table of model kinds."""

from grpo_cli.models.batch_plan import BatchPlan
from tests.bench.architectures import HEAD, row
from tests.support.kind_trials import Trial


def test_a_line_has_the_way_and_each_difference() -> None:
    differences = {"logprobs": 1.9e-6, "gradient": 9.4e-7, "LoRA gradient": 2e-6, "batch": 1e-6, "group": 0.0}
    trial = Trial(name="kind", plan=BatchPlan(sampled="equal", share_prefix=False), targets=14, seconds=1.26)
    trial.differences = differences
    way, *numbers = row(trial).strip("| ").split(" | ")[2:]
    assert row(trial).startswith("| kind | ok | equal / mixed, whole | 1.9e-06 |")
    assert (way, numbers) == (
        "equal / mixed, whole",
        ["1.9e-06", "9.4e-07", "2.0e-06", "1.0e-06", "0.0e+00", "", "", "14", "1.3"],
    )
    trial.plan, trial.reason = BatchPlan(shared="joined"), "mlx-lm cannot quantize it: a | b"
    assert "| mixed / joined, shared (mlx-lm cannot quantize it: a / b) | 1.9e-06 |" in row(trial)


def test_a_kind_that_was_not_tried_has_its_reason_in_a_line_of_the_same_length() -> None:
    found = row(Trial(name="bitnet", verdict="not here", reason="needs Metal", seconds=0.04))
    assert found.startswith("| bitnet | not here | needs Metal |  |")
    assert found.endswith("|  | 0.0 |")
    assert found.count("|") == len(HEAD) + 1
