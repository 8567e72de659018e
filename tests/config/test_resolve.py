"""From a name to the file that is meant."""

from pathlib import Path

import pytest

from grpo_cli.config.load import load_config
from grpo_cli.config.resolve import find_config, shipped_folder, shipped_names
from grpo_cli.errors import ConfigError


@pytest.fixture(autouse=True)
def in_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLX_GRPO_CONFIG", raising=False)


@pytest.mark.parametrize("name", ["prod", "prod.toml"])
def test_a_shipped_name_works_from_any_folder(name: str) -> None:
    assert find_config(name) == (shipped_folder() / "prod.toml", "prod.toml")


@pytest.mark.parametrize("name", ["prod", "prod.toml"])
def test_the_current_folder_comes_before_the_shipped(name: str) -> None:
    Path("prod").mkdir()  # a folder of that name does not hide the shipped file
    assert find_config(name)[0] == shipped_folder() / "prod.toml"
    Path("prod.toml").write_text("seed = 5")
    assert load_config(name).config.seed == 5


def test_absolute_and_home_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    Path("my.toml").write_text("seed = 5")
    assert load_config(str(tmp_path / "my.toml")).config.seed == 5
    assert load_config("~/my.toml").config.seed == 5


def test_installed_configurations_are_found_inside_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed = tmp_path / "site/grpo_cli"
    (installed / "shipped_configs").mkdir(parents=True)
    (installed / "shipped_configs/prod.toml").write_text("seed = 6")
    monkeypatch.setattr("grpo_cli.config.resolve.__file__", str(installed / "config/resolve.py"))
    assert shipped_names() == ["prod"]
    assert load_config("prod").config.seed == 6


def test_not_found_lists_near_names_and_where_it_looked(tmp_path: Path) -> None:
    Path("configs").mkdir()
    Path("configs/costum.toml").write_text("seed = 1")
    with pytest.raises(ConfigError) as caught:
        load_config("configs/custom.toml")
    assert str(caught.value) == (
        "Config file not found: configs/custom.toml\n\n"
        f"hint: did you mean `configs/costum.toml`? looked in {tmp_path}/configs; "
        f"shipped: {', '.join(shipped_names())}"
    )


@pytest.mark.parametrize(
    ("name", "near"),
    [("prd", "`prod.toml`"), ("smoke-test.toml", "`smoke_test.toml`"), ("nowhere/prod.toml", "`prod.toml`")],
)
def test_near_shipped_names(name: str, near: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(name)
    assert caught.value.message == f"Config file not found: {name}"
    assert f"did you mean {near}?" in caught.value.hint
    assert ("(no such folder)" in caught.value.hint) == ("/" in name)


@pytest.mark.parametrize("name", ["x" * 5000, "a\0b", ""])
def test_names_that_no_file_can_have(name: str) -> None:
    with pytest.raises(ConfigError):
        load_config(name)


def test_the_environment_names_the_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLX_GRPO_CONFIG", "env.toml")
    with pytest.raises(
        ConfigError, match=r"^Config file not found: env\.toml\n\nhint: \$MLX_GRPO_CONFIG names it"
    ):
        load_config()
    Path("env.toml").write_text("seed = 8")
    Path("given.toml").write_text("seed = 9")
    assert load_config().config.seed == 8
    assert load_config("given.toml").config.seed == 9


def test_neither_option_nor_environment_names_both(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLX_GRPO_CONFIG", "")
    with pytest.raises(ConfigError) as caught:
        load_config()
    assert caught.value.message == "No configuration: neither --config nor $MLX_GRPO_CONFIG is given"
    assert "--config smoke_test.toml" in caught.value.hint
    assert load_config(required=False).sources["seed"] == "default"
