"""TOML and `--set` to a configuration, and every problem with its exact first line."""

# ruff: noqa: E501 - one case a line

from pathlib import Path

import pytest

from grpo_cli.config.foreign_keys import CONVERTED, LEFT_OUT, RENAMED
from grpo_cli.config.load import inspect_config, load_config
from grpo_cli.config.schema import Config
from grpo_cli.errors import ConfigError


@pytest.fixture(autouse=True)
def in_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLX_GRPO_CONFIG", raising=False)


def write(text: str, name: str = "c.toml") -> str:
    Path(name).write_text(text)
    return name


def the_error(text: str, *overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(write(text), overrides)
    return str(caught.value)


def the_set_error(override: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(None, [override], required=False)
    return str(caught.value)


def set_value(override: str) -> object:
    config = load_config(None, [override], required=False).config
    return getattr(config, override.partition("=")[0].partition(".")[0])


def test_file_then_set_over_the_defaults_and_their_sources() -> None:
    loaded = load_config(write("\ntemperature = 1\ntop_k = 0\n"), ["seed=7", "top_k=0"])
    assert (loaded.config.temperature, loaded.config.seed, loaded.config.batch_size) == (1.0, 7, 1)
    assert loaded.sources["temperature"] == "c.toml:2"
    assert loaded.sources["seed"] == loaded.sources["top_k"] == "--set"
    assert loaded.sources["batch_size"] == "default"
    assert set(loaded.sources) == set(Config.model_fields)
    assert loaded.warnings == []


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("invalid_parameter = 3", "Unknown config key: invalid_parameter\n\nhint: c.toml:1: no key has a similar name; `grpo config init` prints them all"),
        ("learnin_rate = 3", "Unknown config key: learnin_rate\n\nhint: c.toml:1: did you mean `learning_rate`?"),
        ("Max_Completion_Lengt = 3", "Unknown config key: Max_Completion_Lengt\n\nhint: c.toml:1: did you mean `max_new_tokens`?"),
        ("[training]\nseed = 3", "Unknown config key: training\n\nhint: c.toml:1: write its keys at the top of the file; the only table allowed is `[mlx_grpo]`"),
        ('learning_rate = "invalid_string"', "Failed to coerce value: 'invalid_string' to <class 'float'>\n\nhint: c.toml:1: for example `learning_rate = 1e-06`; Peak learning rate."),
        ('learning_rate = "5e-7"', "Failed to coerce value: '5e-7' to <class 'float'>\n\nhint: c.toml:1: write `learning_rate = 5e-07`; Peak learning rate."),
        ("learning_rate = true", "Failed to coerce value: True to <class 'float'>\n\nhint: c.toml:1: for example `learning_rate = 1e-06`; Peak learning rate."),
        ("reward_functions = ['int', 3]", "Failed to coerce value: 3 to <class 'str'>\n\nhint: c.toml:1: for example `reward_functions = [\"correctness\", \"int\", \"strict_format\", \"soft_format\", \"xmlcount\"]`; Built-in rewards by name, or `path/to/file.py:function` for your own."),
    ],
)  # fmt: skip
def test_one_problem_is_its_text_a_blank_line_and_a_hint(text: str, error: str) -> None:
    assert the_error(text) == error


@pytest.mark.parametrize(
    ("text", "message", "cure"),
    [
        ("max_steps = 10.0", "Failed to coerce value: 10.0 to <class 'int'>", "write `max_steps = 10`"),
        ("max_steps = 1.5", "Failed to coerce value: 1.5 to <class 'int'>", "for example `max_steps = 0`"),
        ('use_compile = "no"', "Failed to coerce value: 'no' to <class 'bool'>", "write `use_compile = false`"),
        ("use_compile = 1", "Failed to coerce value: 1 to <class 'bool'>", "write `use_compile = true`"),
        ("dataset_config = 3", "Failed to coerce value: 3 to <class 'str'>", 'write `dataset_config = "3"`'),
        ('stop = "x"', "Failed to coerce value: 'x' to <class 'list'>", 'write `stop = ["x"]`'),
        ('bits = "4"', "Failed to coerce value: '4' to <class 'int'>", "write `bits = 4`"),
        ("bits = true", "Failed to coerce value: True to <class 'int'>", "for example `bits = 4`"),
        ("bits = 5", "Invalid value: bits = 5", "it takes 2, 3, 4, 6, 8"),
        ('loss_type = "gpro"', 'Invalid value: loss_type = "gpro"', 'did you mean `loss_type = "grpo"`?'),
        ("temperature = 0", "Invalid value: temperature = 0", "must be greater than 0 (default 0.7): at 0 all completions of a group would be the same, and so would their rewards: nothing to learn; write `temperature = 0.7`"),
        ("num_generations = 0", "Invalid value: num_generations = 0", "the completions of a group are compared; write `num_generations = 8`"),
        ("temperature = nan", "Invalid value: temperature = nan", "must be a finite number"),
        ('run_name = "a/b"', 'Invalid value: run_name = "a/b"', "without / or \\"),
        ('model_name = ""', 'Invalid value: model_name = ""', "`model_name` must not be empty"),
        ('stop = [""]', 'Invalid value: stop = [""]', "`stop` must not contain an empty text"),
        ("reward_functions = []", "Invalid value: reward_functions = []", "at least 1 item"),
        ("learning_rate = 2024-01-01", "Failed to coerce value: datetime.date(2024, 1, 1) to", "1e-06"),
        ("learning_rate = 1" + "0" * 400, "Failed to coerce value: 1000000000000000000000", "1e-06"),
    ],
)  # fmt: skip
def test_wrong_values(text: str, message: str, cure: str) -> None:
    error = the_error(text)
    assert error.startswith(message)
    assert cure in error
    assert len(error) < 600


