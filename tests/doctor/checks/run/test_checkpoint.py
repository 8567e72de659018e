"""Checkpoints of a real short run, damaged in every way that a disk, a copy or a person can."""

import dataclasses
import json
import os
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest

from grpo_cli.engine.run_dir.run_state import RunState, read_state
from grpo_cli.errors import CheckpointError
from tests.support.checkpoint_findings import SUBJECT, flip, of_run, rehashed
from tests.support.doctor_findings import Here, look, seen


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_a_healthy_run(run: Path) -> None:
    files, optimizer, way_on = of_run(run)
    assert files.severity == optimizer.severity == way_on.severity == "ok"
    assert files.seen.startswith(
        "checkpoint-1, checkpoint-2, final: every file matches its checksum (sha256), "
    )
    # Adam: two averages for each of 26 weights, its step and its learning rate
    assert optimizer.seen == "checkpoint-1, checkpoint-2, final: 54 arrays fit 26 weights"
    assert way_on.seen == (
        f"finished: 2 of 2 steps; `grpo resume {run} --set max_steps=4` makes it longer; "
        "older and intact: checkpoint-1, checkpoint-2"
    )


def test_a_run_that_was_broken_off(run: Path) -> None:
    shutil.rmtree(run / "final")
    shutil.rmtree(run / "checkpoint-2")
    assert of_run(run, "resumable")[0].seen == f"`grpo resume {run}` continues from checkpoint-1, step 1 of 2"


def test_masters_and_adapters(trained: Path) -> None:
    _, half, _ = look(Here(checkpoint=trained / "half" / "final"), *SUBJECT)
    assert seen(half) == ("ok", "final: 80 arrays fit 26 weights, 26 float32 masters")
    _, lora, way_on = look(Here(checkpoint=trained / "lora" / "final"), *SUBJECT)
    assert seen(lora) == ("ok", "final: 98 arrays fit 48 weights")
    assert way_on.severity == "ok"


# --- damage -------------------------------------------------------------------------------------------


def truncate(folder: Path) -> None:
    content = (folder / "optimizer.safetensors").read_bytes()
    (folder / "optimizer.safetensors").write_bytes(content[:1000])


def delete(folder: Path) -> None:
    (folder / "trainer_state.json").unlink()


def cut_manifest(folder: Path) -> None:
    (folder / "manifest.json").write_text((folder / "manifest.json").read_text()[:-20])


def no_manifest(folder: Path) -> None:
    (folder / "manifest.json").unlink()


def nested(folder: Path) -> None:
    (folder / "manifest.json").write_text("[" * 100_000)


def climbing(folder: Path) -> None:
    edit(folder / "manifest.json", files={"../../etc/passwd": {"size": 1, "sha256": "0" * 64}})


def impossible(folder: Path) -> None:
    edit(folder / "manifest.json", files={"a\0b": {"size": 1, "sha256": ""}})


def no_table(folder: Path) -> None:
    edit(folder / "manifest.json", files=[1, 2])


DAMAGES: list[tuple[Any, str]] = [
    (truncate, "optimizer.safetensors has 1000 of "),
    (flip, "model.safetensors does not match its checksum"),
    (delete, "trainer_state.json is missing"),
    (cut_manifest, "manifest.json is not JSON: "),
    (no_manifest, "manifest.json is missing: it was never complete, or was copied only in part"),
    (nested, "manifest.json is not JSON: maximum recursion depth exceeded"),
    (climbing, 'manifest.json names a file outside the folder: "../../etc/passwd"'),
    (impossible, ""),
    (no_table, "manifest.json is damaged"),
]


@pytest.mark.parametrize(("damage", "told"), DAMAGES)
def test_damage_is_named(run: Path, damage: Any, told: str) -> None:
    """In a run the next older one is taken; the one that was named is an error, with what else there is."""
    damage(run / "checkpoint-2")
    shutil.rmtree(run / "final")
    found, intact, _, way_on = of_run(run)
    assert found.severity == "warning"
    assert found.seen.startswith(f"checkpoint-2: {told}")
    assert found.commands == (f"mv {run / 'checkpoint-2'} {run / 'checkpoint-2'}.aside",)
    assert intact.seen.startswith("checkpoint-1: every file matches its checksum")
    assert way_on.seen == f"`grpo resume {run}` continues from checkpoint-1, step 1 of 2"
    named, alone = look(Here(checkpoint=run / "checkpoint-2"), "checkpoint-files", "resumable")
    assert (named.severity, named.seen) == ("error", found.seen)
    assert named.commands == (f"grpo resume {run / 'checkpoint-1'}",)
    assert seen(alone) == ("error", "checkpoint-2 is not intact")
    assert (alone.cure, alone.commands) == (
        "the run can be resumed from checkpoint-1",
        (f"grpo resume {run}",),
    )


