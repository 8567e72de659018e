"""The machine, the versions and the seed on a page."""

from pathlib import Path

from grpo_cli.engine.run_dir.machines import Start, record_machine
from grpo_cli.report.machines import install_command, machine_rows
from tests.support.report_runs import run_of
from tests.support.run_logs import steps

FIRST = Start(
    time="2026-03-01T02:14:09+01:00", step=0, device="Apple M3 Max", memory_gb=64.0, system="Darwin 25",
    python="3.12.1", versions={"grpo-cli": "0.1.0", "mlx": "0.32.4", "other": "not installed"},
)  # fmt: skip


def test_values_of_each_start(tmp_path: Path) -> None:
    record_machine(tmp_path, FIRST)
    record_machine(tmp_path, Start(**{**vars(FIRST), "step": 3, "device": "Apple M5", "ranks": 2}))
    run = run_of(tmp_path, steps(2), seed=7)
    assert machine_rows(run) == [
        ("device", "Apple M3 Max → Apple M5, 2 ranks"), ("memory", "64.0 GB"), ("system", "Darwin 25"),
        ("Python", "3.12.1"), ("grpo-cli", "0.1.0"), ("mlx", "0.32.4"), ("other", "not installed"),
        ("seed", "7"),
    ]  # fmt: skip
    assert install_command(run) == "uv pip install mlx==0.32.4"


def test_a_run_of_an_earlier_version_has_its_seed_only(tmp_path: Path) -> None:
    run = run_of(tmp_path, steps(2), seed=7)
    assert (machine_rows(run), install_command(run)) == ([("seed", "7")], "")