def test_all_problems_at_once_in_the_order_of_lines() -> None:
    error = the_error(
        'temperature = "0.7"\nlearnin_rate = 3\nnum_generations = 1\n[mlx_grpo]\nbits = 5\n', "top_p=x"
    )
    assert [line for line in error.splitlines() if not line.startswith(" ")] == [
        "Failed to coerce value: '0.7' to <class 'float'>",
        "",
        "Unknown config key: learnin_rate",
        "",
        "num_generations = 1 cannot learn: a group needs at least 2 completions",
        "",
        "Invalid value: bits = 5",
        "",
        "Failed to coerce value: 'x' to <class 'float'>",
        "",
        "hint: fix all 5 problems, then check with `grpo config validate c.toml`",
    ]
    assert "\n  c.toml:2: did you mean `learning_rate`?\n" in error


def test_rules_say_nothing_of_keys_that_are_invalid_anyway() -> None:
    problems = inspect_config(write('eval_split = 3\ntrain_split = "test"\n')).problems
    assert [problem.key for problem in problems] == ["eval_split"]


def test_a_rule_points_at_the_line_that_was_written() -> None:
    (problem,) = inspect_config(write('\ntrain_split = "test"\n')).problems
    assert (problem.message, str(problem.place)) == ('eval_split = "test" is the training split', "c.toml:2")


def test_problems_and_warnings_as_rows() -> None:
    inspection = inspect_config(write("top_k = 3\nsed = 1"))
    assert [problem.as_row() for problem in inspection.problems + inspection.warnings] == [
        {"file": "c.toml", "line": 2, "key": "sed", "message": "Unknown config key: sed",
         "cure": "did you mean `seed`?", "severity": "error", "trouble": "unknown-key"},
        {"file": "c.toml", "line": 1, "key": "top_k", "severity": "warning",
         "message": "top_k = 3 cuts tokens off while sampling, and those are never explored",
         "cure": "the ratio new/old stays exact, because the kept mass is recorded and cancels in it, but "
         "the gradient is that of the full distribution; to sample from the full distribution write `top_k = 0`", "trouble": "sampling-cut"},
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("max_completion_length", "max_new_tokens"),
        ("eval_every_updates", "eval_steps"),
        ("eval_subset_size", "eval_samples"),
    ],
)
def test_superseded_keys_work_and_name_their_successor(old: str, new: str) -> None:
    loaded = load_config(write(f"{old} = 31"))
    assert getattr(loaded.config, new) == 31
    assert loaded.sources[new] == "c.toml:1"
    assert [str(warning) for warning in loaded.warnings] == [
        f"{old} is superseded by {new}\n  c.toml:1: write `{new} = 31`"
    ]


def test_the_successor_wins_in_the_same_file_whatever_the_order() -> None:
    loaded = load_config(write("max_completion_length = 31\nmax_new_tokens = 32\n"))
    assert loaded.config.max_new_tokens == 32
    (warning,) = loaded.warnings
    assert warning.message == (
        "max_completion_length is superseded by max_new_tokens, which is also given: max_new_tokens = 32 is used"
    )


def test_a_superseded_key_in_set_wins_over_the_file() -> None:
    loaded = load_config(write("max_new_tokens = 32\n"), ["max_completion_length=33"])
    assert loaded.config.max_new_tokens == 33
    assert loaded.warnings[0].cure == "write `--set max_new_tokens=33`"


