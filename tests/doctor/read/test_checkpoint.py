"""A checkpoint's files read by the doctor: its damage, its step, and wrong fields of its state, by hand."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from grpo_cli.doctor.read.checkpoint import (
    broken_headers,
    damage_of,
    readable_step,
    siblings,
    wrong_fields,
)
from grpo_cli.errors import CheckpointError
from tests.support.model_damage import entry, safetensors

SOUND = safetensors(entry(), bytes(8))


def checkpoint(folder: Path, weights: bytes = SOUND, step: int = 3, version: int = 2) -> Path:
    """A checkpoint of one file with a manifest that is right."""
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(weights)
    file = {"size": len(weights), "sha256": hashlib.sha256(weights).hexdigest()}
    manifest = {"version": version, "step": step, "files": {"model.safetensors": file}}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


def test_an_intact_checkpoint_has_no_damage(tmp_path: Path) -> None:
    assert damage_of(checkpoint(tmp_path / "checkpoint-3")) == ""


def test_a_changed_file_is_named(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "checkpoint-3")
    (folder / "model.safetensors").write_bytes(SOUND[:-1])
    assert damage_of(folder) == f"model.safetensors has {len(SOUND) - 1} of {len(SOUND)} bytes"
    (folder / "model.safetensors").write_bytes(SOUND[:-1] + b"\1")
    assert damage_of(folder) == "model.safetensors does not match its checksum"


def test_a_manifest_that_is_missing_or_broken(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "checkpoint-3")
    (folder / "manifest.json").write_text("{")
    assert str(damage_of(folder)).startswith("manifest.json ")
    (folder / "manifest.json").unlink()
    assert str(damage_of(folder)).startswith("manifest.json is missing: it was never complete, or ")


def test_another_version_is_no_damage(tmp_path: Path) -> None:
    assert isinstance(damage_of(checkpoint(tmp_path / "checkpoint-3", version=1)), CheckpointError)


def test_weights_that_were_written_wrong_match_their_checksum_and_are_damage(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "checkpoint-3", safetensors(b"{", bytes(8)))
    (told,) = broken_headers(folder)
    assert told.startswith("model.safetensors ")
    assert damage_of(folder) == told


def test_the_step_is_the_manifests_or_the_names(tmp_path: Path) -> None:
    assert readable_step(checkpoint(tmp_path / "checkpoint-3", step=7))[0] == 7
    assert readable_step(tmp_path / "nothing")[0] == -1


def test_the_other_checkpoints_of_the_run(tmp_path: Path) -> None:
    for name in ("checkpoint-1", "checkpoint-3", "final"):
        checkpoint(tmp_path / name)
    assert {path.name for path in siblings(tmp_path / "checkpoint-3")} == {"checkpoint-1", "final"}


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({}, []),
        ({"step": -1}, ["`step` is -1"]),
        ({"step": True}, ["`step` is True"]),
        ({"prompts_used": "4"}, ["`prompts_used` is '4'"]),
        ({"random_state": [1]}, ["`random_state` is [1], not two words"]),
        ({"random_state": [1, 1 << 32]}, ["`random_state` is [1, 4294967296], not two words"]),
        ({"step": None, "random_state": None}, ["`step` is None", "`random_state` is None, not two words"]),
    ],
)
def test_wrong_fields_of_a_state(changes: dict[str, Any], told: list[str]) -> None:
    assert list(wrong_fields({"step": 3, "prompts_used": 12, "random_state": [1, 2], **changes})) == told
