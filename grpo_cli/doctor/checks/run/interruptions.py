"""The check of a run's interruptions: failures of the device, crashes and signals, from incidents.jsonl."""

from collections import Counter
from collections.abc import Iterator

from grpo_cli.doctor.checks.run.run_log import logged_steps
from grpo_cli.doctor.context import Context
from grpo_cli.doctor.findings import Finding, ok, skipped, warning
from grpo_cli.engine.failures import FAILURES
from grpo_cli.engine.run_dir.incidents import INTERRUPTED, KILLED, PRESSURES, RESUMED, read_incidents, told

CHAPTERS = {failure.name: failure.chapter for failure in FAILURES} | dict.fromkeys(
    PRESSURES.values(), "long-runs"
)
SAVE_OFTEN = "save_steps = 10"


def interruptions(context: Context) -> Iterator[Finding]:
    """Nothing interrupted the run."""
    assert context.run is not None
    incidents = read_incidents(context.run)
    kinds = Counter(one.kind for one in incidents if one.kind not in (RESUMED, INTERRUPTED))
    lost = sum(one.seconds for one in incidents)
    facts = {"interruptions": sum(kinds.values()), "kinds": dict(kinds), "seconds_lost": lost}
    if not kinds:
        if logged_steps(context):
            yield ok("nothing interrupted the run", **facts)
        elif "interruptions" in context.asked:
            yield skipped("no step is logged yet, and nothing has interrupted the run")
        return
    known = [kind for kind in kinds if kind in CHAPTERS]
    commands = [f"grpo doctor --explain {name}" for name in dict.fromkeys(CHAPTERS[kind] for kind in known)]
    words = "each was answered, with the same result; the guide says how to avoid it"
    if kinds[KILLED] or kinds["error"]:
        words = "start runs that nobody watches with `--supervise`, and save more often"
        commands = [SAVE_OFTEN, *commands]
    yield warning("\n".join(told(incidents)), words, *commands, **facts)