def test_a_damaged_final_is_worthless(run: Path) -> None:
    flip(run / "final")
    found = of_run(run, "checkpoint-files")[0]
    assert seen(found) == ("error", "final: model.safetensors does not match its checksum")
    assert of_run(run, "resumable")[0].numbers["checkpoint"] == "checkpoint-2"


def test_a_run_without_an_intact_checkpoint(run: Path) -> None:
    for name in ("checkpoint-1", "checkpoint-2", "final"):
        flip(run / name)
    found = of_run(run, "checkpoint-files", "resumable")
    assert [finding.severity for finding in found] == ["error"] * 4
    assert found[3].seen == "no intact checkpoint: checkpoint-1, checkpoint-2, final"
    assert found[3].commands == (f"grpo doctor --only model --model {run / 'final'}",)


def test_another_version_s_manifest(run: Path) -> None:
    edit(run / "final" / "manifest.json", version=1)
    files, _, way_on = look(Here(checkpoint=run / "final"), *SUBJECT)
    told = "was written by another version of grpo: its manifest has version 1, but this one reads 2"
    assert seen(files) == seen(way_on) == ("error", f"{run / 'final'} {told}")


def test_a_file_that_was_written_wrong(run: Path) -> None:
    """The manifest is right of it, and its header is not."""
    folder = run / "final"
    truncate(folder)
    rehashed(folder)
    (found,) = look(Here(checkpoint=folder), "checkpoint-files")
    assert found.severity == "error"
    assert found.seen.startswith("final: optimizer.safetensors ")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_folder_that_may_not_be_entered(run: Path) -> None:
    (run / "final").chmod(0)
    (found,) = look(Here(checkpoint=run / "final"), "checkpoint-files")
    (run / "final").chmod(0o700)
    assert found.severity == "error"


# --- going on -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("{", "final/trainer_state.json is not JSON: "),
        ("[]", "final/trainer_state.json is not a JSON object"),
        ('{"step": -1, "prompts_used": 0, "random_state": [1, 2]}', "final/trainer_state.json: `step` is -1"),
        (
            '{"step": 2, "prompts_used": "x", "random_state": [1]}',
            "final/trainer_state.json: `prompts_used` is 'x', `random_state` is [1], not two words",
        ),
    ],
)
def test_a_state_that_cannot_be_gone_on_with(run: Path, content: str, told: str) -> None:
    (run / "final" / "trainer_state.json").write_text(content)
    rehashed(run / "final")
    found = look(Here(checkpoint=run / "final"), "resumable")[0]
    assert found.severity == "error"
    assert found.seen.startswith(told)


DEEP: Any = "x"
for _ in range(100):
    DEEP = [DEEP]
DAMAGED_STATES: list[dict[str, Any]] = [
    {},
    {"faults": []},
    {"unknown": 10**50},
    {"unknown": DEEP},
    {"started_at": ""},
    *(
        {field: value}
        for field in ("step", "total_steps", "prompts_used")
        for value in (None, -1, "2", 1 << 60)
    ),
    {"step": 2.0},
    {"step": True},
    *({"random_state": words} for words in (None, [], [1], [1, 2, 3], [1, -1], [1, 1 << 32], ["1", 2])),
    *({"sampling_state": words} for words in (None, ["x"], [1.5], [])),
    *({"evaluations": lines} for lines in (None, {}, [1], [{}], [{"step": 1, "eval_accuracy": "x"}])),
    *({"log_positions": lengths} for lengths in (None, [], {"training_log.jsonl": -1}, {"a": "b"})),
    *({field: 1} for field in ("data", "faults", "has_taught", "started_in", "started_at", "inputs")),
]


@pytest.mark.parametrize("changes", DAMAGED_STATES, ids=lambda changes: f"{changes!s:.60}")
def test_the_doctor_refuses_the_states_that_resuming_refuses(run: Path, changes: dict[str, Any]) -> None:
    state = json.loads((run / "final" / "trainer_state.json").read_text())
    (run / "final" / "trainer_state.json").write_text(json.dumps({**state, **changes}))
    assert refused_by_doctor(run / "final") is refused_by_engine(run / "final")


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(RunState)])
def test_the_doctor_refuses_the_same_states_without_a_field(run: Path, field: str) -> None:
    state = json.loads((run / "final" / "trainer_state.json").read_text())
    del state[field]
    (run / "final" / "trainer_state.json").write_text(json.dumps(state))
    assert refused_by_doctor(run / "final") is refused_by_engine(run / "final")


