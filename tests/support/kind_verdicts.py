"""The verdict that each kind of model should have in its trial."""

from tests.support.kind_trials import Trial

MOST_USED = (
    "deepseek_v3", "falcon_h1", "gemma2", "gemma3_text", "gpt_oss", "granite", "granitemoehybrid", "lfm2",
    "llama", "ministral3", "nanochat", "nemotron_h", "olmo3", "phi3", "qwen2", "qwen3", "qwen3_5",
    "qwen3_moe", "qwen3_next", "smollm3",
)  # fmt: skip
# Kinds that a run refuses, with its words.
REFUSED = {
    "phi3small": "is not run on a CPU",
    "deepseek_v41": "has no gradient: ValueError: [gather_axis] Cannot calculate VJP with respect to indices",
}


def problem_of(trial: Trial) -> str:
    """Empty if a trial has the verdict that it should have."""
    verdict, words = "ok", ""
    if trial.name in REFUSED:
        verdict, words = "refused", REFUSED[trial.name]
    is_right = trial.verdict in (verdict, "not here") and words in trial.reason
    return "" if is_right else f"{trial.verdict}: {trial.reason or trial.differences}"
