"""Between a run and its resume: what moved is found, what changed is said, what is damaged stops it."""

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from grpo_cli.config.schema import Config
from grpo_cli.engine import events, setup
from grpo_cli.engine.resume import as_before, resume
from grpo_cli.engine.rollout.prompt_order import DataOrder
from grpo_cli.engine.run_dir.checkpoint import write_manifest
from grpo_cli.engine.run_dir.run_state import read_state
from grpo_cli.errors import CheckpointError, GrpoError, ModelError
from grpo_cli.models.find import TINY
from tests.engine.test_resume import log_without_times, notices
from tests.engine.test_train import lines, small
from tests.test_files import no_wait_forever

QUICK = {
    "max_steps": 1,
    "batch_size": 1,
    "num_generations": 2,
    "max_new_tokens": 4,
    "eval_max_new_tokens": 4,
    "max_train_samples": 4,
    "lr_scheduler_type": "constant",
    "warmup_ratio": 0.0,
}
ROWS = [{"question": f"{n} + 1?", "answer": str(n + 1), "hint": "odd" if n % 2 else "even"} for n in range(4)]
REWARD = "def length(completions, hint, **_):\n    return [float(len(h)) for h in hint]\n"


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a model, data and a reward, which is the current one."""
    shutil.copytree(TINY, tmp_path / "there/base [v1]")
    (tmp_path / "there/data").mkdir()
    for split in ("train", "test"):
        (tmp_path / f"there/data/{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    (tmp_path / "there/r.py").write_text(REWARD)
    monkeypatch.chdir(tmp_path / "there")
    return tmp_path / "there"


def trained(place: Path, **changes: Any) -> Path:
    """The folder of a run of one step from relative names."""
    names = {"model_name": "base [v1]", "dataset": "data", "reward_functions": ["r.py:length"]}
    config = small(
        place.parent / "out *", **{**QUICK, **names, "eval_steps": 1, "eval_samples": 2, **changes}
    )
    setup.train(config)
    return config.run_dir


# --- damaged ------------------------------------------------------------------------------------------


def test_where_every_checkpoint_is_damaged_nothing_begins_again_unasked(tmp_path: Path) -> None:
    config = small(tmp_path, **QUICK)
    setup.train(config)
    whole = (config.run_dir / "final/model.safetensors").read_bytes()
    (config.run_dir / "final/model.safetensors").write_bytes(whole[:-1])
    log = (config.run_dir / "training_log.jsonl").read_bytes()
    with pytest.raises(CheckpointError, match=r"^No checkpoint in .* is intact: final \(model.saf") as error:
        resume(config.run_dir)
    assert f"`grpo resume {config.run_dir} --restart`" in error.value.hint
    assert (config.run_dir / "training_log.jsonl").read_bytes() == log
    final = resume(config.run_dir, restart=True)
    assert (final / "model.safetensors").read_bytes() == whole
    assert [line["step"] for line in lines(config.run_dir)] == [1]
    assert (config.run_dir / "final.aside").is_dir()
    with pytest.raises(CheckpointError, match="is a checkpoint"):
        resume(final, restart=True)


# --- moved --------------------------------------------------------------------------------------------


def test_all_weights_need_no_base_and_no_certain_folder(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_dir = trained(place)
    (place / "base [v1]").rename(place.parent / "moved")
    monkeypatch.chdir(place.parent)
    final = resume(run_dir, ["max_steps=2"])
    assert read_state(final)[0].step == 2


@pytest.mark.parametrize("changes", [{"lora_rank": 2}, {"kl_coeff": 0.1}])
def test_who_needs_the_base_is_told_how_to_name_it(place: Path, changes: dict[str, Any]) -> None:
    run_dir = trained(place, **changes)
    (place / "base [v1]").rename(place.parent / "moved")
    with pytest.raises(ModelError) as error:
        resume(run_dir, ["max_steps=2"])
    assert "--set model_name=DIR" in error.value.hint
    final = resume(run_dir, ["max_steps=2", f"model_name={place.parent / 'moved'}"])
    assert read_state(final)[0].step == 2
    final = resume(run_dir, ["max_steps=3"])  # from now on it is known there
    assert read_state(final)[0].step == 3


def test_data_that_moved_is_compared_by_its_content(place: Path) -> None:
    run_dir = trained(place)
    (place / "data").rename(place / "elsewhere")
    resume(run_dir, ["max_steps=2", "dataset=elsewhere"])
    (place / "elsewhere/train.jsonl").write_text('{"question": "other", "answer": "1", "hint": ""}\n')
    with pytest.raises(CheckpointError, match="differ from those that the run"):
        resume(run_dir, ["max_steps=3"])


# --- changed ------------------------------------------------------------------------------------------


def reward(place: Path, _: Path) -> str:
    (place / "r.py").write_text(REWARD.replace("len(h)", "2 * len(h)"))
    return "reward file r.py"


def column(place: Path, _: Path) -> str:
    file = place / "data/train.jsonl"
    file.write_text(file.read_text().replace("odd", "uneven"))
    return "training examples"


def gold(place: Path, _: Path) -> str:
    file = place / "data/test.jsonl"
    file.write_text(file.read_text().replace('"answer": "1"', '"answer": "7"'))
    return "evaluation examples"


def weight(_: Path, run_dir: Path) -> str:
    file = run_dir / "config.toml"
    file.write_text(file.read_text().replace("reward_weights = []", "reward_weights = [2.0]"))
    return "reward_weights"


def base(place: Path, _: Path) -> str:
    file = place / "base [v1]/model.safetensors"
    weights: Any = mx.load(str(file))
    first = min(weights)
    mx.save_safetensors(str(file), {**weights, first: weights[first] + 1e-3})
    return "base weights"


@pytest.mark.parametrize("change", [reward, column, gold, weight, base])
def test_what_makes_numbers_incomparable_needs_a_yes(
    place: Path, change: Callable[[Path, Path], str]
) -> None:
    run_dir = trained(place, **({"lora_rank": 2} if change is base else {}))
    name = change(place, run_dir)
    before = {path: path.stat().st_mtime_ns for path in run_dir.rglob("*")}
    with pytest.raises(CheckpointError) as error:
        resume(run_dir, ["max_steps=2"])
    assert error.value.message.endswith(f"would not be comparable, because something changed since: {name}")
    assert f"`grpo resume '{run_dir}' --accept-changes`" in error.value.hint
    assert {path: path.stat().st_mtime_ns for path in before} == before
    seen: list[str] = []
    resume(run_dir, ["max_steps=2"], lambda e: seen.append(str(e)), accept_changes=True)
    assert any(name in text for text in seen)
    resume(run_dir, ["max_steps=3"])  # the yes is remembered


def test_an_edited_key_is_said_and_a_set_is_a_yes(place: Path) -> None:
    run_dir = trained(place)
    file = run_dir / "config.toml"
    file.write_text(file.read_text().replace("learning_rate = 0.0001", "learning_rate = 0.0002"))
    said, _ = notices(run_dir, "max_steps=2", "reward_weights=[3.0]", "eval_samples=3")
    assert "config.toml was edited: learning_rate = 0.0002 instead of 0.0001" in said
    assert not [text for text in said if "edited: reward_weights" in text]


@pytest.mark.parametrize(("changes", "base"), [({}, set()), ({"kl_coeff": 0.1}, {"base weights"})])
def test_a_run_without_checksums_goes_on_and_has_them_then(
    place: Path, changes: dict[str, Any], base: set[str]
) -> None:
    run_dir = trained(place, **changes)
    state, final = run_dir / "final/trainer_state.json", run_dir / "final"
    content = json.loads(state.read_text())
    del content["inputs"]
    state.write_text(json.dumps(content))
    (final / "manifest.json").unlink()
    write_manifest(final, 1)
    reward(place, run_dir)  # nobody can know
    resumed = read_state(resume(run_dir, ["max_steps=2"]))[0]
    known = {"reward file r.py", "training examples", "evaluation examples"}
    assert (resumed.step, resumed.inputs.keys()) == (2, known | base)


def test_the_date_of_the_start_is_kept(tmp_path: Path) -> None:
    config = small(tmp_path, **QUICK)
    final = setup.train(config)
    state = json.loads((final / "trainer_state.json").read_text())
    assert state["started_at"]
    assert read_state(resume(config.run_dir, ["max_steps=2"]))[0].started_at == state["started_at"]
    run = setup.prepare(config, checkpoint=final, started_at="2021-02-03T04:05:06")
    assert run.policy.tokenizer.now is not None
    assert run.policy.tokenizer.now.year == 2021


# --- a folder that was received -----------------------------------------------------------------------


def link(path: Path, outside: Path) -> None:
    path.unlink(missing_ok=True)
    path.symlink_to(outside)


def pipe(path: Path, _: Path) -> None:
    path.unlink(missing_ok=True)
    os.mkfifo(path)


def folder(path: Path, _: Path) -> None:
    path.unlink(missing_ok=True)
    path.mkdir()


@pytest.mark.parametrize("trap", [link, pipe, folder])
@pytest.mark.parametrize("name", ["training_log.jsonl", "completions.jsonl", "run.lock", "config.toml"])
def test_nothing_outside_of_a_received_folder_is_written(
    tmp_path: Path, received: Config, trap: Callable[[Path, Path], None], name: str
) -> None:
    outside = tmp_path / "outside"
    outside.write_text("theirs")
    trap(received.run_dir / name, outside)
    with no_wait_forever(), suppress(GrpoError):
        try:
            resume(received.run_dir, ["max_steps=2"])
        except CheckpointError as error:  # named as what it is: no checkpoint failed
            assert str(error).startswith(f"Unusable file in the run's folder: {received.run_dir / name}: ")
            raise
    assert outside.read_text() == "theirs"


@pytest.mark.parametrize(
    "name", ["config.toml.tmp", ".grpo-tmp-0123456789abcdef.toml", ".checkpoint-2.grpo-old",
             ".final.grpo-tmp-x3k9", ".final.grpo-old", "final.aside", "training_log.jsonl.aside"]
)  # fmt: skip
def test_temporary_names_may_be_taken_by_anything(tmp_path: Path, received: Config, name: str) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").write_text("theirs")
    (received.run_dir / name).symlink_to(outside / "file" if name.endswith(("l", "tmp")) else outside)
    final = resume(received.run_dir, ["max_steps=2"])
    assert read_state(final)[0].step == 2 and not final.is_symlink()
    assert (outside / "file").read_text() == "theirs"


def test_a_checkpoint_that_is_a_link_is_read_and_replaced(tmp_path: Path, received: Config) -> None:
    (received.run_dir / "final").rename(tmp_path / "kept")
    (received.run_dir / "final").symlink_to(tmp_path / "kept")
    before = (tmp_path / "kept/manifest.json").read_bytes()
    final = resume(received.run_dir, ["max_steps=2"])
    assert (tmp_path / "kept/manifest.json").read_bytes() == before
    assert not final.is_symlink() and [line["step"] for line in log_without_times(received.run_dir)] == [1, 2]


@pytest.fixture
def received(tmp_path: Path) -> Config:
    """A run of one step."""
    config = small(tmp_path, **QUICK)
    setup.train(config)
    return config


def test_a_reward_that_leaves_the_folder_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "far").mkdir()
    (tmp_path / "r.py").write_text(
        f"import os\ndef leave(completions, **_):\n    os.chdir({str(tmp_path / 'far')!r})\n"
        "    return [1.0] * len(completions)\n"
    )
    config = small(Path("out"), **{**QUICK, "reward_functions": ["r.py:leave"], "save_steps": 1})
    seen: list[events.Event] = []
    setup.train(config, seen.append)
    names = sorted(path.name for path in (tmp_path / "out/run").iterdir())
    assert names == ["checkpoint-1", "completions.jsonl", "config.toml", "final", "training_log.jsonl"]
    assert list((tmp_path / "far").iterdir()) == []


def test_a_run_of_an_earlier_version_has_its_own_stream_of_prompts(tmp_path: Path) -> None:
    """Its state has no date, its checksum is of the ids that fit, and its order is of these alone."""
    rows = [{"question": "1 + " * n + "1?", "answer": str(n + 1)} for n in range(12)]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = {"dataset": str(tmp_path / "train.jsonl"), "eval_steps": 0, "max_train_samples": 0}
    config = small(tmp_path, **{**QUICK, **data, "max_prompt_length": 18})
    run = setup.prepare(config)
    fitting = [prompt for prompt in run.train_prompts if len(prompt.ids) <= 18]
    assert 0 < len(fitting) < len(rows)
    as_before(run)
    ids = [[prompt.ids, prompt.example.answer] for prompt in fitting]
    assert run.state.data == hashlib.sha256("".join(json.dumps(pair) for pair in ids).encode()).hexdigest()
    order = DataOrder(len(fitting), config.seed).take(3, 5)
    taken, left_out = run.train_prompts.take(3, 5)
    assert ([prompt.ids for prompt in taken], left_out) == ([fitting[place].ids for place in order], 0)
