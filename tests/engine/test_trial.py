"""Trials of environments and tools: what is loaded for them, and the words for their end."""

# ruff: noqa: E501 - one case a line

import json
import re
from pathlib import Path
from typing import Any

import pytest

from grpo_cli.config.keys import EnvironmentKeys
from grpo_cli.config.load import load_config
from grpo_cli.config.schema import Config
from grpo_cli.engine.rollout.play import Play
from grpo_cli.engine.trial import Asked, Trial, ending, prepare_trial, tokenizer_of
from grpo_cli.errors import GrpoError, ModelError
from tests.support.chat_models import chat_model

PLAIN = {"system_prompt": "", "completion_prefix": ""}
CODE = '''
class Twice:
    def reset(self, word: str = "a") -> str:
        return f"Say {word}."

    def respond(self, text: str) -> str | None:
        return "Again." if text != "end" else None

def half(number: int) -> float:
    """Half of a number.

    Args:
        number: the number
    """
    return number / 2
'''


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine_on_trial.py").write_text(CODE)


def played(trial: Trial, *turns: str) -> Play:
    play = trial.play(lambda _: None)
    play.by_hand(turns)
    return play


def trial_of(*entries: str, keys: dict[str, Any] | None = None, **asked: Any) -> Trial:
    return prepare_trial(Asked(entries=list(entries), **asked), Config(**PLAIN, **(keys or {})))


def test_an_environment_of_a_file() -> None:
    trial = trial_of("mine_on_trial.py:Twice", columns={"word": "yes", "other": 1})
    assert trial.prompt.example.messages == [{"role": "user", "content": "Say yes."}]
    assert (trial.unread, trial.schemas, trial.has_reward, trial.has_model) == (["other"], [], False, False)
    assert trial.tokenizer.spell(trial.prompt.ids) == (
        "<|bos|><|user_start|>Say yes.<|user_end|><|assistant_start|>"
    )


def test_tools_of_a_file() -> None:
    trial = trial_of("mine_on_trial.py:half", prompt="Half of 3?")
    assert [schema["function"]["name"] for schema in trial.schemas] == ["half"]
    assert trial.prompt.example.messages == [{"role": "user", "content": "Half of 3?"}]
    assert not trial.has_reward


def test_a_model_s_folder_needs_no_weights_for_a_person() -> None:
    model = chat_model("qwen2_5")
    model.tokenizer.save(Path("qwen"))
    Path("qwen/config.json").write_text(
        json.dumps({"model_type": "qwen2", "eos_token_id": sorted(model.tokenizer.eos_ids)})
    )
    Path("qwen/model.safetensors").touch()
    trial = trial_of("mine_on_trial.py:half", prompt="Half of 3?", model="qwen")
    assert '"name": "half"' in trial.tokenizer.spell(trial.prompt.ids)
    play = played(trial, "/half 3", "1.5")
    assert "<tool_response>\n1.5\n</tool_response>" in trial.tokenizer.spell(play.row.token_ids)
    assert tokenizer_of("qwen").eos_ids == model.tokenizer.eos_ids


def test_a_model_without_tools_is_refused_as_in_training() -> None:
    with pytest.raises(ModelError, match="no chat template that could show it tools"):
        trial_of("mine_on_trial.py:half", model="tiny")


def test_a_folder_without_configuration() -> None:
    Path("empty").mkdir()
    with pytest.raises(GrpoError, match=r"config\.json"):
        tokenizer_of("empty")


@pytest.mark.parametrize(
    ("entry", "turns", "keys", "end"),
    [
        ("mine_on_trial.py:Twice", ["a", "end"], {}, "finished: the environment gave no answer to the last turn"),
        ("mine_on_trial.py:Twice", ["a", "a"], {"max_turns": 2}, "finished: max_turns = 2, so the environment was not asked again"),
        ("mine_on_trial.py:Twice", ["a"], {}, "truncated: no further turns were given"),
        ("mine_on_trial.py:Twice", ["aaaa"], {"max_new_tokens": 2}, "truncated: max_new_tokens = 2"),
        ("mine_on_trial.py:Twice", ["a"], {"max_result_tokens": 1}, "truncated: what the environment writes exceeds max_result_tokens = 1"),
        ("search", ["a"], {}, "finished: the turn has ended, and this environment answers none"),
    ],
)  # fmt: skip
def test_ends(entry: str, turns: list[str], keys: dict[str, Any], end: str) -> None:
    trial = trial_of(entry, keys=keys)
    assert ending(played(trial, *turns), trial.config) == end


# --- the guide's examples ------------------------------------------------------------------------------

CHAPTER = (Path(__file__).parents[2] / "grpo_cli/doctor/guide/tools.md").read_text(encoding="utf-8")
FILES = {
    name: text for kind, name, text in re.findall(r"```(python|toml)\n# (\S+)\n(.*?)```", CHAPTER, re.DOTALL)
}


def test_the_guide_explains_every_key() -> None:
    keys = [*EnvironmentKeys.__annotations__]
    assert len(keys) == 8
    written = "\n".join(text for name, text in FILES.items() if name.endswith(".toml"))
    assert [key for key in keys if not re.search(rf"^{key} = ", written, re.MULTILINE)] == []


@pytest.mark.parametrize(
    ("name", "turns", "account"),
    [
        ("tools.toml", ["/lookup Paris", "/lookup Rome", "done"], (3, 2, 0, None)),
        ("guess.toml", ["3", "it is 4"], (2, 0, 0, 1.0)),
        ("guess.toml", ["1", "2", "3", "5", "4"], (4, 0, 0, 0.0)),
        ("game.toml", ["/guess mouse", "/guess house", "done"], (3, 2, 0, 0.5)),
    ],
)
def test_the_guide_s_examples(name: str, turns: list[str], account: tuple[Any, ...]) -> None:
    for file, text in FILES.items():
        Path(file).write_text(text)
    Path("words.jsonl").write_text('{"question": "Find it.", "answer": 1, "word": "house"}\n')
    config = load_config(name, ["system_prompt="], on_this_machine=True).config
    trial = prepare_trial(Asked(from_dataset=name == "game.toml"), config)
    use = played(trial, *turns).rollout().use
    assert use is not None
    assert (use.turns, use.calls, use.failures, use.reward) == account
