"""Chapters of the guide: what a run's log says."""

from grpo_cli.doctor.guide import Chapter

CHAPTERS: tuple[Chapter, ...] = (
    Chapter(
        "run-log",
        "A run has no log, or one that cannot be read",
        "Everything that can be said of a run comes from training_log.jsonl in its folder: one JSON object "
        "a step and one an evaluation.\n\n"
        "It is missing with `log_jsonl = false`, before the first evaluation, or where another folder was "
        "named. A last line that is cut off is harmless: the run is at work, or was killed while it wrote. "
        "Other lines that are no JSON come of an edited file or of two programs that wrote at once.",
        "Log: `log_jsonl = true`, every step with `logging_steps = 1`.\n"
        "Name the run's own folder: `grpo doctor --run outputs/NAME`.",
        (
            "log_jsonl",
            "holds no training_log.jsonl",
        ),
    ),
    Chapter(
        "rewards-zero",
        "The mean reward is zero for long, and the loss is flat",
        "Completions that all get nothing cannot be told apart, so there is no gradient and the run stands "
        "still.\n\n"
        "Either the model never gets there in the tries it has (a problem too hard, completions too short, "
        "too few of them), or the reward function does not see what is right: a format that it wants and "
        "the prompt does not ask for, an answer in another column.",
        "Read a few completions in completions.jsonl, with their rewards: would you have given one?\n"
        "More tries and more room: `num_generations = 16`, `max_new_tokens = 128`.\n"
        'Rewards that are easier to get beside the right answer: `reward_functions = ["correctness", '
        '"int", "strict_format", "soft_format", "xmlcount"]`.\n'
        "More examples: `max_train_samples = 0` takes all.\n"
        "Whether any of eight tries is right: `grpo eval --model MODEL --config FILE --num-generations 8` "
        "(pass@8). Where it is 0, take easier problems or a stronger model.",
        (
            "slow convergence",
            "reward zero for long, loss flat",
            "reward_mean: 0.0",
        ),
    ),
    Chapter(
        "nothing-to-learn",
        "Nearly all groups have equal rewards",
        "GRPO compares the completions of one prompt; where all got the same reward, their advantages are "
        "0 and the prompt teaches nothing.\n\n"
        "`zero_std_fraction` is the share of such groups. Near 1 at the end of a run that gets everything "
        "right is success. Near 1 otherwise, the problems are too hard or too easy, the tries too few or "
        "too alike, or the reward too coarse.",
        "More tries: `num_generations = 16`; more varied ones: `temperature = 1.0`.\n"
        "A finer reward: several functions in `reward_functions`, so that half right is worth something.\n"
        "Problems that are solved sometimes: `grpo eval --model MODEL --config FILE --num-generations 8` "
        "shows pass@1 beside pass@8; there is something to learn where they differ.",
        (
            "zero_std_fraction",
            "loss: 0.0",
            "grad_norm: 0.0",
        ),
    ),
    Chapter(
        "identical-completions",
        "The completions of a group are all the same",
        "A group whose completions are one text has one reward, and nothing can be learned from it.\n\n"
        "Near temperature 0 the likeliest token is always taken. Without that, an entropy near 0 means "
        "that the policy has become certain: right, if it is right; over-fitted, if it is not.",
        "`temperature = 0.7` to `1.0` in training; evaluation is greedy whatever it is.\n"
        "A policy that became certain too early: `temperature = 1.0`, a lower `learning_rate`, `kl_coeff = "
        "0.04`, and an earlier checkpoint (`grpo resume outputs/NAME/checkpoint-N`).",
        (
            "makes the completions of a group identical",
            "entropy: 0.0",
        ),
    ),
    Chapter(
        "reward-high",
        "The mean reward is above 10",
        "Rewards are added up, so one that is far larger than the others is the only one that counts.\n\n"
        "Usually it is a length, a count or a score of 100 that was never scaled, or a reward without a "
        "bound that the policy has learned to drive up.",
        "Scale it: `reward_weights = [1.0, 0.1]`, one for each of `reward_functions`.\n"
        "Bound it in its function: `min(score, 1.0)`.\n"
        "Read completions.jsonl: is what gets the most reward what you want?",
        (
            "reward_mean > 10",
            "rewards beyond 10 drown the others",
        ),
    ),
    Chapter(
        "grad-norm-high",
        "The gradient's norm is above 10",
        "A large gradient asks for a larger change than the step's few completions can justify. It is "
        "clipped to `max_grad_norm`, so a single one does no harm.\n\n"
        "When it stays, the policy is being pushed about: a learning rate that is too high, rewards that "
        "are too large, or updates far from the policy that was sampled (`num_iterations` > 1).",
        "A lower rate: `learning_rate = 1e-6`.\n"
        "`max_grad_norm = 1.0`, or 0.1 for a run that has been unstable.\n"
        "More completions in a step average it out: `gradient_accumulation_steps = 4`.",
        (
            "grad_norm > 10",
            "the gradient's norm is",
        ),
    ),
    Chapter(
        "nan-gradient",
        "A gradient, loss or weight is NaN or infinite",
        "One NaN in an update would make every weight NaN. So the update is skipped, the place where it "
        "began is logged (`skipped`), and after three in a row the run stops with its last good state "
        "saved.\n\n"
        "It comes of a learning rate that is too high, of half precision that overflows (float16 ends at "
        "65504), or of weights that are broken in the file.",
        "A lower rate, from the last good state: `grpo resume outputs/NAME --set learning_rate=1e-6`.\n"
        "`max_grad_norm = 1.0`, or 0.1.\n"
        'Full precision in a new run: `dtype = "float32"`. Quantised rollouts need not be switched off: the '
        "gradient is the full policy's (`grpo doctor --explain quantised-rollouts`).\n"
        "A weight is named: the model itself may be broken, `grpo doctor --only model-values --model "
        "MODEL`.",
        (
            "RuntimeError: NaN gradient encountered",
            "NaN gradient encountered in 3 updates in a row",
            "NaN gradient encountered: after step … the weight … is NaN or infinite",
            "NaN or infinite …: the update is skipped",
        ),
    ),
    Chapter(
        "kl-high",
        "The policy runs away from its reference",
        "KL is how far the policy's tokens have become from those of the model that it began as, in nats a "
        "token. Some is learning; much, with rewards that fall, is a policy that has forgotten its "
        "language.\n\n"
        "It is measured with `kl_coeff` above 0 only; it is `null` in the log without a reference.",
        "Hold it more: `kl_coeff = 0.04` and up.\n"
        "Go slower: `learning_rate = 1e-6`.\n"
        "Train fewer weights: `lora_rank = 16`.",
        (
            "kl",
            "KL divergence grows",
        ),
    ),
    Chapter(
        "collapse",
        "Rewards or accuracy fell during the run",
        "A run that ends worse than it was has unlearned something: its updates were too large, or the "
        "rewards pay for something else than what is evaluated.\n\n"
        "Chance is accounted for: the accuracy's intervals do not overlap, or the last third's mean reward "
        "lies three standard errors and two fifths below the best third's.",
        "A lower rate: a fifth of it, 5e-6 for full weights, 5e-5 for LoRA. A rate of 10 breaks any model "
        "in one step.\n"
        "Hold it near its reference: `kl_coeff = 0.04`.\n"
        "Go on from the best checkpoint, which is kept: `grpo resume outputs/NAME/checkpoint-N --set "
        "learning_rate=1e-6`.\n"
        "Rewards that rise while accuracy falls are being gamed: read completions.jsonl.",
        (
            "reward collapse",
            "eval_accuracy falls",
            "the model forgot what it could",
        ),
    ),
    Chapter(
        "length-collapse",
        "Completions became very short",
        "A policy that learns to say nothing has found the cheapest way to lose nothing.\n\n"
        "It happens where wrong answers are punished, or long ones cut off, so that stopping at once is "
        "best. Becoming brief while the rewards rise is fine.",
        "A lower `learning_rate`, `kl_coeff = 0.04`.\n"
        "No reward for being short by itself, and no penalty that silence escapes.\n"
        "`max_new_tokens = 128`, if completions were cut off before.",
        (
            "completion_length_mean",
            "empty completions",
        ),
    ),
    Chapter(
        "truncation",
        "Completions are cut off before they end",
        "What reaches `max_new_tokens` has no answer yet, so it gets no reward, however well it began.\n\n"
        "A model that never ends by itself may also lack its end token, or have learned during the run not "
        "to stop.",
        "Room: `max_new_tokens = 128`, or twice what it is; a GSM8K solution takes 100 to 300 tokens.\n"
        'Ends: `grpo doctor --only end-tokens --model MODEL`; `stop = ["</answer>"]` ends it there.\n'
        "If they ended at first: a lower `learning_rate`.",
        (
            "truncated_fraction",
            "completions break off",
        ),
    ),
    Chapter(
        "repetition",
        "Completions repeat themselves",
        "A model that loops says the same sentence until its tokens are used up.\n\n"
        "`repetition` in the log is the share of 4-grams of tokens that stood in their completion before: "
        "0.33 for a sentence said twice. It comes of a low temperature, of over-fitting, or of a model too "
        "small for its problem.",
        "Sample more freely: `temperature = 0.8` to `1.0`; `top_p = 0.95` where you accept a loss that "
        "does not see the cut.\n"
        "`repetition_penalty = 1.2` is refused in training, because the loss would be of another "
        "distribution than was sampled.\n"
        "Over-fitting: fewer epochs, a lower `learning_rate`, `kl_coeff = 0.04`.",
        (
            "The capital of France is Paris. The capital of France is Paris. …",
            "repetition_penalty",
        ),
    ),
    Chapter(
        "accuracy-flat",
        "Accuracy does not move",
        "Between two evaluations of 200 examples, a difference of less than ten points may be chance: so a "
        "flat accuracy says that little was learned, or that it was measured too coarsely.\n\n"
        "What is sampled in training gets better before the greedy answers of an evaluation do, so the "
        "first ten or twenty steps tell nothing.",
        "Measure better: `eval_samples = 1000`, or `grpo eval --model outputs/NAME/final --compare MODEL "
        "--samples 1000`, which compares example by example.\n"
        "Learn more: a higher `learning_rate` (full weights up to 5e-5 for small models, LoRA up to 1e-3), "
        "more steps, more tries (`num_generations = 16`).\n"
        "See that there is a signal: `grpo doctor --run outputs/NAME --only nothing-to-learn`.",
        (
            "eval_accuracy stays the same",
            "slow convergence",
        ),
    ),
    Chapter(
        "time-split",
        "Where a step's time goes",
        "A step is rollouts (sampling completions, token by token), one update (forward and backward), and "
        "the rest: rewards, and the reference's logprobs where `kl_coeff` is above 0.\n\n"
        "Rollouts are limited by memory bandwidth and grow with the longest completion; the update is "
        "limited by arithmetic and grows with all tokens.",
        "Rollouts: `max_new_tokens = 64` where answers are short; fewer `num_generations`; a machine with "
        "more bandwidth. They are always batched.\n"
        "Update: `lora_rank = 16`; fewer `num_generations`. `grad_checkpoint = false` where memory "
        "allows.\n"
        "Rest: time your reward function; `kl_coeff = 0.0` needs no reference.\n"
        "Evaluations: `eval_steps = 100`, `eval_samples = 100`.\n"
        "On a Linux CPU see `grpo doctor --only matrix-product`.",
        (
            "slow training",
            "long steps, low utilisation",
            "rollout_seconds",
            "update_seconds",
        ),
    ),
)
