"""Three hundred files that people, editors and disks make of a configuration: a verdict with its place."""

# ruff: noqa: E501 - tables

import json
import random
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from grpo_cli.cli.main import app
from grpo_cli.config.resolve import shipped_folder
from tests.support.waiting import HANG

COUNT = 300
SOUND = (shipped_folder() / "medium.toml").read_bytes()

VALUES = (
    b"0", b"-1", b"1", b"1.5", b"1e400", b"-1e400", b"nan", b"inf", b"-inf", b"9" * 30, b"9" * 5000, b"0x" + b"f" * 99,
    b"true", b"false", b"True", b'""', b'"x"', b"'x", b'"""', b"[]", b"[[]]", b"{}", b"{a = 1}", b"[1, 'a', {}]",
    b"2024-01-01", b"2024-01-01T00:00:00Z", b"12:00:00", b"[" * 3000, b"[" * 200 + b"]" * 200, b'"' + b"x" * 200_000 + b'"',
    b'"\\ud800"', b'"\\u0000"', b'"\\q"', "“x”".encode(), b"", b"=", b"None", b"null", b"1,5", b".5", b"5.", b"#", b"\x1b[31m",
    b'"\x07"', b"'a' 'b'", b"1_0", b"1__0", b'"~nobody/x"', b'"/dev/null"', b'"../../x"', b'["", ""]', b"[nan]", b"-0.0",
)  # fmt: skip


def value(text: bytes, chance: random.Random) -> bytes:
    """Another value for one of the keys."""
    lines = text.split(b"\n")
    places = [index for index, line in enumerate(lines) if re.match(rb"\w+ =", line)]
    place = chance.choice(places) if places else len(lines) - 1
    lines[place] = lines[place].partition(b"=")[0] + b"= " + chance.choice(VALUES)
    return b"\n".join(lines)


def byte(text: bytes, chance: random.Random) -> bytes:
    """Some bytes become others."""
    changed = bytearray(text)
    for _ in range(chance.randint(1, 5)):
        changed[chance.randrange(len(changed))] = chance.randrange(256)
    return bytes(changed)


def cut(text: bytes, chance: random.Random) -> bytes:
    """The file ends early, or in the middle of a line."""
    return text[: chance.randrange(len(text))]


def key(text: bytes, chance: random.Random) -> bytes:
    """A key that does not exist, is given twice, is dotted, quoted or in a table."""
    extra = (
        b"seed = 1\nseed = 2", b"sede = 1", b'"" = 1', b"'a b' = 1", b"a.b.c = 1", b"seed.x = 1", b"[mlx_grpo]\nseed = 1",
        b"[mlx_grpo]\nmodel_name = 3", b"[[mlx_grpo]]\nseed = 1", b"mlx_grpo = 3", b"mlx_grpo.seed = 'x'", b"[a]\n[a]",
        b"SEED = 1", "größe = 1".encode(), '"größe" = 1'.encode(), b"k" * 100_000 + b" = 1", b"lr = 1", b"max_completion_length = 'x'",
        b".".join([b"a"] * 2000) + b" = 1", b'"\\u0000" = 1', b'"\\u001b[31m" = 1', b"eval_steps = 1\neval_every_updates = 2",
    )  # fmt: skip
    return text + b"\n" + chance.choice(extra) + b"\n"


def encoding(text: bytes, chance: random.Random) -> bytes:
    """What editors save."""
    word = text.decode().replace("medium", "größer")
    made: tuple[Callable[[], bytes], ...] = (
        lambda: word.encode("latin-1", "replace"),
        lambda: word.encode("utf-16"),
        lambda: word.encode("utf-16-le"),
        lambda: word.encode("utf-32"),
        lambda: word.encode("utf-8-sig"),
        lambda: b"\xef\xbb\xbf\xef\xbb\xbf" + text,
        lambda: text.replace(b"\n", b"\r\n"),
        lambda: text.replace(b"\n", b"\r"),
        lambda: text.replace(b"\n", b"\r\n") + b"sede = 1\r\n",
        lambda: text.replace(b"e", b"\x00", 1),
        lambda: b"",
        lambda: b"\n\n# nothing\n",
        lambda: bytes(chance.randrange(256) for _ in range(500)),
        lambda: b"\x00" * 1000,
        lambda: "\u2028".encode().join(text.split(b"\n")),
    )
    return chance.choice(made)()


KINDS = (value, value, value, key, key, byte, cut, encoding)


def mutated(seed: int) -> bytes:
    chance = random.Random(seed)
    text = chance.choice(KINDS)(SOUND, chance)
    return chance.choice(KINDS[:5])(text, chance) if seed % 3 == 0 and text.count(b" = ") > 3 else text


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.chdir(tmp_path)
    names = [f"{seed}.toml" for seed in range(COUNT)]
    for seed, name in enumerate(names):
        Path(name).write_bytes(mutated(seed))
    return names


def lines_of(name: str) -> int:
    content = Path(name).read_bytes()
    return content.count(b"\n") + content.count(b"\r") + 1


def test_every_file_ends_in_a_verdict_with_its_place(files: list[str]) -> None:
    valid = 0
    for name in files:
        result = CliRunner().invoke(app, ["config", "validate", name, "--json"], prog_name="grpo")
        assert result.exit_code in (0, 2), (name, result.exception)
        assert result.stderr == ""
        (file,) = json.loads(result.stdout)["files"]
        assert (result.exit_code == 0) == file["valid"] == (not file["problems"])
        valid += file["valid"]
        for problem in file["problems"] + file["warnings"]:
            assert problem["cure"], (name, problem)
            assert len(problem["message"]) < 400, (name, problem["message"][:500])
            assert problem["trouble"] != "configuration", (name, problem)
            has_no_place = problem["message"].startswith("Config file is empty")
            assert has_no_place or problem["file"] == name, (name, problem)
            if problem["file"]:
                assert problem["line"] is not None, (name, problem)
                assert 1 <= problem["line"] <= lines_of(name), (name, problem)
    assert 10 < valid < 200


def test_every_file_is_told_to_people_without_a_traceback(files: list[str]) -> None:
    result = CliRunner().invoke(app, ["config", "validate", *files], prog_name="grpo")
    assert result.exit_code == 2
    verdicts = [line for line in result.stdout.splitlines() if line[:2] in ("✓ ", "✗ ")]
    assert len(verdicts) == COUNT
    assert "Traceback" not in result.stderr
    assert "\x1b" not in result.stderr + result.stdout
    assert "\x00" not in result.stderr + result.stdout


def test_a_process_ends_with_2_and_no_traceback(files: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "grpo_cli", "config", "validate", *files],
        capture_output=True,
        timeout=HANG,
        check=False,
        env={"PYTHONPATH": str(Path(__file__).parents[2]), "PATH": ""},
    )
    assert done.returncode == 2
    assert b"Traceback" not in done.stderr
    assert b"3.toml" in done.stdout
