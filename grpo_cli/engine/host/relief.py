"""A run on a machine that sleeps, swaps, heats up or leaves its charger.

    with working(run):                        # awake
        for step in steps:
            relieve(run, save)                # between two steps
            ...

Results do not depend on it: the cache is only kept for speed, fewer rows at once give the same gradient, and
a pause lies between two steps.
"""

import platform
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from grpo_cli import device
from grpo_cli.distributed.phase import Phase
from grpo_cli.engine import events
from grpo_cli.engine.host.awake import kept_awake
from grpo_cli.engine.host.facts import is_lid_closed, read_facts
from grpo_cli.engine.host.pressure import Answer
from grpo_cli.engine.host.system import System
from grpo_cli.engine.memory.estimate import updated_at_once
from grpo_cli.engine.run import Run
from grpo_cli.engine.run_dir.incidents import PRESSURES, Incident
from grpo_cli.errors import Interrupted
from grpo_cli.words import plural

TICK = 0.5  # seconds between two looks for Ctrl-C during a pause
TICKS = 20  # between two readings during a pause
ON_BATTERY = (
    "on battery ({charge}): the run is slower, and ends with it; connect the charger, or set "
    '`pause_on = "battery|pressure|heat"` to wait for it'
)
LID = "the lid is closed: without a display and a charger the machine sleeps all the same; open it"


@contextmanager
def working(run: Run, system: System | None = None) -> Iterator[None]:
    """Keep the machine awake within the block, once for all its ranks; report a battery or a closed lid."""
    nodes = run.world.gather(platform.node())
    if nodes.index(nodes[run.world.rank]) != run.world.rank:
        yield
        return
    system = system or System()
    tell_power(run, system)
    run.display.rest()
    if not run.config.keep_awake:
        yield
        return
    with kept_awake(lambda text: run.listener(events.Notice(text)), system):
        yield


def tell_power(run: Run, system: System) -> None:
    """Report a battery and a closed lid, which can end a night's run."""
    charge = read_facts(system).battery
    if charge and "battery" not in run.config.pauses_on:
        run.listener(events.Notice(ON_BATTERY.format(charge=charge)))
    if is_lid_closed(system):
        run.listener(events.Notice(LID))


def relieve(run: Run, save: Callable[[], object]) -> None:
    """Answer pressure on the machine, between two steps. `save` saves the last step before a pause.

    All ranks pause if one of them must. Raises Interrupted if the run is stopped during a pause.
    """
    answer = run.pressure.look()
    if answer.clears_cache:
        clear_cache(run, answer)
    if answer.halves_rows:
        halve_rows(run, answer)
    asked = run.world.gather([answer.pauses_for, answer.why])
    reason, why = next((each for each in asked if each[0]), ["", ""])
    if reason:
        pause(run, reason, why, own=bool(answer.pauses_for), save=save)


def clear_cache(run: Run, answer: Answer) -> None:
    """Return MLX's freed memory to the system."""
    device.clear_cache()
    run.machine_actions.append("cache cleared")
    if "short of memory" not in run.told:
        run.told.add("short of memory")
        run.listener(events.Notice(f"{answer.why} on this machine: MLX's cache is cleared"))


def halve_rows(run: Run, answer: Answer) -> None:
    """Compute at most half as many completions at once from now on."""
    config = run.config
    prompts = -(-config.prompts_per_generation // run.world.size)  # of this rank
    run.rollout_limit.lower(run.rollout_limit.rows or prompts * config.num_generations)
    _, at_once = updated_at_once(config, config.max_prompt_length, run.forward_plan.share_prefix)
    rows = plural(run.update_limit.lower(run.update_limit.rows or at_once), "completion")
    run.machine_actions.append(f"{rows} at once")
    record(run, "pressure", f"at most {rows} at once")
    run.listener(
        events.Notice(f"{answer.why} on this machine: now at most {rows} in the update, with the same result")
    )


def pause(run: Run, reason: str, why: str, *, own: bool, save: Callable[[], object]) -> None:
    """Save, and wait until the reason is gone. `own`: it is a reason on this rank."""
    step, since = run.state.step, run.pressure.clock()
    run.listener(events.Notice(f"paused after step {step}: {why}; the run continues by itself"))
    if step > 0:
        save()
    device.clear_cache()
    run.world.set_phase(Phase.WAITING)
    persists = True
    while persists and not run.world.any(run.interruption.requested):
        for _ in range(TICKS):
            if run.interruption.requested:
                break
            time.sleep(TICK)
        persists = run.world.any(own and run.pressure.persists(reason, since))
    run.pressure.resumed(reason)
    seconds = run.pressure.clock() - since
    run.machine_actions.append(f"paused {seconds:.0f} s: {reason}")
    record(run, reason, "paused", seconds)
    run.paused_seconds += seconds
    if run.world.any(run.interruption.requested):
        raise Interrupted(f"Stopped after step {step}." if step else "")
    run.listener(events.Notice(f"the run continues after a pause of {seconds / 60:.1f} minutes"))


def record(run: Run, reason: str, done: str, seconds: float = 0.0) -> None:
    """Record what was done about the machine in the run's incidents."""
    kind, step = PRESSURES[reason], run.state.step
    run.incidents.record(Incident(kind=kind, step=step, place="the machine", done=done, seconds=seconds))


def machine_numbers(run: Run) -> dict[str, object]:
    """The actions since the last step that was logged; empty without any."""
    if not run.machine_actions:
        return {}
    found: dict[str, object] = {"machine_actions": list(run.machine_actions)}
    if run.paused_seconds:
        found["paused_seconds"] = run.paused_seconds
    return found


def forget_actions(run: Run) -> None:
    """Begin a new list of actions: the log has them."""
    run.machine_actions, run.paused_seconds = [], 0.0
