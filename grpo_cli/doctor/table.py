"""The table of checks. To add one, write its function in a file of checks/ and add a line here.

A check is a function that takes the context and yields findings. `grpo doctor --list` shows the first line of
its docstring.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from grpo_cli.doctor.checks.configuration import configuration, tools
from grpo_cli.doctor.checks.hosts import backend_choice, hosts, ring
from grpo_cli.doctor.checks.machine import disk, environment, hub, memory, speed
from grpo_cli.doctor.checks.model import chat_format, language, model, quantisation, tokenizer, weights
from grpo_cli.doctor.checks.run import (
    checkpoint,
    completions,
    optimizer_state,
    progress,
    rewards,
    run_log,
    training,
)
from grpo_cli.doctor.context import Context
from grpo_cli.doctor.findings import Finding

Need = Literal["", "config", "model", "checkpoint", "run", "hosts"]


@dataclass(frozen=True)
class Check:
    """A named check. `needs`: the option that must be given; `on_mlx`: runs models; `on_request`: slow.

    `well`: the name shown with a ✓ if the check is named after a trouble.
    """

    name: str
    subject: str
    look: Callable[[Context], Iterator[Finding]]
    needs: Need = ""
    on_mlx: bool = False
    on_request: bool = False  # runs only if `--only` names it
    well: str = ""

    @property
    def summary(self) -> str:
        """The first line of the check's docstring, for `--list`."""
        return (self.look.__doc__ or "").partition("\n")[0].rstrip(".")


CHECKS: tuple[Check, ...] = (
    Check("python", "environment", environment.python),
    Check("system", "environment", environment.system),
    Check("mlx", "environment", environment.mlx_version),
    Check("two-backends", "environment", environment.two_backends, well="one backend"),
    Check("mlx-backend", "environment", environment.mlx_backend),
    Check("mlx-lm", "environment", environment.mlx_lm_version),
    Check("nanochat-import", "environment", environment.nanochat_import),
    Check("packages", "environment", environment.packages),
    Check("compiler", "environment", environment.compiler),
    Check("memory", "memory", memory.memory),
    Check("swap", "memory", memory.swap),
    Check("wired-limit", "memory", memory.wired_limit),
    Check("models-that-fit", "memory", memory.models_that_fit),
    Check("matrix-product", "speed", speed.matrix_product),
    Check("float32-products", "speed", speed.float32_products),
    Check("memory-bandwidth", "speed", speed.memory_bandwidth),
    Check("power", "speed", speed.power),
    Check("disk-space", "disk", disk.disk_space),
    Check("output-folder", "disk", disk.output_folder),
    Check("hub-cache", "disk", disk.hub_cache_size),
    Check("leftovers", "disk", disk.leftovers, well="no leftovers"),
    Check("hub", "hub", hub.reachable),
    Check("hub-token", "hub", hub.token),
    Check("tokenizer", "tokenizer", tokenizer.loads, needs="model", on_mlx=True),
    Check("vocabulary", "tokenizer", tokenizer.vocabulary, needs="model", on_mlx=True),
    Check("round-trip", "tokenizer", tokenizer.round_trip, needs="model", on_mlx=True),
    Check("special-tokens", "tokenizer", chat_format.special_tokens, needs="model", on_mlx=True),
    Check("end-tokens", "tokenizer", chat_format.end_tokens, needs="model", on_mlx=True),
    Check("chat-template", "tokenizer", chat_format.chat_template, needs="model", on_mlx=True),
    Check("model-files", "model", model.files, needs="model"),
    Check("model-weights", "model", weights.weights, needs="model", on_mlx=True),
    Check("model-values", "model", weights.values, needs="model", on_mlx=True),
    Check(
        "garbled-output",
        "model",
        language.garbled_output,
        needs="model",
        on_mlx=True,
        well="no garbled output",
    ),
    Check("quantisation", "model", quantisation.quantisation, needs="model", on_mlx=True, on_request=True),
    Check("checkpoint-files", "checkpoint", checkpoint.files, needs="checkpoint"),
    Check("optimizer-state", "checkpoint", optimizer_state.optimizer_state, needs="checkpoint"),
    Check("resumable", "checkpoint", checkpoint.resumable, needs="checkpoint"),
    Check("run-log", "run", run_log.readable, needs="run"),
    Check("rewards-zero", "run", rewards.rewards_zero, needs="run", well="rewards not zero"),
    Check("nothing-to-learn", "run", rewards.nothing_to_learn, needs="run", well="something to learn"),
    Check(
        "identical-completions", "run", rewards.identical_completions, needs="run", well="completions differ"
    ),
    Check("reward-high", "run", rewards.reward_high, needs="run", well="reward in range"),
    Check("grad-norm-high", "run", training.grad_norm_high, needs="run", well="grad norm in range"),
    Check("nan-gradient", "run", training.nan_gradient, needs="run", well="no NaN gradient"),
    Check("kl-high", "run", training.kl_high, needs="run", well="KL in range"),
    Check("collapse", "run", progress.collapse, needs="run", well="no collapse"),
    Check("length-collapse", "run", completions.length_collapse, needs="run", well="no length collapse"),
    Check("truncation", "run", completions.truncation, needs="run", well="completions end"),
    Check("repetition", "run", completions.repetition, needs="run", well="no repetition"),
    Check("accuracy-flat", "run", progress.accuracy_flat, needs="run", well="accuracy not flat"),
    Check("time-split", "run", training.time_split, needs="run"),
    Check("configuration", "configuration", configuration.validity, needs="config"),
    Check("tools", "configuration", tools.tools, needs="config", on_mlx=True),
    Check("memory-needed", "configuration", configuration.memory_needed, needs="config"),
    Check("duration", "configuration", configuration.duration, needs="config", on_mlx=True),
    Check("hosts", "hosts", hosts.reached, needs="hosts"),
    Check("host-versions", "hosts", hosts.versions, needs="hosts"),
    Check("ring", "hosts", ring.ring, needs="hosts"),
    Check("backend-to-use", "hosts", backend_choice.backend_to_use, needs="hosts"),
)
