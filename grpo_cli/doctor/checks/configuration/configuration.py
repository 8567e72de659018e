"""Checks of a configuration: its keys, the memory it needs here, and the run's duration."""

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grpo_cli.config.local_model import check_name
from grpo_cli.doctor.context import Context
from grpo_cli.doctor.findings import Finding, error, gigabytes, ok, skipped, warning
from grpo_cli.doctor.read.budget import budget
from grpo_cli.doctor.read.json_lines import read_lines
from grpo_cli.doctor.read.wired_limit import highest_limit, raised
from grpo_cli.foreign_text import quoted
from grpo_cli.rewards.spec import RewardSpec
from grpo_cli.words import plural

if TYPE_CHECKING:
    from grpo_cli.config.problems import Problem
    from grpo_cli.config.schema import Config
    from grpo_cli.doctor.read.duration import StepDuration
    from grpo_cli.engine.memory.verdict import MemoryVerdict

CODE_NOT_RUN = "tools and environments in files are not run to measure a step: the log of a run tells"
TO_WRITE = re.compile(r"`(\w+ = [^`]+)`")  # lines of TOML in the text of a cure


def validity(context: Context) -> Iterator[Finding]:
    """The configuration is valid, as `grpo config validate` checks it."""
    from grpo_cli.config.load import inspect_config

    if context.inspection is None:
        return
    # A run's own file was valid when the run started. Only a file named by the user is checked against
    # the files on this machine.
    named = context.config_name is not None
    name = context.inspection.name
    found = inspect_config(name, context.overrides, on_this_machine=named)
    for problem in (*found.problems, *found.warnings):
        yield finding_of(problem, name)
    if found.loaded is not None and not found.warnings:
        written = sum(source != "default" for source in found.loaded.sources.values())
        total = len(found.loaded.sources)
        yield ok(f"{name}: {written} of {total} keys are set, all of them valid", keys_set=written)


def finding_of(problem: "Problem", name: str) -> Finding:
    """A problem of a configuration as a finding, named after the problem's chapter of the guide."""
    place = f"{problem.place}: " if problem.place else ""
    numbers: dict[str, Any] = {"key": problem.key}
    if problem.place and problem.place.line:
        numbers |= {"file": problem.place.source, "line": problem.place.line}
    make = error if problem.severity == "error" else warning
    # One line per key: a second one is an alternative, and both together would conflict.
    lines = {line.partition("=")[0]: line for line in reversed(TO_WRITE.findall(problem.cure))}
    check = f"grpo config validate {quoted(name)}"
    finding = make(f"{place}{problem.message}", problem.cure, *reversed(lines.values()), check, **numbers)
    return replace(finding, name=problem.trouble)


def memory_needed(context: Context) -> Iterator[Finding]:
    """The configuration fits this machine's memory."""
    from grpo_cli.doctor.read.config_memory import needed, verdict_on

    config = context.config
    if config is None:
        yield skipped("the configuration is not valid")
        return
    folder = context.configured_model
    if folder is None:
        check_name(config.model_name)  # raises for a name that the hub cannot have
        yield skipped(CODE_NOT_RUN) if runs_code(config) else not_here(config)
        return
    there = budget(context.machine, context.probe)
    verdict = None if there is None else verdict_on(config, folder, there, context.on_cpu)
    if verdict is not None:
        yield weighed(context, verdict)
        return
    known = there is None and needed(config, folder, context.on_cpu) is not None
    what = "how much memory there is" if known else f"the shape of the model in {folder}"
    yield skipped(f"{what} is not known")


def weighed(context: Context, verdict: "MemoryVerdict") -> Finding:
    """The finding for the engine's verdict on memory."""
    from grpo_cli.engine.memory.cache import cache_limit
    from grpo_cli.engine.memory.estimate import parts

    needs, config = verdict.needs, context.config
    assert config is not None  # there is a verdict on it
    cache = cache_limit(config, context.probe.get("device", "cpu"), needs, verdict.budget) or 0
    seen = (
        f"about {gigabytes(needs.peak)} needed ({parts(needs)}), {gigabytes(verdict.budget)} there; "
        f"rollouts {gigabytes(needs.rollout_peak)}, the update {gigabytes(needs.update_peak)}; "
        f"MLX keeps up to {gigabytes(cache)} more for reuse"
    )
    numbers = {"needed_bytes": needs.peak, "budget_bytes": verdict.budget, "cache_bytes": cache}
    if verdict.fits:
        return ok(seen, **numbers)
    make = warning if verdict.suffices else error
    if verdict.is_impossible:
        one = f"a single completion needs about {gigabytes(verdict.least.peak)}"
        seen, make = f"Unable to allocate memory: {one}; {seen}", error
    return make(seen, cure_of(verdict), *verdict.lines, *wired_limit(context, needs.peak), **numbers)