@pytest.mark.parametrize(
    "content", ["[]", "{", "[{}]", '[{"example": {}, "prompt_ids": [1], "rollouts": []}]']
)
def test_the_doctor_reads_the_rollouts_too(run: Path, content: str) -> None:
    (run / "final" / "rollouts.json").write_text(content)
    assert refused_by_doctor(run / "final") is refused_by_engine(run / "final") is (content != "[]")
    (found, *_) = look(Here(checkpoint=run / "final"), "resumable")
    assert found.severity == "ok" or found.seen.startswith("final/rollouts.json ")


def refused_by_engine(folder: Path) -> bool:
    try:
        read_state(folder)
    except CheckpointError:
        return True
    return False


def refused_by_doctor(folder: Path) -> bool:
    rehashed(folder)
    return look(Here(checkpoint=folder), "resumable")[0].severity == "error"


def test_adapters_without_their_base(trained: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(trained / "lora" / "final", tmp_path / "final"))
    edit(folder / "adapter_config.json", model="someone/gone")
    rehashed(folder)
    found = look(Here(checkpoint=folder), "resumable")[0]
    told = "the adapters in final belong to someone/gone, which is not on this machine"
    assert seen(found) == ("error", told)
    assert found.commands == ("hf download someone/gone",)


@pytest.mark.parametrize("name", ["x; rm -rf ~", "-x/y", "a/b`c`", "$HOME/x", "models/gone", 3])
def test_a_base_that_is_no_repository_is_not_downloaded(trained: Path, tmp_path: Path, name: Any) -> None:
    folder = Path(shutil.copytree(trained / "lora" / "final", tmp_path / "a b; c" / "final"))
    edit(folder / "adapter_config.json", model=name)
    rehashed(folder)
    found = look(Here(checkpoint=folder), "resumable")[0]
    assert found.seen == f"the adapters in final belong to {name}, which is not on this machine"
    assert [shlex.split(line) for line in found.commands] == [
        ["ls", "-l", str(folder / "adapter_config.json")],
    ]


def test_commands_of_a_run_with_an_odd_name_are_safe_to_paste(trained: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(trained / "full", tmp_path / "a b; touch x"))
    (run / "checkpoint-2" / "model.safetensors").write_bytes(b"")
    damaged = str(run / "checkpoint-2")
    (found,) = [f for f in of_run(run, "checkpoint-files") if f.severity == "warning"]
    assert [shlex.split(line) for line in found.commands] == [["mv", damaged, f"{damaged}.aside"]]
    (found,) = look(Here(checkpoint=run / "checkpoint-2"), "checkpoint-files")
    assert [shlex.split(line) for line in found.commands] == [["grpo", "resume", str(run / "final")]]
    (found,) = look(Here(checkpoint=run / "checkpoint-2"), "resumable")
    assert [shlex.split(line) for line in found.commands] == [["grpo", "resume", str(run)]]
    (run / "config.toml").write_text("learning_rate = 'fast'\n")
    found = of_run(run, "resumable")[0]
    copy = ["cp", str(run / "final" / "config.toml"), str(run / "config.toml")]
    assert [shlex.split(line) for line in found.commands] == [copy]
    (run / "final" / "trainer_state.json").write_text("{")
    rehashed(run / "final")
    found = look(Here(checkpoint=run / "final"), "resumable")[0]
    assert [shlex.split(line) for line in found.commands] == [["ls", str(run)]]


def test_a_configuration_that_was_edited(run: Path) -> None:
    """The run's own goes first; where it is broken, `grpo resume` takes the checkpoint's."""
    (run / "config.toml").write_text("learning_rate = 'fast'\n")
    found = of_run(run, "resumable")
    assert seen(found[0]) == ("warning", f"{run / 'config.toml'} is not valid")
    assert found[0].commands == (f"cp {run / 'final' / 'config.toml'} {run / 'config.toml'}",)
    assert found[1].severity == "ok"
    (run / "final" / "config.toml").unlink()
    rehashed(run / "final")
    found = of_run(run, "resumable")
    assert seen(found[0]) == ("error", f"{run / 'final' / 'config.toml'} is missing")


def test_a_log_that_was_cut(run: Path) -> None:
    whole = (run / "training_log.jsonl").stat().st_size
    (run / "training_log.jsonl").write_text("{}\n")
    found = of_run(run, "resumable")[0]
    assert seen(found) == ("warning", f"training_log.jsonl has 3 of the {whole:,} bytes it had at step 2")
