"""Every cure that a configuration's problems print, applied: the problem is gone, and no new one has come.

The problems: each key with values of every wrong kind, each rule's breaches, keys and values of other
programs, slips of syntax, files in YAML and JSON; from a file and from `--set`. A cure of the sources that no
case shows fails the last test.
"""

# ruff: noqa: E501 - one case a line

import ast
import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tomli_w

from grpo_cli.config.foreign_keys import CONVERTED, LEFT_OUT, RENAMED
from grpo_cli.config.load import inspect_config
from grpo_cli.config.problems import Problem
from grpo_cli.config.schema import SUPERSEDED, Config
from tests.support.broken_configs import BROKEN

ROOT = Path(__file__).parents[2]
CASES_FOLDER = ROOT.parent / "shared" / "cases" / "26-yaml-and-json-configs"
NAN = float("nan")
WRONG: list[Any] = [
    "zz", "", " ", 3, -1, 1.5, True, False, [], [""], ["a", ""], ["zz"], [1], [True], 10**12, NAN, -0.5,
    {"a": 1}, "no",
]  # fmt: skip
ASSIGNMENT = re.compile(rf"`({'|'.join([*Config.model_fields, *SUPERSEDED])}) = ([^`]+)`")
INVALID = {"unknown-key", "wrong-type", "out-of-range", "config-syntax"}
SET = re.compile(r"`(?:--set )([^`]+)`")
# Cures in words alone: only the person knows the name that is to be written.
IN_WORDS = (
    "with the function's name",
    "with the class's name",
    "your own: `path/to/file.py:function`",
    "your own: `path/to/file.py:Class`",
    "no key has a similar name; `grpo config init` prints them all",
    "write its keys at the top of the file",
    "write the path from the current folder",
    "write `--set KEY=VALUE`",
    " now",  # a superseded name whose value is reported by itself
)


@pytest.fixture(autouse=True)
def in_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLX_GRPO_CONFIG", raising=False)


def problems_of(table: dict[str, Any], overrides: list[str] | None = None) -> list[Problem]:
    Path("c.toml").write_text(tomli_w.dumps(table))
    inspection = inspect_config("c.toml" if table else None, overrides or [], on_this_machine=True)
    return [*inspection.problems, *inspection.warnings]


def changes(problem: Problem) -> Iterator[dict[str, Any]]:
    """The alternatives of a cure, each as keys to write; what the problem was at is taken away first."""
    groups: list[dict[str, Any]] = []
    end = 0
    for match in ASSIGNMENT.finditer(problem.cure):
        joined = groups and problem.cure[end : match.start()].strip() == "and"
        value = tomllib.loads(f"v = {match[2]}")["v"]
        groups[-1:] = [groups[-1] | {match[1]: value}] if joined else [*groups[-1:], {match[1]: value}]
        end = match.end()
    yield from groups
    if f"leave {problem.key} out" in problem.cure:
        yield {}


def applied(table: dict[str, Any], problem: Problem, change: dict[str, Any]) -> dict[str, Any]:
    replaced = problem.key not in Config.model_fields or not change or "in its place" in problem.cure
    return {key: value for key, value in table.items() if not (replaced and key == problem.key)} | change


def check(table: dict[str, Any]) -> list[str]:
    """Apply each cure of a configuration's problems by itself; the cures that were shown."""
    before = problems_of(table)
    old = {problem.message for problem in before}
    for problem in before:
        if renamed := re.match(r"did you mean `(\w+)`\?", problem.cure):
            change = {renamed[1]: table[problem.key]}
            after = problems_of(applied(table, problem, change))
            assert {new.key for new in after if new.message not in old} <= {renamed[1]}, (problem, after)
            continue
        found = list(changes(problem))
        assert found or any(words in problem.cure for words in IN_WORDS), problem
        for change in found:
            after = problems_of(applied(table, problem, change))
            assert problem.message not in [each.message for each in after], (table, problem, change)
            # A rule may speak now that the value it rests on is valid; its own cure is applied elsewhere.
            new = [each for each in after if each not in before and each.trouble in INVALID]
            assert [each.message for each in new if each.message not in old] == [], (table, problem, change)
    return [problem.cure for problem in before]


RULES_BROKEN = [
    *(values for values, *_ in BROKEN if not {"scale_rewards", "importance_sampling_level"} & set(values)),
    {"loss_type": "reinforce", "importance_sampling_level": "sequence"},
    {"loss_type": "reinforce", "scale_rewards": "batch"},
    {
        "quantize_for_rollouts": True,
        "importance_sampling_level": "sequence",
        "importance_sampling_mode": "token_mask",
    },
    {"reward_functions": ["corectness", "accuracy"]},
    {"reward_functions": ["gone.py:f"]},
    {"model_name": "tiny", "max_new_tokens": 256},
    {"model_name": "tiny", "max_new_tokens": 200, "max_prompt_length": 100},
    {"answer_column": "", "reward_functions": ["correctness", "int"], "eval_steps": 0},
    {"group_size": 4},
    {"optimizer": "paged_adamw_8bit"},
    {"lr_scheduler_type": "cosine_with_min_lr"},
    {"scale_rewards": False},
    {"advantage_estimator": "rloo", "scale_rewards": "none"},
    {"loss_type": "rloo"},
    {"loss_type": "reinforce++"},
    {"advantage_estimator": "REINFORCE++-baseline"},
    {"stop": ""},
    {"reward_functions": "accuracy_reward,format_reward"},
    {"max_new_tokens": 3, "max_completion_length": 4, "beta": 0.1, "kl_coeff": 0.2},
    {"max_completion_length": 4},
    {"seeed": 3, "training": {"seed": 3}, "invalid_parameter": 1},
]


