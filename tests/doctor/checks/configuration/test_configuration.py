"""The doctor's subject configuration: problems as findings, memory by arithmetic, time by a real step."""

import json

# ruff: noqa: E501 - one case a line
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from grpo_cli.config.schema import Config
from grpo_cli.doctor.chapters import chapters
from grpo_cli.doctor.checks.configuration import configuration
from grpo_cli.doctor.context import Context
from grpo_cli.doctor.findings import Finding
from grpo_cli.doctor.read.machine import Machine
from grpo_cli.errors import ModelError
from tests.support.hollow_model import hollow_model

GB = 10**9


class Recorded(Machine):
    """A machine with a certain memory, whose MLX answers what was recorded."""

    def __init__(self, device: str = "cpu", available: int = 8 * GB, **info: int) -> None:
        self.device, self.available, self.info = device, available, info

    def probe(self) -> dict[str, Any]:
        return {"device": self.device, "info": self.info, "product_right": True}

    def text(self, path: str) -> str | None:
        return f"MemTotal: 1 kB\nMemAvailable: {self.available // 1024} kB\n" if "meminfo" in path else None

    def memory_bytes(self) -> int | None:
        return 128 * GB

    @property
    def system(self) -> str:
        return "Linux"

    @property
    def environment(self) -> dict[str, str]:
        return {"HF_HUB_CACHE": "/nowhere"}


@pytest.fixture(autouse=True)
def in_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLX_GRPO_CONFIG", raising=False)


def context(text: str, machine: Machine | None = None, **more: Any) -> Context:
    Path("c.toml").write_text(text)
    return Context(machine=machine or Recorded(), config_name="c.toml", **more)


def one(findings: Iterator[Finding]) -> Finding:
    (finding,) = findings
    return finding


# --- configuration ----------------------------------------------------------------------------------


def test_a_sound_configuration_says_how_many_keys_are_set() -> None:
    finding = one(configuration.validity(context("seed = 3\ntop_p = 1.0\n")))
    assert (finding.severity, finding.seen) == ("ok", f"c.toml: 2 of {len(Config.model_fields)} keys are set, all of them valid")  # fmt: skip
    assert finding.numbers == {"keys_set": 2}


def test_every_problem_and_warning_is_a_finding_with_its_line_under_its_trouble() -> None:
    text = "sed = 3\nseed = 'x'\nbits = 5\ntop_p = 0.9\nreward_functions = ['no.py:f']\n"
    found = list(configuration.validity(context(text)))
    assert [(f.severity, f.name, f.numbers["line"], f.seen) for f in found] == [
        ("error", "unknown-key", 1, "c.toml:1: Unknown config key: sed"),
        ("error", "wrong-type", 2, "c.toml:2: Failed to coerce value: 'x' to <class 'int'>"),
        ("error", "out-of-range", 3, "c.toml:3: Invalid value: bits = 5"),
        ("error", "rewards", 5, "c.toml:5: Reward file not found: no.py"),
        (
            "warning",
            "sampling-cut",
            4,
            "c.toml:4: top_p = 0.9 cuts tokens off while sampling, and those are never explored",
        ),
    ]
    assert all(f.cure and f.commands[-1] == "grpo config validate c.toml" for f in found)
    assert [f.commands[:-1] for f in found] == [(), ("seed = 0",), ("bits = 4",), (), ("top_p = 1.0",)]
    assert {f.name for f in found} <= set(chapters())


def test_a_file_that_is_not_there() -> None:
    finding = one(configuration.validity(Context(machine=Recorded(), config_name="configs/custom.toml")))
    assert (finding.name, finding.seen) == (
        "config-not-found",
        "Config file not found: configs/custom.toml",
    )


