"""The doctor on a configuration's tools and environment: what training would accept and refuse."""

# ruff: noqa: E501 - one case a line

import json
from pathlib import Path

import pytest

from grpo_cli.doctor.checks.configuration.tools import tools
from grpo_cli.doctor.context import Context
from grpo_cli.doctor.findings import Finding
from tests.support.chat_models import chat_model

CODE = '''
def lookup(city: str) -> str:
    """Look up a city.

    Args:
        city: its name
    """
    return city

def bare(city): ...

class Talk:
    def reset(self): ...
    def respond(self, text): ...

class Game(Talk):
    def guess(self, word: str) -> str:
        """Guess.

        Args:
            word: a word
        """
        return word
'''
CHANGING = """{{ messages|length }}{% for m in messages %}<|im_start|>{{ m.role }}
{{ m.content }}<|im_end|>
{% endfor %}{{ tools }}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("doctor_code.py").write_text(CODE)
    model = chat_model("qwen2_5")
    model.tokenizer.save(Path("qwen"))
    facts = {"model_type": "qwen2", "eos_token_id": sorted(model.tokenizer.eos_ids)}
    Path("qwen/config.json").write_text(json.dumps(facts))
    Path("qwen/model.safetensors").touch()


def found(model: str, text: str, **context: object) -> list[Finding]:
    Path("c.toml").write_text(f'model_name = "{model}"\n{text}\n')
    return list(tools(Context(config_name="c.toml", **context)))  # type: ignore[arg-type]


def told(findings: list[Finding]) -> list[tuple[str, str]]:
    return [(finding.severity, finding.seen) for finding in findings]


def test_tools_of_a_model_with_a_syntax() -> None:
    assert told(found("qwen", 'tools = ["doctor_code.py:lookup"]')) == [
        ("ok", "lookup: loads"),
        ("ok", "1 tool in the prompt (lookup); calls are read by json_tools, chosen for its chat template; "
         "the template leaves earlier turns as they are"),
    ]  # fmt: skip
    [_, named] = found("qwen", 'environment = "doctor_code.py:Game"\ntool_parser = "pythonic"')
    assert named.numbers == {"tools": ["guess"], "parser": "pythonic"}
    assert "named by `tool_parser`" in named.seen


def test_environments_without_tools() -> None:
    assert told(found("tiny", 'environment = "guess, doctor_code.py:Talk"\neval_reward = "environment"')) == [
        ("ok", "guess, Talk: all load"),
        ("ok", "no tool syntax is needed; nanochat's chat format takes the answers as they come"),
    ]


@pytest.mark.parametrize(
    ("model", "text", "message"),
    [
        ("tiny", 'tools = ["doctor_code.py:lookup"]', "The model has no chat template that could show it tools"),
        ("qwen", 'tools = ["doctor_code.py:bare"]', "Tool `bare` in doctor_code.py cannot be described to the model: it has no docstring!"),
        ("qwen", 'tools = ["calculator"]', "tools = [\"calculator\"] is nanochat's"),
        ("qwen", 'tools = ["doctor_code.py:lookup"]\ntool_parser = "jsontools"', "Unknown tool_parser: jsontools"),
    ],
)  # fmt: skip
def test_what_training_refuses(model: str, text: str, message: str) -> None:
    last = found(model, text)[-1]
    assert last.severity == "error"
    assert last.seen.startswith(message)
    assert last.cure


def test_a_template_that_changes_earlier_turns() -> None:
    Path("qwen/chat_template.jinja").write_text(CHANGING)
    last = found("qwen", 'environment = "doctor_code.py:Talk"')[-1]
    assert last.severity == "error"
    assert last.seen.startswith("The model's chat template changes earlier turns when more follow:")


def test_what_cannot_be_looked_at() -> None:
    assert found("qwen", "") == []
    assert told(found("qwen", "", asked=frozenset({"tools"}))) == [
        ("skipped", "the configuration names no tools and no environment")
    ]
    assert told(found("gone/model", 'tools = ["doctor_code.py:lookup"]')) == [
        ("ok", "lookup: loads"), ("skipped", "the model is not on this machine"),
    ]  # fmt: skip


def test_code_that_only_a_run_s_folder_names_is_not_run() -> None:
    Path("run").mkdir()
    Path("ran.py").write_text("raise SystemExit('ran')")
    Path("run/config.toml").write_text('model_name = "tiny"\nenvironment = "ran.py:Game"\n')
    [finding] = tools(Context(run=Path("run")))
    assert finding.severity == "skipped"
    assert "is not run" in finding.seen


def test_an_own_reward_that_counts_nowhere() -> None:
    Path("doctor_reward.py").write_text(f"{CODE}    def get_reward(self):\n        return 1.0\n")
    keys = 'environment = "doctor_reward.py:Game, doctor_reward.py:Talk"\nnum_episodes = 4\n'
    assert told(found("qwen", f'{keys}reward_functions = ["int"]'))[1] == (
        "warning", 'Game: `get_reward` is not used: reward_functions = ["int"]',
    )  # fmt: skip
    assert [severity for severity, _ in told(found("tiny", 'environment = "guess"'))] == [
        "ok",
        "warning",
        "ok",
    ]
    for cure in ('reward_functions = ["environment"]', 'reward_functions = ["int", "environment"]'):
        assert [severity for severity, _ in told(found("qwen", keys + cure))] == ["ok", "ok"]