def test_a_superseded_key_of_the_wrong_type_is_reported_as_written() -> None:
    assert the_error('eval_subset_size = "9"').startswith(
        "Failed to coerce value: '9' to <class 'int'>\n\nhint: c.toml:1: write `eval_subset_size = 9`"
    )


@pytest.mark.parametrize("word", ["true", "1", "yes", "on", "TRUE", "Yes", "On"])
def test_set_true(word: str) -> None:
    assert set_value(f"grad_checkpoint={word}") is True


@pytest.mark.parametrize("word", ["false", "0", "no", "off", "False", "NO", "oFF"])
def test_set_false(word: str) -> None:
    assert set_value(f"use_compile={word}") is False


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("learning_rate=5e-7", 5e-7),
        ("learning_rate=1", 1.0),
        ("max_steps=1_000", 1000),
        ("bits=8", 8),
        ("model_name=a/b", "a/b"),
        ('model_name="a/b"', "a/b"),
        ("model_name='a=b'", "a=b"),
        ("dataset_config=3", "3"),
        ("system_prompt=", ""),
        ('system_prompt="a\\nb"', "a\nb"),
        ('system_prompt="a" or "b"', '"a" or "b"'),
        ("system_prompt=caf\u00e9", "caf\u00e9"),
        ('reward_functions=["int","xmlcount"]', ["int", "xmlcount"]),
        ("reward_functions=int,xmlcount", ["int", "xmlcount"]),
        ("reward_functions=[int, xmlcount]", ["int", "xmlcount"]),
        ('stop=["a,b"]', ["a,b"]),
        ("stop=", []),
        ("loss_type=grpo", "grpo"),
        ("chat_template_kwargs={enable_thinking = false}", {"enable_thinking": False}),
        ('chat_template_kwargs={"a b": [1, {"c": "d"}]}', {"a b": [1, {"c": "d"}]}),
        ("chat_template_kwargs.enable_thinking=False", {"enable_thinking": False}),
        ("chat_template_kwargs.reasoning_effort=low", {"reasoning_effort": "low"}),
        ("chat_template_kwargs.date_string=26 Jul 2024", {"date_string": "26 Jul 2024"}),
        ("chat_template_kwargs.budget=512", {"budget": 512}),
    ],
)
def test_set_is_typed_by_the_schema(override: str, value: object) -> None:
    found = set_value(override)
    assert (found, type(found)) == (value, type(value))


def test_the_last_set_of_a_key_wins() -> None:
    assert load_config(None, ["seed=1", "seed=2"], required=False).config.seed == 2


@pytest.mark.parametrize(
    "text",
    [
        "seed = 1\nchat_template_kwargs = { enable_thinking = true, a = [1, 'b'] }",
        "seed = 1\n[chat_template_kwargs]\nenable_thinking = true\na = [1, 'b']",
        "[mlx_grpo]\nseed = 1\nchat_template_kwargs.enable_thinking = true\nchat_template_kwargs.a = [1, 'b']",
        "[mlx_grpo]\nseed = 1\n[mlx_grpo.chat_template_kwargs]\nenable_thinking = true\na = [1, 'b']",
    ],
)
def test_a_table_in_every_spelling_and_set_changes_single_names(text: str) -> None:
    Path("c.toml").write_text(text)
    assert load_config("c.toml").config.chat_template_kwargs == {"enable_thinking": True, "a": [1, "b"]}
    one = ["chat_template_kwargs.enable_thinking=false", "chat_template_kwargs.x={y = 2}"]
    changed = load_config("c.toml", one)
    assert changed.config.chat_template_kwargs == {"enable_thinking": False, "a": [1, "b"], "x": {"y": 2}}
    assert changed.sources["chat_template_kwargs"] == "--set"
    whole = ["chat_template_kwargs={z = 1}", *one[:1]]
    assert load_config("c.toml", whole).config.chat_template_kwargs == {"z": 1, "enable_thinking": False}


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ("{ a = nan }", "takes only texts, finite numbers, booleans, lists and tables, and a holds nan"),
        ("{ a = { b = [2024-01-01] } }", "and a holds datetime.date(2024, 1, 1)"),
        ("3", "Failed to coerce value: 3 to <class 'dict'>"),
        ("'{\"a\": true}'", "write `chat_template_kwargs = {a = true}`"),
    ],
)
def test_a_table_holds_what_json_can_hold(value: str, told: str) -> None:
    assert told in the_error(f"chat_template_kwargs = {value}")


