"""Chapters of the guide: memory."""

from grpo_cli.doctor.guide import Chapter

CHAPTERS: tuple[Chapter, ...] = (
    Chapter(
        "memory",
        "Too little memory is available",
        "What counts is not how much memory there is but how much other programs leave of it.\n"
        "\n"
        "Below a tenth, or below 2 GB, loading even a small model makes the system swap (a "
        "Mac) or kill the process (Linux, a container). A container has a limit of its own, "
        "which is below the machine's.",
        "See what takes it: `top -o mem` on a Mac, `ps aux --sort=-rss | head` on Linux.\n"
        "A container: `docker run --memory 16g …`.\n"
        "A smaller run: `grpo doctor --only models-that-fit`; `batch_size = 1`, "
        "`gradient_accumulation_steps = 4`.",
        (
            "Killed",
            "exit code 137",
            "zsh: killed",
            "OOMKilled",
        ),
    ),
    Chapter(
        "swap",
        "Much is swapped out",
        "What is swapped out lies on the disk, which is a hundred times slower than memory.\n"
        "\n"
        "A run that needs such pages in each step takes minutes for what takes seconds. On a "
        "Mac there is no error: only the time of a step grows.",
        "Close other programs, or restart.\n"
        "Make the run smaller: `grpo doctor --config FILE --only memory-needed` says by which "
        "keys.\n"
        "Watch it: `sysctl vm.swapusage` on a Mac, `free -h` on Linux.",
        (
            "steps take minutes instead of seconds",
            "Your system has run out of application memory",
        ),
    ),
    Chapter(
        "wired-limit",
        "How much of a Mac's memory the GPU may hold",
        "A Mac lends the GPU about two thirds to three quarters of its memory. A run that "
        "needs more is swapped, or fails, though memory is free.\n"
        "\n"
        "The limit can be raised until the next restart: `iogpu.wired_limit_mb` in megabytes, "
        "0 for the system's own. It is of use from macOS 15 on, where MLX can keep memory "
        "wired. What the GPU takes the system lacks: leave it 4 GB, or a fifth. The number "
        "that guides give, 32768, is all of a Mac with 32 GB and half of one with 64: take "
        "the one for your machine.",
        "`grpo doctor --config FILE --only wired-limit` gives the line for this machine and "
        "this configuration, as `sudo sysctl iogpu.wired_limit_mb=12288` for a Mac with 16 "
        "GB.\n"
        "Back to the default: `sudo sysctl iogpu.wired_limit_mb=0`, or a restart.\n"
        "Now: `sysctl iogpu.wired_limit_mb`.",
        (
            "sudo sysctl iogpu.wired_limit_mb=32768",
            "iogpu.wired_limit_mb",
            "kIOGPUCommandBufferCallbackErrorOutOfMemory",
            "[metal::malloc] Attempting to allocate",
            "Insufficient Memory (00000008:kIOGPUCommandBufferCallbackErrorOutOfMemory)",
        ),
    ),
    Chapter(
        "models-that-fit",
        "Which model fits this machine?",
        "Training all weights takes 12 to 16 bytes a number before the first token: weights, "
        "two averages of AdamW, and float32 copies. Adapters (LoRA) leave that to a hundredth "
        "of the numbers.\n"
        "\n"
        "The table is reckoned for this machine, for one prompt and 8 completions; a CPU "
        "computes in float32, twice the size. More completions, longer ones and larger "
        "vocabularies take more.",
        "`grpo doctor --only models-that-fit`; for your own configuration `grpo doctor "
        "--config FILE --only memory-needed`.\n"
        "Adapters: `lora_rank = 16`. One prompt at a time with the same gradient: `batch_size "
        "= 1`, `gradient_accumulation_steps = 4`. Shorter: `max_new_tokens = 64`. Slower and "
        "smaller: `grad_checkpoint = true`.",
        (
            "which model fits",
            "batch size for my memory",
            "batch_size 4 above 16 GB, 2 above 8 GB, else 1",
        ),
    ),
)
