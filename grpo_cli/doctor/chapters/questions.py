"""Chapters of the guide: questions that are no error."""

from grpo_cli.doctor.guide import Chapter

CHAPTERS: tuple[Chapter, ...] = (
    Chapter(
        "doctor",
        "How do I use the doctor?",
        "`grpo doctor` looks at the machine; with `--config`, `--model`, `--checkpoint` or `--run` at what "
        "is named, too. ✓ is as it should be, ! costs time, memory or results, ✗ makes a run fail or its "
        "result worthless. Nothing is downloaded, changed or kept.",
        "All of it for a configuration: `grpo doctor --config FILE`.\n"
        "A finished or failed run: `grpo doctor --run outputs/NAME`.\n"
        "One check or subject: `grpo doctor --only wired-limit`; `--list` names them all.\n"
        "What a name means: `grpo doctor --explain NAME`. For programs: `--json`.",
    ),
    Chapter(
        "did-it-help",
        "Did the training help?",
        "A few points of accuracy more on a hundred examples can be luck. Two models are compared on the "
        "same examples, item by item, by one paired test: better, worse, or no significant difference.",
        "`grpo eval --model outputs/NAME/final --compare MODEL_BEFORE --config FILE --samples 500`\n"
        "More samples tell smaller differences apart: with 200 examples an accuracy of 50 % is known to ±7 "
        "points, with 1,000 to ±3.\n"
        "`--num-generations 8` also shows how often at least one of 8 tries is right (pass@k): what GRPO can "
        "still learn from.",
        ("accuracy", "exact match", "reward distribution"),
    ),
    Chapter(
        "reading-the-log",
        "What do the numbers of the log mean?",
        "training_log.jsonl has one JSON object a step and one an evaluation. reward_mean should rise and "
        "completions end by themselves (truncated_fraction near 0); zero_std_fraction is the share of groups "
        "that teach nothing; ratio_deviation is by how much the sampler's and the loss's logprobs differ, "
        "near 0; with dynamic_sampling, reward_mean is that of the groups that were kept, reward_mean_drawn "
        "that of all; entropy falls slowly, and all at once when something is wrong; grad_norm above "
        "10 and reward_mean above 10 are flagged in the line (`flags`), an update that was NaN is `skipped`.",
        "Have it read: `grpo doctor --run outputs/NAME`.\n"
        "Every step: `logging_steps = 1`. Samples with their rewards are in completions.jsonl.\n"
        "One column: `python -c \"import json; [print(l['step'], l['reward_mean']) for l in map(json.loads, "
        "open('outputs/NAME/training_log.jsonl')) if 'loss' in l]\"`",
        ("reward_mean > 10", "grad_norm > 10"),
    ),
    Chapter(
        "watching",
        "How do I watch a run?",
        "On a terminal a training draws its rewards, its place in the run, the time left and its memory; "
        "without one it prints a line a step. The same numbers are in every line of the log: "
        "rollout_seconds, update_seconds, rollout_tokens_per_second, peak_memory_gb. The calls that other "
        "guides name for it (`mx.gpu_memory_used`, `mx.gpu_utilization`) do not exist in MLX.",
        "`tail -f outputs/NAME/training_log.jsonl`\n"
        "On a Mac: Activity Monitor's GPU history, or `sudo powermetrics --samplers gpu_power`; on CUDA: "
        "`nvidia-smi -l 5`.",
        ("mx.gpu_memory_used()", "mx.gpu_utilization()"),
    ),
    Chapter(
        "debugging",
        "How do I find out what is wrong with a small run?",
        "Most mistakes show in the first step: a model that does not load, a reward that raises, memory that "
        "is too short. So make that step alone, with everything loaded and nothing saved.",
        "`grpo train --config FILE --dry-run`\n"
        "A small run: `grpo train --config debug`, or your own with `--set num_generations=2 --set "
        "max_train_samples=10 --set max_steps=3`.\n"
        "Everything that is known of machine, model and run: `grpo doctor --config FILE`.",
        ("use_compile = false, num_generations = 2, max_train_samples = 10",),
    ),
    Chapter(
        "bug-report",
        "How do I report a bug?",
        "A report that can be acted on has the versions, the configuration, the log and the error. "
        "`grpo doctor --report` writes them into one Markdown file and takes tokens, user names and home "
        "folders out; prompts and completions are not in it. Read it once before you publish it.",
        "`grpo doctor --config FILE --run outputs/NAME --report bug.md`\n"
        "Write at its top what you did, what you expected, and what came instead.",
    ),
)
