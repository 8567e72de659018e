"""Chapters of the guide: speed."""

from grpo_cli.doctor.guide import Chapter

CHAPTERS: tuple[Chapter, ...] = (
    Chapter(
        "matrix-product",
        "Matrix products are slow",
        "Nearly all the time of a training goes into matrix products. The MLX for a Linux CPU "
        "comes with a reference library that makes 5 billion operations a second where a good "
        "one makes 300.\n"
        "\n"
        "grpo puts a fast library in its place by itself: OpenBLAS or MKL of the system, or "
        "the package scipy-openblas32. A note says why it could not.",
        "`python -m pip install scipy-openblas32`; in a clone `uv sync`.\n"
        "It was turned off: `unset GRPO_FAST_BLAS`.\n"
        "Other programs compute at the same time: `OPENBLAS_NUM_THREADS=1` can be quicker "
        "than all of them.",
        (
            "products run on mlx's slow BLAS",
            "turned off by GRPO_FAST_BLAS",
        ),
    ),
    Chapter(
        "memory-bandwidth",
        "How fast is the memory?",
        "Sampling reads all weights for each token, so that its speed is that of the memory: with "
        "100 GB/s a model of 1 GB gives each completion at most 100 tokens a second.\n"
        "\n"
        "The number is that of a copy. It says nothing bad by itself; much less than on "
        "another day tells of another program at work.",
        "More completions at once cost little more: `num_generations = 8` rather than 4.\n"
        "Fewer bytes to read, on a Mac or a card: `grpo convert SOURCE --quantize`.",
        (
            "low utilisation",
            "slow generation",
        ),
    ),
    Chapter(
        "power",
        "On battery, or slowed down by heat",
        "A laptop on battery, in its low power mode or too warm computes with lower clocks, "
        "and a night's run can empty it.\n"
        "\n"
        "Nothing fails: the same steps take longer. A lid that is closed puts a Mac to sleep, "
        "and the run with it.",
        "Connect the charger; turn Low Power Mode off: `sudo pmset -a lowpowermode 0`.\n"
        "Keep a Mac awake: `caffeinate -is grpo train --config FILE`.\n"
        "Heat: `pmset -g therm` on a Mac, `sensors` on Linux, `nvidia-smi -q -d PERFORMANCE` "
        "for a card.",
        (
            "CPU_Speed_Limit",
            "Now drawing from 'Battery Power'",
            "steps get slower over time",
        ),
    ),
)
