"""Names in a user's file, read without running it."""

from pathlib import Path

import pytest

from grpo_cli.user_source import names_in, names_of_file


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ("def f(): 1\nasync def g(): 1\nclass C: 1", {"f": "function", "g": "function", "C": "class"}),
        ("import a.b, c as d\nfrom e import f as g", {"a": "", "d": "", "g": ""}),
        ("a = b = 1\nc: int = 2\n(d, e) = 3, 4", {"a": "", "b": "", "c": "", "d": "", "e": ""}),
        ("try:\n  import a\nexcept E as b:\n  def c(): x = 1", {"a": "", "b": "", "c": "function"}),
        ("for a in f():\n  with g() as b:\n    if (c := a): pass", {"a": "", "b": "", "c": ""}),
        ("class C:\n  def inner(self): pass", {"C": "class"}),
        ("def f():\n  def inner(): pass", {"f": "function"}),
        ("g = lambda: (h := 1)", {"g": ""}),
        ("from a import *", None),
        ("globals()['f'] = 1", None),
        ("import sys\nsys.modules[__name__] = 1", None),
        ("def __getattr__(name): return 1", None),
        ("def f():\n  global g\n  g = 1", None),
        ("exec('def f(): pass')", None),
        ("", {}),
    ],
)  # fmt: skip
def test_names_of_a_source(source: str, names: dict[str, str] | None) -> None:
    assert names_in(source) == names


def test_a_file_is_not_run(tmp_path: Path) -> None:
    file = tmp_path / "a.py"
    file.write_text("def f(): pass\nraise SystemExit('ran')")
    assert names_of_file(file) == {"f": "function"}


def test_files_that_cannot_be_read_say_nothing(tmp_path: Path) -> None:
    assert names_of_file(tmp_path / "gone.py") is None
    (tmp_path / "a.txt").write_text("def f(): pass")
    assert names_of_file(tmp_path / "a.txt") is None
    (tmp_path / "deep.py").write_text("(" * 150 + "1" + ")" * 150 + "\n" + "-" * 100_000 + "1")
    assert names_of_file(tmp_path / "deep.py") is None
    (tmp_path / "long.py").write_text("x = 1\n" * 200_000)
    assert names_of_file(tmp_path / "long.py") is None
    assert names_of_file(Path("a\0.py")) is None


def test_a_slip_of_syntax_is_raised(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("x = 1\ndef f(:\n")
    with pytest.raises(SyntaxError) as caught:
        names_of_file(tmp_path / "a.py")
    assert caught.value.lineno == 2
