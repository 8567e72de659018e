"""The bug report of `grpo doctor --report FILE`: a Markdown text that is safe to publish.

Tokens, user names and home folders are removed (redact.py); prompts and completions are not included.
"""

from collections import deque
from collections.abc import Sequence
from pathlib import Path

from grpo_cli.doctor.context import Context
from grpo_cli.doctor.findings import Finding
from grpo_cli.doctor.last_error import last_error
from grpo_cli.doctor.redact import Redaction
from grpo_cli.errors import ConfigError

PACKAGES = (
    "grpo-cli",
    "mlx",
    "mlx-metal",
    "mlx-cpu",
    "mlx-cuda-12",
    "mlx-cuda-13",
    "mlx-lm",
    "transformers",
    "tokenizers",
    "tiktoken",
    "datasets",
    "huggingface-hub",
    "numpy",
    "pydantic",
    "typer",
    "rich",
)
TITLE = "# Bug report of grpo"
LOG_LINES = 100
LARGEST_FILE = 20_000  # characters shown of an invalid configuration
MARKS = {"ok": "✓", "warning": "!", "error": "✗", "skipped": "–"}


def bug_report(context: Context, findings: Sequence[Finding]) -> str:
    """The report for a maintainer: system, versions, configuration, findings, log and last error."""
    sections = [
        TITLE,
        "## What happened\n\n(what you did, what you expected, and what happened instead)",
        "## System\n\n" + table(system(context)),
        "## Versions\n\n" + table(versions(context)),
        "## Configuration\n\n" + fenced(configuration(context), "toml"),
        "## Findings\n\n" + "\n".join(described(finding) for finding in findings),
        f"## The log's last {LOG_LINES} lines\n\n" + fenced(log_lines(context), "json"),
        "## The last error\n\n" + fenced(last_error() or "none is recorded"),
    ]
    redaction = Redaction.here(context.machine.environment).also(*names_of_hosts(context))
    return redaction.apply("\n\n".join(sections)) + "\n"


def is_report(path: Path) -> bool:
    """True if a file begins like a bug report."""
    with path.open("rb") as file:
        return file.read(len(TITLE)) == TITLE.encode()


def names_of_hosts(context: Context) -> tuple[set[str], set[str]]:
    """Users and machines of the host file: ssh names and the machines' own names."""
    if context.host_file is None:
        return set(), set()
    probes = vars(context).get("host_probes", {}).values()  # only existing ones: a report starts none
    users, machines = set(), {str(probe.facts.get("host", "")) for probe in probes}
    for ssh in context.host_file.machines:
        user, _, machine = ssh.rpartition("@")
        users.add(user)
        if not machine[:1].isdigit():  # an IP address of a local network identifies nobody
            machines.add(machine)
    return users, machines | {machine.partition(".")[0] for machine in machines}


def system(context: Context) -> dict[str, str]:
    """Facts about the machine and MLX's device."""
    machine, probe = context.machine, context.probe
    memory = machine.memory_bytes()
    facts = {
        "system": f"{machine.system} {machine.architecture}",
        "Python": machine.python,
        "memory": f"{memory / 1e9:.1f} GB" if memory else "unknown",
        "device": " ".join(str(probe[key]) for key in ("device", "device_name") if key in probe),
    }
    if "failed" in probe:
        facts["MLX fails at"] = f"{probe['failed']}: {probe.get('error', '')}"
    return facts


def versions(context: Context) -> dict[str, str]:
    """Versions of the installed packages among PACKAGES."""
    found = {package: context.machine.version(package) for package in PACKAGES}
    return {package: version for package, version in found.items() if version}


def configuration(context: Context) -> str:
    """The resolved configuration as TOML, or its problems and text if it is invalid."""
    from grpo_cli.config.render import dump_config

    if context.inspection is None:
        return "# none was named"
    if context.config is None:
        problems = "\n".join(f"# {problem}".replace("\n", "\n# ") for problem in context.inspection.problems)
        return f"{problems}\n\n{written(context.inspection.name)}"
    return dump_config(context.config)


def written(name: str) -> str:
    """The text of an invalid configuration file, at most LARGEST_FILE characters."""
    from grpo_cli.config.resolve import find_config

    try:
        path, _ = find_config(name)
        return path.read_text(encoding="utf-8", errors="replace")[:LARGEST_FILE]
    except (ConfigError, OSError) as problem:
        return f"# it cannot be read: {problem}".partition("\n")[0]


def log_lines(context: Context) -> str:
    """The last LOG_LINES lines of the log of the named run, else of the configuration's run."""
    run = context.run or (context.config.run_dir if context.config else None)
    path = Path(run) / "training_log.jsonl" if run else None
    if path is None or not path.is_file():
        return "no run was named, or it has no log"
    with path.open(encoding="utf-8", errors="replace") as file:
        return "".join(deque(file, LOG_LINES))


def described(finding: Finding) -> str:
    """A finding as a list item, with its cure if it is a problem."""
    seen = finding.seen.replace("\n", "\n  ")
    line = f"- {MARKS[finding.severity]} `{finding.name}` {seen}"
    return f"{line}\n  fix: {finding.cure}" if finding.severity in ("warning", "error") else line


def table(rows: dict[str, str]) -> str:
    """A Markdown table of two columns."""
    cells = [f"| {name} | {value.replace('|', '/')} |" for name, value in rows.items()]
    return "\n".join(["| | |", "|---|---|", *cells])


def fenced(text: str, language: str = "text") -> str:
    """A text in a code fence longer than any fence in it."""
    fence = "```"
    while fence in text:
        fence += "`"
    return f"{fence}{language}\n{text.rstrip()}\n{fence}"
