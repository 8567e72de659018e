"""Chapters of the guide: several ranks and machines."""

from grpo_cli.doctor.guide import Chapter

CHAPTERS: tuple[Chapter, ...] = (
    Chapter(
        "several-machines",
        "Several ranks do not come together, or come apart",
        "The ranks of a run meet on a port each before MLX connects them, and watch one another there until "
        "the end: MLX itself waits for ever for a rank that is gone.\n\n"
        "They must have been started with the same: a rank with other weights or another configuration adds "
        "gradients of another model to the sum, and nobody notices.",
        "A rank is not there: its own lines above say why, or it was never started. `grpo` and the "
        "model must be on every machine under the same path; a firewall must let ports 32323 and 33323 and "
        "those after them through.\n"
        "A port is in use: another run has it; `grpo launch --starting-port 42323`.\n"
        "They differ: install the same versions everywhere, and copy the configuration and the model.\n"
        "A rank was lost: `grpo resume outputs/NAME` goes on from the newest checkpoint, with as many ranks "
        "as there are.\n"
        "A rank hangs though it works: a longer `rank_timeout` in seconds.",
        (
            "Rank … (…) is not there: …",
            "The ranks were not started with the same: …",
            "Port … of … is in use",
            "The run ends: rank … (…) is gone: its process was killed, or its machine or the network failed",
            "The run ends: rank … (…) hangs: no sign of work for … s while …",
        ),
    ),
)