def test_a_run_s_own_file_is_not_held_against_what_is_here_now(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text("reward_functions = ['gone.py:f']\n")
    assert one(configuration.validity(Context(machine=Recorded(), run=tmp_path))).severity == "ok"


# --- memory-needed ----------------------------------------------------------------------------------


def test_enough_memory_is_ok_with_its_numbers() -> None:
    with pytest.raises(ModelError) as failure:  # a run would end at once, too
        one(configuration.memory_needed(context("model_name = 'models/my-mlx'\n")))
    assert (failure.value.message, failure.value.hint, failure.value.trouble) == (
        "Model not found: models/my-mlx", "create it: `grpo convert my`", "model-not-found",
    )  # fmt: skip
    found = one(configuration.memory_needed(context("model_name = 'my/hub-model'\n")))
    assert found.severity == "skipped"
    hollow_model()
    found = one(configuration.memory_needed(context("model_name = 'm'\n", Recorded(available=64 * GB))))
    assert found.severity == "ok"
    assert found.numbers["budget_bytes"] == 64 * GB // 1024 * 1024
    assert 0.1 * GB < found.numbers["needed_bytes"] < 3 * GB
    assert "64.0 GB there" in found.seen
    assert found.seen.endswith("; MLX keeps up to 1.1 GB more for reuse")  # 1 GiB on a CPU
    assert found.numbers["cache_bytes"] == 1 << 30


def test_too_little_names_the_keys_that_make_it_fit() -> None:
    hollow_model()
    text = "model_name = 'm'\nbatch_size = 4\ngradient_accumulation_steps = 1\n"
    need = one(configuration.memory_needed(context(text, Recorded(available=64 * GB)))).numbers[
        "needed_bytes"
    ]
    found = one(configuration.memory_needed(context(text, Recorded(available=need // 2))))
    assert found.severity == "warning"
    assert found.commands[:2] == ("batch_size = 1", "gradient_accumulation_steps = 4")
    again = one(configuration.memory_needed(context("model_name = 'm'\n" + "\n".join(found.commands), Recorded(available=need // 2))))  # fmt: skip
    assert again.severity == "ok"


def test_a_model_that_cannot_fit_is_an_error_with_the_searched_text() -> None:
    hollow_model()
    found = one(configuration.memory_needed(context("model_name = 'm'\n", Recorded(available=50_000_000))))
    assert found.severity == "error"
    assert found.seen.startswith("Unable to allocate memory: a single completion needs about ")
    assert found.cure.startswith("choose a smaller model: `grpo doctor --only models-that-fit`")
    assert found.commands[-1] == "lora_rank = 16"


def test_on_a_mac_the_limit_is_metal_s_and_can_be_raised() -> None:
    hollow_model()
    machine = Recorded("metal", max_recommended_working_set_size=GB // 2)
    found = one(configuration.memory_needed(context("model_name = 'm'\n", machine)))
    assert found.numbers["budget_bytes"] == GB // 2
    assert GB // 2 < found.numbers["needed_bytes"] < 1024**3  # the next whole GiB is 1024 MiB
    assert found.commands[-1] == "sudo sysctl iogpu.wired_limit_mb=1024"


@pytest.mark.parametrize(
    ("config", "weights"),
    [
        (b"{}", None), (b"[]", None), (b"\xff", None), (b'{"text_config": 3}', None),
        (None, b""), (None, b"\xff" * 8), (None, b"\x02" + b"\x00" * 7 + b"[]"), (None, struct.pack("<Q", 9) + b'{"a": {}}'),
        (b'{"num_attention_heads": 0, "hidden_size": 8}', None),
        (b'{"num_attention_heads": 1e999, "hidden_size": 8}', None),
    ],
)  # fmt: skip
def test_a_broken_model_is_not_weighed(config: bytes | None, weights: bytes | None) -> None:
    folder = hollow_model()
    if config is not None:
        (folder / "config.json").write_bytes(config)
    if weights is not None:
        (folder / "model.safetensors").write_bytes(weights)
    found = one(configuration.memory_needed(context("model_name = 'm'\n")))
    assert (found.severity, found.seen) == ("skipped", "the shape of the model in m is not known")


# --- duration ---------------------------------------------------------------------------------------


def test_the_run_s_log_is_worth_more_than_a_measurement() -> None:
    text = "model_name = 'tiny'\ndataset = 'arithmetic'\nmax_steps = 90\noutput_dir = 'o'\nrun_name = 'r'\neval_steps = 45\n"
    Path("o/r").mkdir(parents=True)
    lines: list[dict[str, Any]] = [{"step": 0, "eval_accuracy": 0.5, "eval_seconds": 20.0}]
    lines += [{"step": n, "loss": 0.1, "step_seconds": seconds} for n, seconds in enumerate((50, 50, 80), 1)]
    Path("o/r/training_log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = one(configuration.duration(context(text)))
    assert found.seen == "about 91 minutes for 90 steps of 60 s (3 logged steps of 50 s)"
    assert found.numbers == {"seconds": 5460.0, "steps": 90, "step_seconds": 60.0, "evaluation_seconds": 20.0}


def test_a_small_step_is_really_measured_and_leaves_nothing() -> None:
    text = (
        "model_name = 'tiny'\ndataset = 'arithmetic'\nmax_steps = 10\nnum_generations = 2\nmax_new_tokens = 8\n"
        "completion_prefix = ''\nsystem_prompt = ''\neval_steps = 0\nreward_functions = ['mine.py:never_run']\n"
    )
    Path("mine.py").write_text("raise SystemExit(3)")
    found = one(configuration.duration(context(text)))
    assert found.severity == "ok"
    assert found.seen.startswith("about ")
    assert "a step of 4 × 2 completions measured now" in found.seen
    assert found.numbers["steps"] == 10
    assert found.numbers["seconds"] == pytest.approx(10 * found.numbers["step_seconds"])
    assert 0.001 < found.numbers["step_seconds"] < 30
    assert sorted(path.name for path in Path().iterdir()) == ["c.toml", "mine.py"]


def test_episodes_of_an_environment_are_counted() -> None:
    text = (
        "model_name = 'tiny'\nenvironment = 'search'\nnum_episodes = 24\nbatch_size = 4\nnum_epochs = 2\n"
        "gradient_accumulation_steps = 1\nnum_generations = 2\nmax_new_tokens = 8\n"
        "completion_prefix = ''\nsystem_prompt = ''\neval_steps = 0\n"
    )
    found = one(configuration.duration(context(text)))
    assert (found.severity, found.numbers["steps"]) == ("ok", 12)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("dataset = 'openai/gsm8k'\nmodel_name = 'tiny'\n", "the dataset openai/gsm8k is not a file on this machine: its size is not known"),
        ("dataset = 'arithmetic'\nmodel_name = 'a/b'\n", "the model a/b is not on this machine; `grpo doctor --only models-that-fit` says what the usual ones need"),
        ("sed = 3\n", "the configuration is not valid"),
        ("dataset = 'arithmetic'\nmodel_name = 'tiny'\nenvironment = 'mine.py:Never'\n", "tools and environments in files are not run to measure a step: the log of a run tells"),
        ("environment = 'mine.py:Never'\nnum_episodes = 4\nmodel_name = 'tiny'\n", "tools and environments in files are not run to measure a step: the log of a run tells"),
    ],
)  # fmt: skip
def test_what_cannot_be_measured_is_skipped(text: str, reason: str) -> None:
    Path("mine.py").write_text("raise SystemExit(3)")
    found = one(configuration.duration(context(text)))
    assert (found.severity, found.seen) == ("skipped", reason)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.2, "a second"), (119, "119 seconds"), (600, "10 minutes"), (9000, "2.5 hours")],
)
def test_times_in_words(seconds: float, words: str) -> None:
    assert configuration.in_words(seconds) == words


def test_a_configuration_that_does_not_fit_is_not_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    hollow_model()
    monkeypatch.setattr(
        "grpo_cli.doctor.read.duration.measured_duration", lambda *_: pytest.fail("it was tried")
    )
    text = "model_name = 'm'\ndataset = 'arithmetic'\n"
    found = one(configuration.duration(context(text, Recorded(available=GB // 100))))
    assert found.severity == "skipped"
    assert found.seen == "the configuration does not fit into this machine's memory: see memory-needed"


def test_the_log_of_a_run_is_not_taken_for_another_configuration_s(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    lines = [json.dumps({"step": n, "loss": 0.1, "step_seconds": 100.0}) + "\n" for n in range(1, 9)]
    (run / "training_log.jsonl").write_text("".join(lines))
    named = context("model_name = 'a/b'\noutput_dir = 'elsewhere'\n", run=run)
    assert configuration.duration_of(named, named.config, None) is None
    (run / "config.toml").write_text("model_name = 'a/b'\n")
    own = Context(machine=Recorded(), run=run)
    assert configuration.duration_of(own, own.config, None).step == 100.0  # type: ignore[union-attr]
