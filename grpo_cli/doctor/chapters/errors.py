"""Chapters of the guide: what ends a command."""

from grpo_cli.doctor.guide import Chapter

CHAPTERS: tuple[Chapter, ...] = (
    Chapter(
        "model-not-found",
        "A model's name leads nowhere",
        "A model is a folder with config.json and weights, a repository on the hub written `owner/name`, or "
        "`tiny`, the embedded one. A name that is none of these, a repository that is private, gated or "
        "misspelt, and a folder that was meant relative to another working folder all end here.\n\n"
        "nanochat's checkpoints are no models yet: `grpo convert` makes one of them, in `models/<name>-mlx`.",
        "Look at the name in the message letter by letter, and at the folder you are in (`pwd`).\n"
        'A nanochat model: `grpo convert nanochat-d32`, then `model_name = "models/nanochat-d32-mlx"`.\n'
        "A private or gated one: `hf auth login`, and accept its licence on its page.\n"
        "Offline: only what was fetched before is there (`grpo doctor --only hub-cache`).",
        ("Model not found: …", "Model not found on the hub: …", "The repository … has no …"),
    ),
    Chapter(
        "checkpoint-not-found",
        "A checkpoint that was named is not there",
        "`grpo resume` and `grpo eval` take a run's folder or one checkpoint in it. The message lists those "
        "that exist. A folder without an intact manifest.json is not a checkpoint: the manifest is written "
        "last, so what a killed process left half written never has one.",
        "Name a run's folder, and the newest intact checkpoint is found: `grpo resume outputs/prod`.\n"
        "Look into the checkpoints of a run, damaged ones included: `grpo doctor --run outputs/prod`.\n"
        "A checkpoint can be copied anywhere, whole: it holds everything a run needs to go on.",
        ("Checkpoint not found: outputs/checkpoint-1000",),
    ),
    Chapter(
        "cannot-save",
        "A checkpoint or another file could not be written",
        "The disk is full, or the folder is not yours to write. Both are looked at before the first step. "
        "Later, a save that fails does not end a training: it goes on and tries again at the next "
        "checkpoint; after three failures in a row it stops, with the last checkpoint intact.",
        "Room: `df -h outputs`; fewer checkpoints with `keep_checkpoints = 1`, or LoRA (`lora_rank = 16`), "
        "whose checkpoints are a hundred times smaller.\n"
        'Permission: `ls -ld outputs`, then `chmod u+w outputs`, or another folder: `output_dir = "…"`.\n'
        "Try it: `grpo doctor --only disk --config FILE`.\n"
        "Go on where it stopped: `grpo resume outputs/…`.",
        (
            "Failed to save checkpoint: Permission denied",
            "Failed to save checkpoint: No space left on device",
        ),
    ),
    Chapter(
        "run-exists",
        "The run's folder holds a run already",
        "A run's folder belongs to one run, so that no night's work is overwritten by the next.",
        "Go on with it: `grpo resume outputs/NAME`.\n"
        "Start another beside it: `--set run_name=NAME2`.\n"
        "Start it anew: delete the folder yourself.",
        ("The folder … already holds a run",),
    ),
    Chapter(
        "run-in-use",
        "Another process works in the run's folder",
        "Two processes in one folder would mix their logs and checkpoints. The one that is there has a lock, "
        "which the system takes away when it ends, however it ends: a stale lock cannot stay.",
        "Wait, or stop it: `kill PID` finishes its step and saves it first (the message names the PID).",
        ("The run in … is in use by the process …",),
    ),
    Chapter(
        "conversion",
        "A checkpoint could not be converted",
        "`grpo convert` reads PyTorch's files itself, as data: no torch is needed, nothing in them is run, "
        "and memory holds one tensor at a time. So it fails for what is wrong with the file: cut off or "
        "damaged (every record has a checksum), from another step than its meta file, or with weights of "
        "names that no version of nanochat has.",
        "The message names the file and what is wrong. A damaged one: fetch or copy it again; a download "
        "goes on where it was cut.\n"
        "Other names: `grpo convert SOURCE --rename 'OLD.*=NEW.*'`.\n"
        "No room: `--dtype bfloat16` takes half, `--quantize --bits 4` a seventh; `--output DIR` another "
        "disk.",
        ("Failed to convert model: torch.load() error", "Failed to convert model: …"),
    ),
    Chapter(
        "dataset",
        "The examples cannot be read, or none is left",
        "A dataset is `arithmetic` (embedded), a name on the hub, a file (JSON, JSONL, CSV, TSV, Parquet, "
        "Arrow, compressed or not), or a folder of such files named after the splits, of `save_to_disk`, or "
        "a cloned repository. Every row needs a prompt, and mostly an answer, in the "
        "columns that `prompt_column` and `answer_column` name. Prompts longer than `max_prompt_length` are "
        "left out and counted; when none is left, there is nothing to train on.",
        'The message names the file and the row. Columns: `prompt_column = "question"`, '
        '`answer_column = "answer"`.\n'
        "Too long: `max_prompt_length = 1024`.\n"
        'Hub: `dataset_config = "main"` where a dataset has several.\n'
        "Try it without training: `grpo train --config FILE --dry-run`.",
        ("Dataset not found: …", "Column not found: `question` in …", "No prompt has 64 tokens or fewer"),
    ),
    Chapter(
        "rewards",
        "A reward function cannot be loaded, or returned something that is no reward",
        "A reward is code, yours perhaps. One that raises, returns NaN, or a list of another length stops "
        "the run, because training on wrong rewards is worse than not training. What was done until then is "
        "saved.",
        "The message shows the completion that it failed on and the line of your file.\n"
        "Its signature is TRL's: `def reward(prompts, completions, answer, **columns) -> list[float]`, where "
        '`completions[i][0]["content"]` is the text.\n'
        "Catch what your own parser raises and return 0.0 for it, then `grpo resume`.\n"
        "Built in: correctness, int, strict_format, soft_format, xmlcount, last_number.",
        ("Unknown reward function: …", "Reward `…` raised …", "Reward `…` returned …"),
    ),
    Chapter(
        "training-stopped",
        "A training stopped",
        "Something made it pointless or impossible to go on; the message says what. Whatever was done until "
        "then was saved, if it was sound.",
        "See what the log says: `grpo doctor --run outputs/NAME`.\nGo on: `grpo resume outputs/NAME`.",
    ),
)
