"""Chapters of the guide: saving."""

from grpo_cli.doctor.guide import Chapter

CHAPTERS: tuple[Chapter, ...] = (
    Chapter(
        "checkpoint-files",
        "A checkpoint is not as it was written",
        "manifest.json names every file of a checkpoint with its size and sha256, and is written last: "
        "what differs from it was cut off, changed or lost since.\n\n"
        "A flipped bit in the weights loads without an error, so nothing short of the checksum finds "
        "it. `grpo resume` leaves a damaged checkpoint out, says so, and takes the next older one.",
        "Copy it again, whole, from where it is right (`rsync -c` or `cp -r`, all files of the folder).\n"
        "Take another: `grpo resume outputs/NAME` finds the newest intact one by itself.\n"
        "Damage comes back? Look at the disk (`dmesg`, `smartctl -a`) and at what syncs the folder.\n"
        "A manifest of another version: go on with the version of grpo that wrote it, or train from the "
        "weights: `--set model_name=outputs/NAME/checkpoint-40`.",
        (
            "model.safetensors does not match its checksum",
            "model.safetensors has … of … bytes",
            "manifest.json is missing",
            "… was written by another version of grpo",
        ),
    ),
    Chapter(
        "optimizer-state",
        "The optimizer's state is not that of the weights",
        "The optimizer keeps two averages for every weight, and a float32 copy where weights are of "
        "half precision.\n\n"
        "State of other names or shapes belongs to another run, or to another model, `lora_rank`, "
        "`optimizer` or `dtype`; going on without it would begin with a jump.",
        "Go on with the settings that the run was started with; they lie in the checkpoint's "
        "config.toml.\n"
        "Or begin anew from the weights alone: `grpo train --config FILE --set "
        "model_name=outputs/NAME/checkpoint-40 --set run_name=NAME2`.",
        ("The saved optimizer state does not fit: …",),
    ),
    Chapter(
        "resumable",
        "The run cannot go on from here",
        "A run goes on as if it had never stopped when weights, optimizer, random numbers, data and "
        "configuration are those of one moment.\n\n"
        "A checkpoint holds them all but two: the dataset, whose prompts are compared by a checksum, "
        "and with LoRA the base model, which is named in adapter_config.json.",
        "Go on from the newest intact checkpoint: `grpo resume outputs/NAME`; from another: `grpo "
        "resume outputs/NAME/checkpoint-40`.\n"
        "Other data: bring back what it was, or begin a new run from the weights.\n"
        "Data or a base that moved: name the new place, `--set dataset=PATH`, `--set model_name=DIR`. All "
        "weights need no base, but for a comparison with it (`kl_coeff`).\n"
        "A reward's code, a column or the evaluation's answers changed: `--accept-changes` goes on, with "
        "numbers that cannot be compared with those before.\n"
        "No checkpoint is intact: `grpo resume outputs/NAME --restart` begins again from step 0; what is "
        "there is kept under other names.\n"
        "A run that is finished: `grpo resume outputs/NAME --set max_steps=80` makes it longer.",
        (
            "The training prompts are not those that the run in … was started with",
            "trainer_state.json cannot be read",
            "the run has made … steps already, and is to end after …",
            "The numbers before and after … could not be compared",
            "No checkpoint in … is intact",
        ),
    ),
)