def cure_of(verdict: "MemoryVerdict") -> str:
    """The cure in words; the keys to change follow as commands."""
    if verdict.changed is not None and verdict.suffices:
        return f"with these keys it needs about {gigabytes(verdict.changed.peak)}"
    changed = verdict.changed
    least = f", and with these keys it still needs {gigabytes(changed.peak)}" if changed else ""
    return f"choose a smaller model: `grpo doctor --only models-that-fit` lists them{least}"


def wired_limit(context: Context, need: int) -> list[str]:
    """macOS: the command that raises the GPU's limit, if the machine's memory is large enough."""
    physical = context.machine.memory_bytes() or 0
    highest = highest_limit(physical)
    if context.probe.get("device") != "metal" or need > highest:
        return []
    return [f"sudo sysctl iogpu.wired_limit_mb={raised(need, highest) // 1024**2}"]


def duration(context: Context) -> Iterator[Finding]:
    """The run's duration, estimated from a measured step."""
    from grpo_cli.data.load import load_examples
    from grpo_cli.doctor.read.duration import total_seconds, total_steps

    config, folder = context.config, context.configured_model
    if config is None:
        yield skipped("the configuration is not valid")
    elif not data_is_local(config):
        yield skipped(f"the dataset {config.dataset} is not a file on this machine: its size is not known")
    elif folder is not None and does_not_fit(context, config, folder):
        yield skipped("the configuration does not fit into this machine's memory: see memory-needed")
    elif (found := duration_of(context, config, folder)) is None:
        yield skipped(CODE_NOT_RUN) if runs_code(config) else not_here(config)
    else:
        examples = config.num_episodes if makes_examples(config) else None
        steps = total_steps(config, examples or len(load_examples(config, config.train_split)))
        seconds = total_seconds(config, found, steps)
        yield ok(
            f"about {in_words(seconds)} for {plural(steps, 'step')} of {found.step:.2g} s ({found.basis})",
            seconds=seconds,
            steps=steps,
            step_seconds=found.step,
            evaluation_seconds=found.evaluation,
        )


def does_not_fit(context: Context, config: "Config", folder: Path) -> bool:
    """True if a trial step would need too much memory: on a CPU that ends the process."""
    from grpo_cli.doctor.read.config_memory import needed

    needs, there = needed(config, folder, context.on_cpu), budget(context.machine, context.probe)
    return needs is not None and there is not None and needs.peak > there


def duration_of(context: Context, config: "Config", folder: Path | None) -> "StepDuration | None":
    """Duration of a step from the log of the configuration's run, else measured now.

    None if there is no log and no model to measure with.
    """
    from grpo_cli.doctor.read.duration import logged_duration, measured_duration

    # A run's log belongs to the run's own configuration, not to one named with `--config`.
    own = context.config_name is None
    lines = context.log if own else read_lines(config.run_dir / "training_log.jsonl")
    steps = [line for line in lines if "loss" in line]
    logged = logged_duration(steps, [line for line in lines if "eval_accuracy" in line])
    if logged is not None or folder is None or own or runs_code(config):
        return logged
    context.__dict__.pop("policy", None)  # loaded by other checks; two copies may not fit
    return measured_duration(config, folder)


def makes_examples(config: "Config") -> bool:
    """True if the examples are the environment's own."""
    return bool(config.environments and config.num_episodes)


def data_is_local(config: "Config") -> bool:
    """True if the examples can be counted without the network."""
    try:
        return (
            makes_examples(config)
            or config.dataset == "arithmetic"
            or Path(config.dataset).expanduser().exists()
        )
    except (OSError, ValueError, RuntimeError):  # too long, a NUL in it, an unknown ~user
        return False


def runs_code(config: "Config") -> bool:
    """True if a step runs tools or environments of the user's files: none is run unasked."""
    return any(RewardSpec.parse(entry).is_file for entry in [*config.tools, *config.environments])


def not_here(config: "Config") -> Finding:
    """The finding for a model that is not on this machine."""
    return skipped(
        f"the model {config.model_name} is not on this machine; `grpo doctor --only models-that-fit` says "
        "what the usual ones need"
    )


def in_words(seconds: float) -> str:
    """A duration in words: `a second`, `90 seconds`, `5 minutes`, `2.5 hours`."""
    if seconds < 120:
        return "a second" if seconds < 1.5 else f"{seconds:.0f} seconds"
    return f"{seconds / 60:.0f} minutes" if seconds < 7200 else f"{seconds / 3600:.1f} hours"
