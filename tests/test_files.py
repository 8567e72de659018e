"""Paths that people choose, and files that appear whole or not at all."""

import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from grpo_cli.config.fields import toml_value
from grpo_cli.config.load import load_config
from grpo_cli.config.local_model import check_name, local_folder
from grpo_cli.config.render import dump_config
from grpo_cli.config.resolve import find_config
from grpo_cli.errors import ConfigError
from grpo_cli.files import chosen_path, expanded_name, open_log, open_regular, write_file, written
from grpo_cli.models.find import find_model
from tests.support.waiting import no_wait_forever


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/ada")
    monkeypatch.setenv("RUNS", "/big/runs")
    monkeypatch.delenv("NOWHERE", raising=False)


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("~/runs", "/home/ada/runs"),
        ("~", "/home/ada"),
        ("$HOME/runs", "/home/ada/runs"),
        ("${RUNS}/a", "/big/runs/a"),
        ("~root/x", f"{os.path.expanduser('~root')}/x"),  # noqa: PTH111
        ("/a/[v1] *?", "/a/[v1] *?"),
        ("/a/100$/$", "/a/100$/$"),
    ],
)
def test_a_chosen_path_is_absolute_and_expanded(text: str, path: str) -> None:
    assert str(chosen_path(text)) == path


def test_a_relative_path_is_meant_from_the_current_folder(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    assert chosen_path("a/../b") == (tmp_path / "b").resolve()
    assert chosen_path("b [1]") == tmp_path / "b [1]"


@pytest.mark.parametrize("text", ["$NOWHERE/x", "${NOWHERE}", "~nobody-of-that-name/x", "a\0b", "a/\ud83d"])
def test_what_has_no_value_is_refused_unless_it_is_a_name(text: str) -> None:
    with pytest.raises(ConfigError, match="Path not understood"):
        chosen_path(text)


@pytest.mark.parametrize("text", ["x" * 256, "ä" * 128, "a/" * 512 + "b"])
@pytest.mark.parametrize("read", [chosen_path, expanded_name])
def test_what_is_too_long_for_every_disk_is_refused(read: Callable[[str], object], text: str) -> None:
    with pytest.raises(ConfigError, match=r"^Path not understood: .*…': it is too long"):
        read(text)
    half = text[: len(text) // 2].rstrip("/")
    assert str(read(half)).endswith(half)


def test_an_existing_file_may_have_a_dollar_in_its_name(tmp_path: Path) -> None:
    (tmp_path / "$NOWHERE.jsonl").touch()
    assert chosen_path("$NOWHERE.jsonl") == tmp_path / "$NOWHERE.jsonl"


# --- writing ------------------------------------------------------------------------------------------


def test_a_file_has_the_new_content_and_keeps_its_permissions(tmp_path: Path) -> None:
    file = tmp_path / "x.toml"
    file.write_text("old")
    file.chmod(0o600)
    write_file(file, "näw")
    assert file.read_text("utf-8") == "näw" and stat.S_IMODE(file.stat().st_mode) == 0o600
    assert os.listdir(tmp_path) == ["x.toml"]  # noqa: PTH208


@pytest.mark.parametrize("error", [OSError("disk"), KeyboardInterrupt(), SystemExit()])
def test_a_failure_keeps_the_old_file_and_leaves_nothing(tmp_path: Path, error: BaseException) -> None:
    (tmp_path / "x").write_text("old")
    with pytest.raises(type(error)), written(tmp_path / "x") as fresh:
        fresh.write_text("half")
        raise error
    assert os.listdir(tmp_path) == ["x"] and (tmp_path / "x").read_text() == "old"  # noqa: PTH208


def test_a_link_is_replaced_and_not_followed(tmp_path: Path) -> None:
    (tmp_path / "theirs").write_text("theirs")
    (tmp_path / "x").symlink_to(tmp_path / "theirs")
    write_file(tmp_path / "x", "ours")
    assert (tmp_path / "theirs").read_text() == "theirs"
    assert not (tmp_path / "x").is_symlink() and (tmp_path / "x").read_text() == "ours"


def test_libraries_find_the_ending_they_look_for(tmp_path: Path) -> None:
    with written(tmp_path / "optimizer.safetensors") as fresh:
        assert fresh.suffix == ".safetensors" and fresh.parent == tmp_path


def _pipe(path: Path) -> None:
    os.mkfifo(path)


@pytest.mark.parametrize("make", [_pipe, Path.mkdir])
@pytest.mark.parametrize("use", [open_regular, open_log, lambda path: write_file(path, "x")])
def test_what_is_not_a_file_is_refused_without_waiting(
    tmp_path: Path, make: Callable[[Path], None], use: Callable[[Path], object]
) -> None:
    make(tmp_path / "x")
    with no_wait_forever(), pytest.raises(OSError, match=r"regular|irectory"):
        use(tmp_path / "x")


def test_a_log_follows_no_link(tmp_path: Path) -> None:
    (tmp_path / "theirs").write_text("theirs")
    (tmp_path / "log").symlink_to(tmp_path / "theirs")
    with pytest.raises(OSError, match="link"):
        open_log(tmp_path / "log")


def test_a_log_shares_its_content_with_no_other_name(tmp_path: Path) -> None:
    (tmp_path / "theirs").write_bytes(b"line\n")
    (tmp_path / "log").hardlink_to(tmp_path / "theirs")
    with open_log(tmp_path / "log") as log:
        assert log.tell() == 5
        log.write(b"more\n")
    assert (tmp_path / "theirs").read_bytes() == b"line\n"
    assert (tmp_path / "log").read_bytes() == b"line\nmore\n"


def test_every_command_understands_its_model_as_a_shell_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "m [1]").mkdir()
    monkeypatch.setenv("WHERE", str(tmp_path))
    assert find_model("$WHERE/m [1]") == tmp_path / "m [1]"
    assert local_folder("${WHERE}/m [1]") == tmp_path / "m [1]"
    for use in (find_model, find_config, check_name):
        with pytest.raises(ConfigError, match="Path not understood"):
            use("$NOWHERE/m")


@pytest.mark.parametrize("key", ["output_dir", "dataset", "model_name", "reward_functions"])
def test_keys_that_hold_paths_are_expanded_once(key: str) -> None:
    wanted = ["~/r.py:f", "$RUNS/r.py:f", "int"] if key == "reward_functions" else "$RUNS/x"
    found = load_config("smoke_test", [f"{key}={toml_value(wanted)}"]).config
    expected = ["/home/ada/r.py:f", "/big/runs/r.py:f", "int"] if key == "reward_functions" else "/big/runs/x"
    assert getattr(found, key) == expected
    unknown = ["$NOWHERE/r.py:f"] if key == "reward_functions" else "$NOWHERE/x"
    with pytest.raises(ConfigError, match=r"Path not understood: \$NOWHERE/"):
        load_config("smoke_test", [f"{key}={toml_value(unknown)}"])


def test_a_value_that_is_the_default_raises_no_alarm(tmp_path: Path) -> None:
    """A run's own file has every key; a warning is for what somebody wanted."""
    file = tmp_path / "config.toml"
    file.write_text(dump_config(load_config("smoke_test").config))
    assert load_config(str(file)).warnings == []
