"""Chapters of the guide: disks."""

from grpo_cli.doctor.guide import Chapter

CHAPTERS: tuple[Chapter, ...] = (
    Chapter(
        "disk-space",
        "The disk is too small for the checkpoints",
        "A checkpoint with all weights in half precision takes 14 bytes a number: 2 for the "
        "weight, 12 for AdamW and the float32 copies. 1.5 billion numbers are 21 GB, adapters "
        "far less.\n"
        "\n"
        "A run keeps `keep_checkpoints` of them, the best, and the final one, and writes a "
        "new one before an old one goes. A save that fails does not end a run at once: it "
        "goes on, and the third failure in a row ends it.",
        "Fewer: `keep_checkpoints = 1`; only the last: `save_steps = 0`; far smaller: "
        "`lora_rank = 16`.\n"
        'Another disk: `output_dir = "/OTHER/DISK/outputs"`.\n'
        "Room: `df -h .`, `du -sh * | sort -h`, `grpo doctor --only disk`.",
        (
            "No space left on device",
            "[Errno 28] No space left on device",
            "the conversion needs",
            "Failed to save checkpoint: it needs",
        ),
    ),
    Chapter(
        "output-folder",
        "The output folder cannot be written",
        "A run writes its log and checkpoints there; where that is refused, nothing of it "
        "would be kept.\n"
        "\n"
        "The folder belongs to somebody else (a run that was started with sudo), its disk is "
        "mounted read-only, or a file has its name. The doctor writes a small file there and "
        "deletes it.",
        "Yours again: `sudo chown -R $USER outputs`, `chmod -R u+rwX outputs`.\n"
        'Another folder: `output_dir = "/OTHER/DISK/outputs"`.\n'
        "Its disk: `df -h outputs`, `mount | grep ' ro'`.",
        (
            "Failed to save checkpoint: Permission denied",
            "Read-only file system",
            "is not a folder",
        ),
    ),
    Chapter(
        "hub-cache",
        "Where downloads are kept, and how much they take",
        "Downloaded models and datasets stay in one folder for all programs, and nothing "
        "deletes them. A model of 7 billion numbers takes 15 GB.\n"
        "\n"
        "On a slow or full disk, loading is slow or a download ends half way.",
        "See and delete: `hf cache ls`, `hf cache rm REPOSITORY`.\n"
        "Another, fast disk: `export HF_HOME=/OTHER/DISK/huggingface` (in your shell's "
        "profile).",
        (
            "HF_HOME",
            "OSError: [Errno 28] No space left on device",
            "Not enough free disk space to download the file",
        ),
    ),
    Chapter(
        "leftovers",
        "Temporary files that a killed process left",
        "Checkpoints and converted models are written under another name (`.NAME.grpo-tmp-XXXX`) "
        "and get theirs when they are complete. A process that is killed in between leaves "
        "such a folder.\n"
        "\n"
        "grpo deletes them itself when the run is resumed or the conversion repeated; what "
        "will never be is yours to delete. `NAME.aside` is what a resumed run put aside "
        "because it takes another way now: no rubbish, but large.",
        "`grpo doctor --only leftovers` names them with their sizes and the lines that delete "
        "them.\n"
        "All of an output folder: `find outputs -maxdepth 2 -name '.*grpo-tmp*' -mmin +60`.",
        (
            ".grpo-tmp",
            ".grpo-old",
            ".aside",
        ),
    ),
)
