"""The origin of a model's folder, told by its files and its path."""

import json
from pathlib import Path

import pytest

from grpo_cli.doctor.read.model_folder import expected_tokens, repository_of
from tests.support.doctor_findings import TINY, tiny_copy


def test_other_widths_are_other_models(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(
        json.dumps({"model_type": "llama", "num_hidden_layers": 20, "hidden_size": 1280})
    )
    assert expected_tokens(tmp_path) is None
    assert expected_tokens(TINY) is None


def test_a_repository_s_name_comes_from_the_cache_or_from_the_person(tmp_path: Path) -> None:
    cached = tmp_path / "models--Qwen--Qwen2.5-0.5B" / "snapshots" / "abc"
    assert repository_of(cached, None) == "Qwen/Qwen2.5-0.5B"
    assert repository_of(tmp_path, "owner/name") == "owner/name"
    assert repository_of(tmp_path, str(tmp_path)) is None


@pytest.mark.parametrize("name", ["x; rm -rf ~", "-x/y", "a/b c", "a/$(b)", "gone", "outputs/gone/final"])
def test_only_a_repository_s_name_is_downloaded(tmp_path: Path, name: str) -> None:
    folder = tiny_copy(tmp_path / "my model; touch x", "tokenizer.pkl")
    expected = name if name == "gone" else None
    assert repository_of(folder, name) == expected
