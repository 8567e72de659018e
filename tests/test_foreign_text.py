"""Foreign text can do nothing to a terminal, and is readable."""

import io
import json
import os
import re
import subprocess
import sys
import threading
import tomllib
import unicodedata
from contextlib import redirect_stdout

import pytest
import tomli_w
from rich.table import Table
from rich.text import Text

from grpo_cli.cli.terminal import TerminalConsole
from grpo_cli.foreign_text import aside, guarded_output, one_line, quoted, safe_json, safe_toml, visible

HARMFUL = [
    chr(code)
    for code in range(sys.maxunicode + 1)
    if unicodedata.category(chr(code)) in ("Cc", "Cf", "Cs", "Zl", "Zp") and code not in (0x200C, 0x200D)
]


def test_nothing_that_steers_a_terminal_passes() -> None:
    shown = visible("".join(HARMFUL), keep="")
    assert not set(shown) & set(HARMFUL)
    assert {"\x1b", "\x9b", "\x7f", "\r", "\b", "\u202e", "\u2069", "\u200b", "\u2028", "\ud800"} <= set(
        HARMFUL
    )


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\x1b[2Jb\x07", "a␛[2Jb␇"),
        ("\x9b2J\x90q\x9d0;x\x9c", "\\u009b2J\\u0090q\\u009d0;x\\u009c"),
        ("ab\r\b\x7f", "ab␍␈␡"),
        ("\u202eevil\u2066", "\\u202eevil\\u2066"),
        ("seed\u200b\ufeff", "seed\\u200b\\ufeff"),
        ("half \ud83d, byte \udcff", "half \\ud83d, byte \\xff"),
        ("line\u2028break\u2029", "line\\u2028break\\u2029"),
        ("a\tb\nc", "a\tb\nc"),
        ("naïve 数学\u3000🙂 👩\u200d👧 می\u200cخواهم", "naïve 数学\u3000🙂 👩\u200d👧 می\u200cخواهم"),
    ],
)
def test_visible(text: str, shown: str) -> None:
    assert visible(text) == shown


def test_one_line() -> None:
    assert one_line(" a\r\nb\tc\nd ") == "a⏎b c⏎d"


def test_json_and_toml_load_to_the_same_document() -> None:
    document = {" ".join(HARMFUL) + "é数\n\t": [" ".join(HARMFUL)]}
    text = safe_json(document, indent=2)
    assert json.loads(text) == document
    assert not set(text) & (set(HARMFUL) - {"\n", "\t"})
    assert "é数" in text
    assert safe_json({"a": [1.5, float("nan")], "b": float("inf")}) == '{"a": [1.5, null], "b": null}'
    table = {"key": "".join(char for char in HARMFUL if unicodedata.category(char) != "Cs") + "é"}
    text = safe_toml(tomli_w.dumps(table))
    assert tomllib.loads(text) == table
    assert not set(text) & (set(HARMFUL) - {"\n", "\t"})


@pytest.mark.parametrize(
    "name", ["plain/x-1", "a b", "it's", "a\x1b[2J'b", "run\u202eslut", "a\nb\\c`d", "\udcffé"]
)
def test_a_quoted_name_is_the_same_for_a_shell_and_harmless_on_the_way(name: str) -> None:
    assert visible(quoted(name), keep="") == quoted(name)
    shell = ["bash", "-c", f"printf %s {quoted(name)}"]
    shown = subprocess.run(shell, capture_output=True, check=True, env={**os.environ, "LC_ALL": "C.UTF-8"})
    assert os.fsdecode(shown.stdout) == name


def test_guarded_streams_let_nothing_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    out, err = io.StringIO(), io.StringIO()
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)
    with guarded_output():
        print("a\x1b[2Jb\tc\r")
        sys.stdout.writelines(["d\x9b", "e\r\n"])
        print("w\x1b]0;x\x07", file=sys.stderr)
        with guarded_output():
            print("once\x1b", file=sys.stderr)
    assert sys.stdout is out
    assert out.getvalue() == "a␛[2Jb\tc␍\nd\\u009be\n"
    assert "w␛]0;x␇" in err.getvalue()
    assert err.getvalue().endswith("once␛\n")


def test_what_users_code_prints_goes_aside_in_its_thread_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    out, err = io.StringIO(), io.StringIO()
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)
    with guarded_output():
        begun, over = threading.Event(), threading.Event()

        def tool() -> None:
            with aside():
                print("of the tool\x1b")
                begun.set()
                over.wait(10)
                print("late")

        thread = threading.Thread(target=tool)
        thread.start()
        begun.wait(10)
        print("result")  # while the tool runs
        over.set()
        thread.join()
        with aside():
            sys.stdout.close()
            with redirect_stdout(sys.stderr):  # as where rewards are computed
                print("reward")
        print("end")
    assert out.getvalue() == "result\nend\n"
    assert err.getvalue() == "of the tool␛\nlate\nreward\n"


def test_a_console_writes_its_own_sequences_and_nobody_elses(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stdout", stream)
    with guarded_output():
        console = TerminalConsole(force_terminal=True, color_system="standard", width=60, highlight=False)
        console.print(Text("a\x1b[2Jb\x9b", style="red"))
        console.print("[link=https://x.example]text[/link]\x1b]8;;y\x07")
        table = Table("head\u202e")
        table.add_row(Text("cell\x1b"))
        console.print(table)
    own = re.sub(r"\x1b\[\d*m", "", stream.getvalue())
    assert "\x1b[31ma␛[2Jb\\u009b\x1b[0m" in stream.getvalue()
    assert "text␛]8;;y" in own
    assert "x.example" not in own
    assert not set(own) & (set(HARMFUL) - {"\n"})


def test_printable() -> None:
    assert one_line(" a\r\nb\u00a0c\u200bd\ud800e\x7f ") == "a⏎b\u00a0c\\u200bd\\ud800e␡"
    assert one_line("naïve 数学 🙂") == "naïve 数学 🙂"