@pytest.mark.parametrize("table", RULES_BROKEN, ids=lambda table: str(table)[:60])
def test_cures_of_rules(table: dict[str, Any]) -> None:
    assert check(table)


@pytest.mark.parametrize("key", Config.model_fields)
def test_cures_of_wrong_values(key: str) -> None:
    assert [cure for value in WRONG for cure in check({key: value})]


@pytest.mark.parametrize("key", sorted({*RENAMED, *CONVERTED, *LEFT_OUT} - set(Config.model_fields)))
def test_cures_of_other_programs_keys(key: str) -> None:
    names = ["dapo", "sequence", "cosine_with_min_lr", "adamw_8bit", "rloo", ["accuracy"]]
    values = [
        *WRONG,
        *names,
        16,
        0.2,
        "x/y",
        "1e-5",
        "bfloat16",
        "lora",
        {"rank": 8, "alpha": 16, "dropout": 0.1},
    ]
    shown = [cure for value in values for cure in check({key: value, "lora_rank": 16, "max_steps": 100})]
    assert any(ASSIGNMENT.search(cure) or "leave" in cure for cure in shown)


@pytest.mark.parametrize(
    ("table", "cures"),
    [
        ({"lora_r": 16, "lora_alpha": 32}, ["`lora_rank = 16`", "`lora_scale = 2.0`"]),
        ({"lora_alpha": 8}, ["`lora_rank = 16` and `lora_scale = 0.5`"]),
        ({"lora_rank": 4, "use_rslora": True, "lora_alpha": 8}, ["`lora_scale = 8.0`"]),
        ({"per_device_train_batch_size": 32, "num_generations": 8}, ["`batch_size = 4`"]),
        ({"warmup_steps": 10, "max_steps": 200}, ["`warmup_ratio = 0.05`"]),
        ({"lora": True}, ["`lora_rank = 8`"]),
        ({"scale_rewards": False}, ['`scale_rewards = "none"`']),
        ({"loss_type": "maxrl"}, ['`advantage_estimator = "maxrl"`']),
        ({"loss_type": "reinforce_plus_plus"}, ['`advantage_estimator = "reinforce_plus_plus"`']),
        ({"adv_estimator": "reinforce++"}, ['`advantage_estimator = "reinforce_plus_plus"`']),
        ({"normalize_advantages": True}, ['`advantage_estimator = "reinforce_plus_plus_baseline"`']),
        (
            {"quantize_for_rollouts": True, "vllm_importance_sampling_clip_min": 0.5},
            ["`importance_sampling_clip_min = 0.5`"],
        ),
        ({"vllm_importance_sampling_cap": 3.0}, ["leave vllm_importance_sampling_cap out"]),
        ({"bf16": True}, ['`dtype = "bfloat16"`']),
        ({"epsilon": 0.1, "beta": 0}, ["`clip_eps = 0.1`", "`kl_coeff = 0`"]),
        ({"reward_funcs": ["accuracy", "format"]}, ['`reward_functions = ["correctness", "soft_format"]`']),
        ({"lora_parameters": {"rank": 8, "scale": 10.0}}, ["`lora_rank = 8` and `lora_scale = 10.0`"]),
    ],
)
def test_values_are_converted(table: dict[str, Any], cures: list[str]) -> None:
    shown = check(table)
    assert [any(cure in each for each in shown) for cure in cures] == [True] * len(cures), shown


@pytest.mark.parametrize(
    "override",
    ['learning_rate="5e-7"', "max_steps=1e3", "beta=0.04", "lora_alpha=32", "scale_rewards=false", "bits=5",
     "max_completion_length=33", "seed=-1", "reward_functions=accuracy", 'reward_weights=1,"2"', "use_vllm=1"],
)  # fmt: skip
def test_cures_of_set(override: str) -> None:
    before = problems_of({}, [override])
    assert before
    for problem in before:
        if problem.trouble == "contradiction":
            continue
        options = [shlex.split(f"--set {text}")[1:] for text in SET.findall(problem.cure)]
        written = [f"{key}={value}" for key, value in ASSIGNMENT.findall(problem.cure)]
        assert options or written or "leave" in problem.cure, problem
        after = problems_of({}, [*(word for words in options for word in words), *written])
        assert [each for each in after if each.trouble in INVALID] == [], problem


