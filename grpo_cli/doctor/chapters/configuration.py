"""Chapters of the guide: configuration."""

from grpo_cli.doctor.guide import Chapter

CHAPTERS: tuple[Chapter, ...] = (
    Chapter(
        "config-not-found",
        "The configuration file is not there",
        "A name is looked for in the folder you are in, then among the shipped configurations, which are "
        "found from every folder. The message lists names like it and says where it looked.",
        "A shipped one by its bare name: `--config prod`.\n"
        "Your own by its path: `--config configs/custom.toml`; `ls configs/*.toml` shows them, `pwd` where "
        "you are. An absolute path works from everywhere.\n"
        "A file to begin with: `grpo config init my.toml --from smoke_test`.",
        (
            "Config file not found: configs/custom.toml",
            "Config file is a folder: …",
            "Cannot read config file: …",
            "No configuration: neither --config nor $MLX_GRPO_CONFIG is given",
        ),
    ),
    Chapter(
        "paths",
        "A path with a variable or a user that is not known",
        "In every path `~`, `~user` and `$NAME` stand for what a shell has for them, also where no shell "
        "saw it: in a configuration, or in quotes. What has no value is refused, so that no folder named "
        "`$HOME` comes of it. Brackets, `*` and `?` are plain characters.",
        "Write the path out, or `export NAME=…` before the command.",
        ("Path not understood: …",),
    ),
    Chapter(
        "config-exists",
        "A file that would be written is there, or cannot be",
        "No command overwrites a file that is there and has something in it, but for an earlier result of "
        "the same command, and none makes the folder for it. It is noticed before anything is loaded.",
        "Another name, or `--force`: the old file stays until the new one is complete. The dataset that is "
        "evaluated is never replaced. A folder that is missing: `mkdir -p FOLDER`.",
        (
            "Config file exists: …",
            "Cannot write config file: …",
            "Output file exists: …",
            "Output file is the dataset's: …",
        ),
    ),
    Chapter(
        "config-syntax",
        "The file is no TOML",
        "TOML is one `key = value` a line. A text stands in straight quotes, a number and true or false "
        "stand alone, a list in brackets, a comment behind #. The file is UTF-8. The message has the line.",
        'A text: `dataset = "arithmetic"`. A number: `learning_rate = 1e-6`, `top_p = 0.9`. A list: '
        '`reward_functions = ["correctness", "int"]`.\n'
        "Check it as often as you like, it takes no time: `grpo config validate FILE`.",
        (
            "Invalid TOML: …",
            "Config file is not UTF-8: …",
            "Config file is empty: …",
            "Config key given twice: …",
            "Failed to parse --set: …",
        ),
    ),
    Chapter(
        "unknown-key",
        "A key does not exist",
        "A misspelt key would be a setting that silently does nothing, so it is an error before anything is "
        "loaded. Names are written in lower case with underscores. Names of other programs are known to the "
        "message: `beta` is `kl_coeff` here.",
        "Take the name that the message offers.\n"
        "All keys with what they do: `grpo config init`; what yours come to: `grpo config show FILE`.\n"
        "In an editor: `grpo config schema > grpo.schema.json` completes and checks them as you type.",
        ("Unknown config key: invalid_parameter",),
    ),
    Chapter(
        "superseded-key",
        "A key has a newer name",
        "MLX-GRPO renamed some of its keys. The old names work and mean the same; where both are given, the "
        "newer one counts.",
        "Write `max_new_tokens` for `max_completion_length`, `eval_steps` for `eval_every_updates`, and "
        "`eval_samples` for `eval_subset_size`.",
        ("max_completion_length is superseded by max_new_tokens",),
    ),
    Chapter(
        "wrong-type",
        "A value is of another type than its key",
        'In quotes a number is a text: `"5e-7"` is refused rather than guessed at. The message shows the '
        "value "
        "as it should be typed.",
        "In a file: numbers without quotes, `learning_rate = 5e-7`; whole numbers without a point, "
        "`max_steps = 10`; booleans `true` or `false`; a list in brackets.\n"
        "On the command line, where all is text: `--set use_compile=no` (true, 1, yes, on; false, 0, no, "
        "off), `--set reward_functions=correctness,int`.",
        ("Failed to coerce value: 'invalid_string' to <class 'float'>",),
    ),
    Chapter(
        "out-of-range",
        "A value is beyond what its key takes",
        "Every key has its bounds, which keep out what cannot work: a temperature of 0, where all "
        "completions of a group are the same, or a group of one, which has nothing to be compared with. "
        "The message says the bounds or the choices and the default.",
        "Take a value within the bounds; `grpo config init` shows the defaults with what each key does.",
        (
            "Invalid value: temperature = 0",
            "num_generations = 1 cannot learn: a group needs at least 2 completions",
        ),
    ),
    Chapter(
        "contradiction",
        "Two keys contradict each other",
        "Each value alone is fine, and together they cannot be meant: as many weights as rewards, an "
        "evaluation on what was trained on, a loss that assumes another sampling. What would make the result "
        "worthless is an error, what only has no effect a warning.",
        "The message names both keys and what to write. What a configuration comes to, defaults included, "
        "with where each value is from: `grpo config show FILE`.",
        (
            "reward_weights has length 2, reward_functions has length 1",
            'eval_split = "train" is the training split',
            "repetition_penalty = 1.2 is refused in training",
        ),
    ),
    Chapter(
        "sampling-cut",
        "top_p, top_k or min_p cut tokens off",
        "They leave the less likely tokens out of the draw: those are never tried, so never learnt.\n\nThe "
        "probability of what was kept is recorded for every token and cancels in the ratio, which is exactly "
        "1 on policy (`kept_mass` in the log is its mean); but the gradient is that of the uncut "
        "distribution. It can help a model that writes noise at its temperature.",
        "In training: `top_p = 1.0`, `top_k = 0`, `min_p = 0.0`, and a lower `temperature` where completions "
        "are noise.\nIn evaluation and generation they do no harm.",
        ("top_p = 0.9 cuts tokens off while sampling, and those are never explored",),
    ),
    Chapter(
        "row-too-long",
        "Prompt and completion are longer than the model has positions",
        "A model has learnt a certain number of positions (`max_position_embeddings` in its config.json), "
        "which prompt and completion share. Beyond them it writes noise, and some models fail.",
        "`max_prompt_length` + `max_new_tokens` within the positions; the message has the numbers. Prompts "
        "that are longer than `max_prompt_length` are left out and counted, never cut.",
        ("max_new_tokens = 4096 is too long: models/nanochat-mlx has 2048 positions",),
    ),
    Chapter(
        "quantised-rollouts",
        "quantize_for_rollouts and its effect",
        "Completions are written by a copy of the policy whose weights are rounded to `bits`, made anew "
        "after every update: on Metal and CUDA fewer bytes to read for every token. The policy itself is "
        "trained, evaluated and saved in full precision.\n\n"
        "The copy is another policy than the one that is trained. So every token's loss is weighted by the "
        "ratio of their probabilities, at most `importance_sampling_cap` (truncated importance sampling); "
        "the log has its mean, its maximum and the share beyond the cap. A deep model needs no exception: "
        "one of 32 layers trains as any other.\n\n"
        "Where the copy is too far away, few tokens count fully, and far beyond that the run stops: its "
        "completions say nothing of the policy. It takes memory beside the policy, and on a CPU as much time "
        "as without it.",
        "Nearer to the policy: `bits = 8`, or `group_size = 32`.\n"
        "Without it: `quantize_for_rollouts = false`.\n"
        "What quantisation does to your model: `grpo doctor --model DIR --only quantisation`.",
        (
            "The quantised copy is another model: over … sampled tokens",
            "the quantised copy is far from the policy",
            "quantize_for_rollouts = true finds no layer to quantise: …",
            "quantize_for_rollouts: this CPU computes with the rounded weights in float32",
        ),
    ),
    Chapter(
        "learning-rate",
        "The learning rate is 0, or far above what works",
        "At 0 nothing is trained. Far above the usual rates a model forgets how to speak within a few steps, "
        "and gradients become NaN.\n\nAdam's steps are as large as the rate, whatever the gradient.",
        "Full fine-tuning: begin with `learning_rate = 1e-6`, small models up to 5e-5. LoRA: "
        "`learning_rate = 1e-5` to 5e-5.\nGarbage or NaN: a fifth of it, and `max_grad_norm = 0.1`.",
        ("learning_rate = 0.0 trains nothing", "learning_rate = 0.1 is very high for full fine-tuning"),
    ),
    Chapter(
        "schedule",
        "Something is to happen after the last step",
        "Warmup, checkpoints and evaluations are counted in steps: what comes every 500 steps never comes "
        "in a run of 100.\n\n"
        "One step is one update, on batch_size × gradient_accumulation_steps prompts.",
        "`warmup_ratio = 0.1`, and `save_steps` and `eval_steps` below `max_steps`. `save_steps = 0` saves "
        "the final state only.",
        (
            "warmup_ratio = 1 makes the whole run warmup",
            "save_steps = 500 is beyond the last step, max_steps = 100",
        ),
    ),
    Chapter(
        "configuration",
        "A configuration has several problems",
        "All that is wrong with a configuration is said at once, each with its line and its cure, before "
        "anything is loaded. A warning (!) is no error: the run starts, and part of the file has no effect "
        "or a bad one.",
        "`grpo config validate FILE` checks it, `--json` for programs; `grpo config show FILE` prints what "
        "it comes to.",
    ),
    Chapter(
        "memory-needed",
        "A run needs more memory than there is",
        "Weights, the optimizer's state (twice the weights in float32, with full fine-tuning), the "
        "completions' caches and the update's logits have to fit together. On a Mac too much ends in "
        "swapping, on a CUDA card in an error, on a CPU in a killed process.\n\n"
        "It is reckoned from the model's shape before the first step. A run that is short of memory all the "
        "same computes half as many completions at once, to the same result, and says so.",
        "What this configuration needs here, with the keys to change: `grpo doctor --config FILE --only "
        "memory-needed`.\n"
        "`batch_size = 1` with `gradient_accumulation_steps = 4` learns the same with less, and so does "
        "`microbatch_tokens = 4096`, the most tokens computed at once; `grad_checkpoint = true` keeps only "
        "every layer's input, for a second forward. Then shorter "
        "completions, `max_new_tokens = 128`, fewer of them, `num_generations = 4`, and LoRA, "
        "`lora_rank = 16`, which saves most.\n"
        "macOS 15 and later, where the machine has more than the GPU may use: `grpo doctor --only "
        "wired-limit` has the line.\n"
        "A smaller model: `grpo doctor --only models-that-fit`.",
        (
            "OutOfMemoryError: Unable to allocate memory",
            "Unable to allocate memory: a single completion needs about …",
            "memory was short in rollouts",
        ),
    ),
    Chapter(
        "duration",
        "How long will it take?",
        "It depends on the model, the machine and, most of all, on the length and number of completions, "
        "so a step is measured: the doctor makes a small one and scales it, or takes those that are in the "
        "run's log. A training shows the time left from its first steps on.",
        "Before a run: `grpo doctor --config FILE --only duration`.\n"
        "Shorter: `max_steps = 100` or `max_train_samples = 500`; `max_new_tokens` and `num_generations` for "
        "each step; fewer and smaller evaluations, `eval_steps = 100`, `eval_samples = 100`.\n"
        "Where the time goes: `grpo doctor --run outputs/NAME --only time-split`.",
        ("500 samples about 30 minutes", "How long will it take?"),
    ),
)