def test_a_key_that_slipped_into_a_table_is_found() -> None:
    error = the_error("[chat_template_kwargs]\nenable_thinking = false\nmax_steps = 3\n'a b' = 4")
    table = '`chat_template_kwargs = {enable_thinking = false, "a b" = 4}`'
    assert f"write {table} and `max_steps = 3`, each in a line of its own above the tables" in error


@pytest.mark.parametrize(
    ("override", "error"),
    [
        ('learning_rate="5e-7"', "Failed to coerce value: '\"5e-7\"' to <class 'float'>\n\nhint: write `--set learning_rate=5e-07`; Peak learning rate."),
        ("learning_rate=invalid_string", "Failed to coerce value: 'invalid_string' to <class 'float'>\n\nhint: for example `--set learning_rate=1e-06`; Peak learning rate."),
        ("max_steps=1e3", "Failed to coerce value: '1e3' to <class 'int'>\n\nhint: write `--set max_steps=1000`; Stop after this many updates; 0: run all epochs."),
        ("invalid_parameter=3", "Unknown config key: invalid_parameter\n\nhint: no key has a similar name; `grpo config init` prints them all"),
        ("seed", "Failed to parse --set: 'seed'\n\nhint: write `--set KEY=VALUE`"),
        ("=3", "Failed to parse --set: '=3'\n\nhint: write `--set KEY=VALUE`"),
        ("run_name=\udcff", "Failed to parse --set: 'run_name=\\udcff' is not UTF-8\n\nhint: pass the value in UTF-8"),
        ('reward_weights=1,"2"', "Failed to coerce value: '\"2\"' to <class 'float'>\n\nhint: write `--set 'reward_weights=[1.0, 2.0]'`; One weight per reward function; empty: each is 1."),
    ],
)  # fmt: skip
def test_set_errors(override: str, error: str) -> None:
    assert the_set_error(override) == error


def test_the_configuration_is_frozen() -> None:
    config = load_config(write("seed = 1")).config
    with pytest.raises(ValueError, match="frozen"):
        config.seed = 2  # type: ignore[misc]


@pytest.mark.parametrize(
    ("text", "trouble"),
    [
        ("sed = 1", "unknown-key"),
        ("seed = 'x'", "wrong-type"),
        ("seed = -1", "out-of-range"),
        ("seed = ", "config-syntax"),
        ("eval_split = 'train'", "contradiction"),
        ("sed = 1\nsede = 2", "unknown-key"),
        ("sed = 1\nseed = 'x'", "configuration"),
    ],
)
def test_an_error_names_the_chapter_that_explains_it(text: str, trouble: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(write(text))
    assert caught.value.trouble == trouble


def test_no_file_and_no_name_are_explained_together() -> None:
    for name in ("nowhere.toml", None):
        with pytest.raises(ConfigError) as caught:
            load_config(name)
        assert caught.value.trouble == "config-not-found"


@pytest.mark.parametrize(
    ("foreign", "cure"),
    [
        ("lr = 1", "write `learning_rate = 1`"),
        ("beta = 1", "write `kl_coeff = 1`"),
        ("Epochs = 1", "write `num_epochs = 1`"),
        ("enable_thinking = false", "write `chat_template_kwargs = {enable_thinking = false}`"),
        ("reasoning_effort = 'low'", 'write `chat_template_kwargs = {reasoning_effort = "low"}`'),
        ("chat_template_args = '{\"a\": 1}'", "write `chat_template_kwargs = {a = 1}`"),
        ("reward_funcs = 1", "did you mean `reward_functions`?"),
    ],
)
def test_names_of_other_programs_lead_to_ours(foreign: str, cure: str) -> None:
    assert the_error(foreign).endswith(f"c.toml:1: {cure}")


def test_foreign_names_lead_to_keys_that_exist_and_are_none_themselves() -> None:
    assert set(RENAMED.values()) <= set(Config.model_fields)
    assert {*RENAMED, *CONVERTED, *LEFT_OUT} & set(Config.model_fields) == {"group_size", "loss_type"}


@pytest.mark.parametrize(
    ("text", "cure"),
    [
        ("top_p = .9", "a number needs digits on both sides of the point: `top_p = 0.9`"),
        ("top_p = 0,9", "a number has a decimal point, not a comma: `top_p = 0.9`"),
        ("dataset = \u201cx\u201d", 'text needs straight quotes: `dataset = "…"`'),
        ("dataset = openai/gsm8k", 'write `dataset = "openai/gsm8k"`'),
        ("use_compile = True", "write `use_compile = true`"),
    ],
)
def test_slips_of_syntax_are_written_out(text: str, cure: str) -> None:
    assert the_error(text).endswith(cure)
