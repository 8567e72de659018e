"""The context of checks: the machine, and the configuration, model, checkpoint, run or hosts to examine.

Data that several checks need are read once, when the first check asks for them.
"""

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grpo_cli.config.local_model import local_folder
from grpo_cli.doctor.read.checkpoint import damage_of
from grpo_cli.doctor.read.host_probe import HostProbe, probe_hosts
from grpo_cli.doctor.read.json_lines import read_lines
from grpo_cli.doctor.read.machine import Machine
from grpo_cli.doctor.read.model_folder import base_folder
from grpo_cli.doctor.read.tokenizer import load

if TYPE_CHECKING:
    from grpo_cli.config.load import Inspection
    from grpo_cli.config.schema import Config
    from grpo_cli.distributed.hosts import HostFile
    from grpo_cli.errors import CheckpointError
    from grpo_cli.models.load import Policy
    from grpo_cli.models.tokenizer import Tokenizer

STARTING_PORT = 32323  # the default of mlx.launch, so firewalls are open for it


@dataclass(kw_only=True)
class Context:
    """The subject of the checks. Paths are as the user named them; None: not named."""

    machine: Machine = field(default_factory=Machine)
    config_name: str | None = None  # --config, or $MLX_GRPO_CONFIG
    overrides: tuple[str, ...] = ()
    model: str | None = None  # --model: a folder, a repository or `tiny`
    checkpoint: Path | None = None  # --checkpoint
    run: Path | None = None  # --run
    hosts: Path | None = None  # --hosts
    python: str | None = None  # --python: path on the hosts
    starting_port: int = STARTING_PORT  # --starting-port: of the ring
    asked: frozenset[str] = frozenset()  # the checks that `--only` names

    @cached_property
    def host_file(self) -> "HostFile | None":
        """The host file, None if none was named. Raises ConfigError if it is missing or invalid."""
        from grpo_cli.distributed.hosts import read_hosts

        return read_hosts(self.hosts) if self.hosts else None

    @property
    def python_there(self) -> str:
        """Path of Python on every host; by default the path of this one."""
        return self.python or self.machine.executable

    @cached_property
    def host_probes(self) -> dict[str, HostProbe]:
        """Probes of the host file's machines, by ssh name: each one's facts or trouble."""
        assert self.host_file is not None
        return probe_hosts(self.machine, self.host_file, self.python_there)

    @cached_property
    def probe(self) -> dict[str, Any]:
        """Answers of MLX's probe; its keys are in probe.py. Has `failed` if a stage failed."""
        return self.machine.probe()

    @property
    def mlx_works(self) -> bool:
        """True if models can be loaded in this process."""
        return "failed" not in self.probe and bool(self.probe.get("product_right"))

    @property
    def on_cpu(self) -> bool:
        """True if MLX computes on a CPU, or its device is unknown."""
        return bool(self.probe.get("device", "cpu") == "cpu")

    @cached_property
    def inspection(self) -> "Inspection | None":
        """Validation result of the configuration, else of the run's own; None without either."""
        from grpo_cli.config.load import inspect_config

        name = self.config_name
        if name is None and self.run is not None and (self.run / "config.toml").is_file():
            name = str(self.run / "config.toml")
        return inspect_config(name, self.overrides) if name else None

    @cached_property
    def run_config(self) -> "Config | None":
        """Configuration of the examined run; None if its file is missing or invalid."""
        from grpo_cli.config.load import inspect_config

        if self.run is None or not (self.run / "config.toml").is_file():
            return None
        loaded = inspect_config(str(self.run / "config.toml")).loaded
        return loaded.config if loaded else None

    @property
    def config(self) -> "Config | None":
        """The configuration; None without one, or if it is invalid."""
        loaded = self.inspection.loaded if self.inspection else None
        return loaded.config if loaded else None

    @cached_property
    def model_folder(self) -> Path | None:
        """Local folder of the model to examine: the named one, the checkpoint's or the configuration's.

        None if none is named or it is not on this machine. Downloads nothing.
        """
        if self.model or self.checkpoint:
            return local_folder(self.model or str(self.checkpoint), self.machine.environment)
        return self.configured_model

    @property
    def configured_model(self) -> Path | None:
        """Local folder of the configuration's model; None if it is not on this machine."""
        return local_folder(self.config.model_name, self.machine.environment) if self.config else None

    @property
    def base_folder(self) -> Path:
        """The folder with the full weights: the model's own, or that of the model its adapters belong to.

        Raises ModelError if that is not on this machine.
        """
        return base_folder(self.model_folder, self.machine.environment)

    @cached_property
    def policy(self) -> "Policy":
        """The model, loaded as training loads it. Raises ModelError if it does not load."""
        from grpo_cli import device
        from grpo_cli.models.load import load_policy

        device.prepare()
        policy = load_policy(str(self.model_folder))
        policy.tokenizer.template_keywords = self.template_keywords
        return policy

    @cached_property
    def tokenizer(self) -> "Tokenizer":
        """The tokenizer of the model's base folder. Raises ModelError if it does not load."""
        tokenizer = load(self.base_folder)
        tokenizer.template_keywords = self.template_keywords
        return tokenizer

    @property
    def template_keywords(self) -> dict[str, Any]:
        """Keywords that the configuration gives to the chat template."""
        return dict(self.config.chat_template_kwargs) if self.config else {}

    @cached_property
    def checkpoints(self) -> list[Path]:
        """The checkpoints to examine: the named one, or all of the run."""
        from grpo_cli.engine.run_dir.manifest import checkpoints

        if self.checkpoint is not None:
            return [self.checkpoint]
        return checkpoints(self.run) if self.run else []

    @cached_property
    def damages(self) -> "dict[Path, str | CheckpointError]":
        """Damage of each checkpoint: empty if intact; a CheckpointError if of another version."""
        return {folder: damage_of(folder) for folder in self.checkpoints}

    @cached_property
    def log(self) -> list[dict[str, Any]]:
        """The run's log, line by line; damaged lines are left out."""
        path = self.run / "training_log.jsonl" if self.run else None
        return read_lines(path) if path and path.is_file() else []

    @property
    def steps(self) -> list[dict[str, Any]]:
        """The log's lines of steps, which have a `loss`."""
        return [line for line in self.log if "loss" in line]

    @property
    def evaluations(self) -> list[dict[str, Any]]:
        """The log's lines of evaluations, which have an `eval_accuracy`."""
        return [line for line in self.log if "eval_accuracy" in line]

    @cached_property
    def completions(self) -> list[dict[str, Any]]:
        """Lines of the run's completions.jsonl."""
        path = self.run / "completions.jsonl" if self.run else None
        return read_lines(path) if path and path.is_file() else []
