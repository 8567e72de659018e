"""Display of a conversion: a bar for each stage, then a table of checks, the sizes, and next steps.

Without a terminal each stage is one plain line.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.filesize import decimal
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from grpo_cli.cli.figures import magnitude
from grpo_cli.cli.terminal import Safe, is_interactive, say, say_command, stderr_console, stdout_console
from grpo_cli.convert.options import CheckResult, Conversion
from grpo_cli.foreign_text import one_line, quoted

STAGES = {
    "fetching": "fetching the files",
    "writing": "writing the weights",
    "fusing": "adding the adapters to their base",
    "converting": "converting with mlx-lm",
    "quantizing": "quantizing",
    "comparing": "comparing with the original",
    "checking": "checking every number",
    "generating": "generating a few tokens",
}
COUNTED = {"fetching", "writing", "comparing", "checking"}  # in bytes
# Commands of other programs that use a converted folder.
LOAD = "python -c 'import sys, {library}; print({library}.{loader}.from_pretrained(sys.argv[1]))' {{folder}}"
OTHERS = {
    "hf": (LOAD.format(library="transformers", loader="AutoModelForCausalLM"),),
    "peft": (LOAD.format(library="peft", loader="AutoPeftModelForCausalLM"),),
    "gguf": (
        "git clone --depth 1 https://github.com/ggml-org/llama.cpp",
        "pip install -r llama.cpp/requirements.txt",
        "python llama.cpp/convert_hf_to_gguf.py {folder} --outfile {gguf} --outtype auto",
    ),
}
LARGE = 1_000_000_000  # bytes


class ConversionDisplay:
    """Display of one conversion on stderr; collects the checks for the final table."""

    def __init__(self, console: Console, bars: Progress | None) -> None:
        self.console = console
        self.bars = bars
        self.checks: list[CheckResult] = []
        self.stage = ""
        self.task: TaskID | None = None

    def progress(self, stage: str, done: int, total: int) -> None:
        """Update a stage: `done` of `total` bytes; 0 of 0 if unknown."""
        if stage != self.stage:
            self.begin(stage, total)
        if self.bars is not None and self.task is not None:
            self.bars.update(
                self.task, completed=done, total=total or None, amount=amount(stage, done, total)
            )

    def begin(self, stage: str, total: int) -> None:
        """Start the display of a stage."""
        self.stage = stage
        label = STAGES.get(stage, stage)
        if self.bars is None:
            size = f" ({decimal(total)})" if stage in COUNTED and total else ""
            say(self.console, Text(f"{label}{size} …"))
            return
        if self.task is not None:
            self.bars.remove_task(self.task)
        self.task = self.bars.add_task(label, total=total or None, amount="")

    def check(self, check: CheckResult) -> None:
        """Record a check."""
        self.checks.append(check)


def amount(stage: str, done: int, total: int) -> str:
    """Progress of a stage in bytes or tokens; "" if it cannot be counted."""
    if not total:
        return ""
    return f"{decimal(done)} of {decimal(total)}" if stage in COUNTED else f"{done} of {total}"


@contextmanager
def conversion_display() -> Iterator[ConversionDisplay]:
    """Display one conversion for the duration of the block."""
    console = stderr_console()
    try:
        with _bars(console) as bars:
            yield ConversionDisplay(console, bars)
    except KeyboardInterrupt:
        say(console, Text("Interrupted: only downloaded files were kept", style="yellow"))
        raise


@contextmanager
def _bars(console: Console) -> Iterator[Progress | None]:
    """Progress bars on a terminal, None otherwise."""
    if not is_interactive(console):
        yield None
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[amount]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bars:
        yield bars


def print_result(done: Conversion, checks: list[CheckResult], to: str) -> None:
    """Print the checks, the sizes and next steps on stdout."""
    console = stdout_console()
    if checks:
        console.print(Safe(check_table(checks)))
        console.print()
    console.print(Safe(size_table(done)))
    say(console, Text.assemble("\nThe model is in ", (one_line(str(done.output)), "bold"), ". To use it:"))
    for command in next_steps(done, to):
        say_command(console, command)
    if done.is_nanochat and to == "mlx" and done.output_bytes > LARGE and done.bits_per_weight > 30:
        say(
            console,
            Text("\n`--dtype bfloat16` halves the size; nanochat itself computes in bfloat16."),
        )


def check_table(checks: list[CheckResult]) -> Table:
    """One row per check: mark, name, result."""
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, show_header=False)
    for check in checks:
        mark = Text("✓", style="green") if check.passed else Text("✗", style="bold red")
        table.add_row(mark, Text(check.name), Text(one_line(check.seen)))
    return table


def size_table(done: Conversion) -> Table:
    """Bytes and bits per weight before and after."""
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    table.add_column(f"{magnitude(done.parameters)} weights")
    table.add_column("size", justify="right")
    table.add_column("bits per weight", justify="right")
    for label, size in (("original", done.source_bytes), ("converted", done.output_bytes)):
        table.add_row(label, decimal(size), f"{8 * size / max(done.parameters, 1):.2f}")
    return table


def next_steps(done: Conversion, to: str) -> list[str]:
    """Commands that use the result."""
    folder = quoted(done.output)
    if to == "nanochat":
        there, tokenizer = (
            f"~/.cache/nanochat/chatrl_checkpoints/d{done.layers}",
            "~/.cache/nanochat/tokenizer",
        )
        return [
            f"mkdir -p {there} && cp {folder}/model_*.pt {folder}/meta_*.json {there}",
            f"mkdir -p {tokenizer} && cp -n {folder}/tokenizer.pkl {tokenizer} && "
            f"cmp {folder}/tokenizer.pkl {tokenizer}/tokenizer.pkl  # another run's tokenizer garbles text",
            f"python -m scripts.chat_cli -i rl -g d{done.layers}",
        ]
    if to in OTHERS:
        gguf = quoted(f"{done.output}.gguf")
        return [command.format(folder=folder, gguf=gguf) for command in OTHERS[to]]
    config = "nanochat_grpo" if done.is_nanochat else "prod"
    trust = " --trust-remote-code" if (done.output / "nanochat_v2.py").exists() else ""
    return [
        f'grpo generate --model {folder} --prompt "…"',
        f"grpo train --config {config} --set model_name={folder}",
        f'mlx_lm.generate --model {folder}{trust} --prompt "…"',
    ]
