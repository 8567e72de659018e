"""The last error of a command, kept for bug reports."""

from pathlib import Path

from grpo_cli.doctor import last_error


def test_an_error_is_kept_where_the_folder_cannot_be_made(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(last_error, "error_file", lambda: tmp_path / "file" / "last_error.txt")
    last_error.keep_last_error(ValueError("x"))  # not raised over the error that is being told
    assert last_error.last_error() == ""
