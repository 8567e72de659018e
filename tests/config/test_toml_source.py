"""Reading a TOML file: its entries, their lines, and every way a file can be unreadable."""

from pathlib import Path

import pytest

from grpo_cli.config import toml_source as document
from grpo_cli.config.toml_source import Document, key_lines, read_document


def read(tmp_path: Path, content: str | bytes) -> Document:
    path = tmp_path / "c.toml"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return read_document(path, "c.toml")


def test_lines_skip_strings_comments_and_arrays() -> None:
    text = '''# seed = 1
system_prompt = """
temperature = 9
a "quoted" word\\""""" # "
learning_rate = 1e-6
reward_functions = [ # [
  "max_steps = 3", ']',
]
stop = ["""
bits = 3"""]
 "top_p" = 1.0
run_name = 'C:\\'
[mlx_grpo]
seed = 2
'''
    assert key_lines(text) == {
        "system_prompt": 2,
        "learning_rate": 5,
        "reward_functions": 6,
        "stop": 9,
        "top_p": 11,
        "run_name": 12,
        "mlx_grpo": 13,
        "mlx_grpo.seed": 14,
    }


def test_flat_and_table_keys_are_merged_with_their_lines(tmp_path: Path) -> None:
    document = read(tmp_path, "seed = 4\n\n[mlx_grpo]\ntop_k = 5\n")
    assert [(e.key, e.value, str(e.place)) for e in document.entries] == [
        ("seed", 4, "c.toml:1"),
        ("top_k", 5, "c.toml:4"),
    ]
    assert document.problems == []


@pytest.mark.parametrize(
    ("text", "line"),
    [("mlx_grpo.seed = 3\n", 1), ("\nmlx_grpo = {seed = 3}\n", 2), ("\n[mlx_grpo]\nseed = 3\n", 3)],
)
def test_every_spelling_of_the_table_has_a_line(tmp_path: Path, text: str, line: int) -> None:
    (entry,) = read(tmp_path, text).entries
    assert (entry.key, entry.value, entry.place.line) == ("seed", 3, line)


def test_windows_line_ends_and_byte_order_mark_load(tmp_path: Path) -> None:
    document = read(tmp_path, b"\xef\xbb\xbf# x\r\nseed = 4\r\n\r\ntop_k = 5\r\n")
    assert [(e.key, e.place.line) for e in document.entries] == [("seed", 2), ("top_k", 4)]


UNREADABLE = [
    ("seed = 1\nseed = 2\n", "Invalid TOML: Cannot overwrite a value", 2, "keep one"),
    ("\ndataset = arithmetic\n", "Invalid TOML: Invalid value", 2, 'write `dataset = "arithmetic"`'),
    ("use_compile = True\n", "Invalid TOML: Invalid value", 1, "column 15; write `use_compile = true`"),
    ("use_compile = yes\n", "Invalid TOML: Invalid value", 1, "column 15; write `use_compile = true`"),
    ("grad_checkpoint = Off # x\n", "Invalid TOML: Invalid value", 1, "; write `grad_checkpoint = false`"),
    ("use_compile = FALSE\n", "Invalid TOML: Invalid value", 1, "; write `use_compile = false`"),
    ("run_name = yes\n", "Invalid TOML: Invalid value", 1, '; write `run_name = "yes"`'),
    ("seed 3\n", "Invalid TOML: Expected '=' after a key in a key/value pair", 1, "column 6"),
    ("a = [1,\n", "Invalid TOML: Invalid value", 2, "end of the file"),
    ("a = " + "[" * 100_000, "Invalid TOML: nested too deeply", 1, "too large or too deeply nested"),
    (
        "a = " + "9" * 10_000,
        "Invalid TOML: Exceeds the limit (4300 digits)",
        1,
        "too large or too deeply nested",
    ),
    (b"seed = 1\nrun_name = '\xe9'\n", "Config file is not UTF-8: c.toml", 2, "UTF-8"),
    (b"\xff\xfes\x00", "Config file is not UTF-8: c.toml", 1, "UTF-8"),
    ("", "Config file is empty: c.toml", None, "grpo config init --force c.toml"),
    ("# nothing\n", "Config file is empty: c.toml", None, "grpo config init --force c.toml"),
    ("seed = 1\n[mlx_grpo]\nseed = 2\n", "Config key given twice: seed", 3, "keep one of lines 1 and 3"),
    ("mlx_grpo = 3\n", "Failed to coerce value: 3 to <class 'dict'>", 1, "table"),
]


@pytest.mark.parametrize(("content", "message", "line", "cure"), UNREADABLE, ids=range(len(UNREADABLE)))
def test_what_is_wrong_with_a_file(
    tmp_path: Path, content: str | bytes, message: str, line: int | None, cure: str
) -> None:
    (problem,) = read(tmp_path, content).problems
    assert problem.message.startswith(message)
    assert (problem.place and problem.place.line) == line
    assert cure in problem.cure


def test_a_folder_names_the_configuration_inside_it(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text("seed = 1")
    (problem,) = read_document(tmp_path, "run").problems
    assert problem.message == "Config file is a folder: run"
    assert str(tmp_path / "config.toml") in problem.cure


def test_a_file_without_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: Path) -> bytes:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(document, "open_regular", refuse)
    (problem,) = read_document(tmp_path / "c.toml", "c.toml").problems
    assert problem.message == "Cannot read config file: c.toml: Permission denied"
    assert problem.cure == "make it readable: `chmod u+r c.toml`"