@pytest.mark.parametrize(
    "line",
    ["top_p = .9", "top_p = 0,9", "dataset = openai/gsm8k", "use_compile = True", "use_compile = yes", "seed = 1\nseed = 1"],
)  # fmt: skip
def test_cures_of_syntax(line: str) -> None:
    Path("c.toml").write_text(line)
    (problem,) = inspect_config("c.toml").problems
    if "keep one" in problem.cure:
        Path("c.toml").write_text(line.split("\n")[0])
    else:
        (match,) = re.findall(r"`(\w+ = [^`]+)`", problem.cure)
        Path("c.toml").write_text(match)
    assert inspect_config("c.toml").problems == []


OTHER_FORMATS = [
    ("YAML", "model: a/b\nbeta: 0.1\nlearning_rate: 1e-5\nuse_vllm: true\nzzz: 1\nreward_funcs:\n- accuracy\n- format\n"),
    ("YAML", "train: true\ngroup_size: 4\nreward_functions: 'accuracy_reward,format_reward'\nstop: ''\ntemperature: 0\n"),
    ("YAML", "mlx_grpo:\n  seed: 3\n  eval_split: train\n  num_generations: 1\nlora_parameters: {rank: 8, alpha: 16}\n"),
    ("YAML", "system_prompt: |\n  a\n  b\nbad: |\n  x = 1\n  model_name = 3\nnothing: null\nwhen: 2024-01-01\n"),
    ("JSON", '{"model_name": "tiny", "dataset": "arithmetic", "seed": null, "x": {"y": [1, null]}}'),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "text"), OTHER_FORMATS)
def test_yaml_and_json_are_rewritten_as_toml(kind: str, text: str) -> None:
    Path("c.yaml").write_text(text)
    (problem,) = inspect_config("c.yaml").problems
    assert problem.message == f"This is {kind}, but a configuration must be TOML: c.yaml"
    Path("c.toml").write_text(problem.cure.partition("\n\n")[2])
    rewritten = inspect_config("c.toml", on_this_machine=True)
    assert rewritten.problems == []
    assert rewritten.loaded is not None
    assert any(source != "default" for source in rewritten.loaded.sources.values())


def test_what_yaml_means_is_kept() -> None:
    Path("c.yaml").write_text(OTHER_FORMATS[0][1])
    (problem,) = inspect_config("c.yaml").problems
    assert problem.cure.partition("\n\n")[2].rstrip().splitlines() == [
        'model_name = "a/b"',
        "kl_coeff = 0.1",
        "learning_rate = 1e-05",
        'reward_functions = ["correctness", "soft_format"]',
        "# use_vllm is left out: rollouts are sampled by MLX in this process",
        "# zzz is left out: no key has a similar name",
    ]


@pytest.mark.parametrize(
    "text", ["a: &a [1]\nb: [*a, *a]", "just text", "x = 1: 2", "{", "- a\n- b", "[" * 5000]
)
def test_what_is_neither_is_told_as_toml(text: str) -> None:
    Path("c.toml").write_text(text)
    (problem,) = inspect_config("c.toml").problems
    assert problem.message.startswith("Invalid TOML: ")


@pytest.mark.skipif(not CASES_FOLDER.is_dir(), reason="../shared is absent")
@pytest.mark.parametrize("name", ["mlxlmlora.yaml", "openr1.yaml", "c.json"])
def test_configurations_as_people_have_them(name: str) -> None:
    (problem,) = inspect_config(str(CASES_FOLDER / name)).problems
    Path("c.toml").write_text(problem.cure.partition("\n\n")[2])
    assert inspect_config("c.toml", on_this_machine=True).problems == []


@pytest.mark.skipif(not CASES_FOLDER.is_dir(), reason="../shared is absent")
def test_a_configuration_of_trl_is_sound_after_all_its_cures() -> None:
    table = tomllib.loads((CASES_FOLDER / "trl.toml").read_text())
    check(table)
    for _ in range(2):  # a cure may name a key whose value is to be mended next
        for problem in problems_of(table):
            table = applied(table, problem, next(changes(problem)))
    assert problems_of(table) == []


def templates() -> set[str]:
    """The backticked lines of TOML in the sources that build a configuration's cures."""
    found = set()
    for path in (ROOT / "grpo_cli/config").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                text = "".join(v.value if isinstance(v, ast.Constant) else "\0" for v in node.values)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                text = node.value
            else:
                continue
            found |= set(re.findall(r"`([\w\0]+ = [^`\n]+)`", text))
    return found - {"key = value", 'dataset = "arithmetic"', '\0 = "…"'}  # of syntax that tells nothing more


def test_every_line_of_toml_in_the_sources_is_shown_by_a_case() -> None:
    tables = [
        *RULES_BROKEN,
        *({key: value} for key in ("temperature", "top_p", "max_grad_norm", "seed") for value in (0, "x")),
    ]
    shown = [cure for table in tables for cure in check(table)]
    for line in ("top_p = .9", "top_p = 0,9", "dataset = openai/gsm8k", "use_compile = True"):
        Path("c.toml").write_text(line)
        shown += [problem.cure for problem in inspect_config("c.toml").problems]
    unseen = [
        template
        for template in templates()
        if not any(re.search("`" + re.escape(template).replace("\0", "[^`]+") + "`", cure) for cure in shown)
    ]
    assert unseen == []
