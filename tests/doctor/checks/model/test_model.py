"""A model's files, each broken for real, and folders that mean harm."""

import json
import os
import random
import shlex
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from grpo_cli.doctor.checks.model.language import Reading, judged
from grpo_cli.doctor.findings import Finding
from grpo_cli.doctor.table import CHECKS
from grpo_cli.models.safetensors_header import Tensor, read_header
from grpo_cli.untrusted_json import DamagedFile
from tests.support.doctor_findings import TINY, Here, at, look, tiny_copy
from tests.support.model_damage import entry, rewritten, safetensors

WEIGHTS_BYTES = (TINY / "model.safetensors").stat().st_size
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 3471768\n"


def test_a_header_is_read(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(safetensors(entry(), b"12345678"))
    assert read_header(path) == {"w": Tensor("F32", (2,), 0, 8)}
    mx.save_safetensors(str(path), {"a": mx.zeros((3, 5), dtype=mx.bfloat16)})
    assert read_header(path) == {"a": Tensor("BF16", (3, 5), 0, 30)}


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "has 0 bytes, too few for a safetensors header"),
        (b"\x00" * 7, "has 7 bytes, too few for a safetensors header"),
        (POINTER.encode(), "is a Git LFS pointer: the weights themselves were never fetched"),
        (safetensors(b"{}", length=1 << 60), "is not a safetensors file: its first 8 bytes give a header of"),
        (safetensors(b"{}", length=50), "is cut off: its header alone has 50 bytes, the file 10"),
        (safetensors(b"{nonsense}"), "has a header that is not JSON"),
        (safetensors(b"\xff\xfe{}"), "has a header that is not JSON"),
        (safetensors(b"[" * 200_000), "has a header that is not JSON"),
        (safetensors(b"[1, 2]"), "has a header that is not a JSON object"),
        (safetensors(b'{"w": 3}'), 'has a header in which "w" is not a tensor'),
        (safetensors(entry(dtype="F99")), 'has a header in which "w" is not a tensor'),
        (safetensors(entry(shape=7)), 'has a header in which "w" is not a tensor'),
        (safetensors(entry(dtype=[])), 'has a header in which "w" is not a tensor'),
        (safetensors(entry(shape=[-2])), 'has a header with invalid sizes of "w"'),
        (safetensors(entry(shape=["2"])), 'has a header with invalid sizes of "w"'),
        (safetensors(entry(data_offsets=[0, 1 << 70])), 'has a header with invalid sizes of "w"'),
        (
            safetensors(entry(shape=[3])),
            'has a header in which "w" takes 8 bytes, which does not match its shape',
        ),
        (safetensors(entry(), b"1234567"), "is cut off: 76 of 77 bytes"),
        (safetensors(entry(), b"123456789"), "has bytes that belong to no tensor: 78 of 77 bytes"),
    ],
)
def test_what_is_no_header_is_told(tmp_path: Path, content: bytes, told: str) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    with pytest.raises(DamagedFile) as damage:
        read_header(path)
    assert str(damage.value).startswith(told)


def files(folder: Path) -> list[tuple[str, str]]:
    return [(f.severity, f.seen) for f in look(Here(model=str(folder)), "model-files")]


def test_a_whole_model_has_no_trouble() -> None:
    (finding,) = look(Here(model="tiny"), "model-files")
    assert (finding.severity, finding.seen) == ("ok", "nanochat: 1 file of weights, 26 tensors, 3.5 MB")
    assert finding.numbers["bytes"] == WEIGHTS_BYTES


def test_a_download_that_broke_off(tmp_path: Path) -> None:
    folder = tiny_copy(tmp_path / "models--owner--name" / "snapshots" / "abc")
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])
    finding = at(folder, "model-files")
    cut = f"model.safetensors is cut off: {WEIGHTS_BYTES - 1000:,} of {WEIGHTS_BYTES:,} bytes"
    assert (finding.severity, finding.seen) == ("error", cut)
    assert finding.commands == ("hf download owner/name model.safetensors --force-download",)
    others = look(Here(model=str(folder)), "model-weights", "model-values")
    assert {(f.severity, f.seen) for f in others} == {("skipped", f"{cut}: see model-files")}


def test_a_folder_without_weights(tmp_path: Path) -> None:
    folder = tiny_copy(tmp_path / "model", "model.safetensors")
    found = look(Here(model=str(folder)), "model-files", "model-weights", "model-values")
    assert [(f.severity, f.seen) for f in found] == [
        ("error", "model.safetensors is missing: the folder holds no weights"),
        ("skipped", "the folder holds no weights: see model-files"),
        ("skipped", "the folder holds no weights: see model-files"),
    ]


@pytest.mark.parametrize("tokenizer", ["tokenizer.pkl", "tokenizer.json"])
@pytest.mark.parametrize("content", [None, "{", "{}"])
def test_a_broken_config_is_one_error(tmp_path: Path, content: str | None, tokenizer: str) -> None:
    """Every other check of the model leaves it to `model-files`, or needs no config.json."""
    other = ({"tokenizer.pkl", "tokenizer.json"} - {tokenizer}).pop()
    folder = tiny_copy(tmp_path / "model", other, "config.json")
    if content is not None:
        (folder / "config.json").write_text(content)
    checks = [check.name for check in CHECKS if check.needs == "model" and not check.on_request]
    found = {finding.name: finding for finding in look(Here(model=str(folder)), *checks)}
    assert {name for name, f in found.items() if f.severity in ("error", "warning")} == {"model-files"}
    assert found["model-weights"].seen == "config.json cannot be used: see model-files"
    assert found["vocabulary"].severity == found["garbled-output"].severity == "skipped"


def test_a_file_outside_the_hub_s_cache_is_fetched_into_its_folder(tmp_path: Path) -> None:
    folder = tiny_copy(tmp_path / "a model", "config.json")
    finding = at(folder, "model-files")
    assert finding.seen == "config.json is missing"
    assert finding.commands == (f"hf download OWNER/NAME config.json --local-dir '{folder}'",)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("{", "config.json is not JSON: Expecting property name"),
        ("[" * 100_000, "config.json is not JSON: maximum recursion depth"),
        ("[]", "config.json is not a JSON object"),
        ("{}", "config.json names no `model_type`: it is not a model's configuration"),
        ('{"model_type": 3}', "config.json names no `model_type`: it is not a model's configuration"),
        (POINTER, "config.json is a Git LFS pointer: the file itself was never fetched"),
    ],
)
def test_a_config_that_is_none(tmp_path: Path, content: str, told: str) -> None:
    folder = tiny_copy(tmp_path / "model")
    (folder / "config.json").write_text(content)
    ((severity, seen),) = files(folder)
    assert severity == "error"
    assert seen.startswith(told)


def test_a_clone_without_lfs(tmp_path: Path) -> None:
    folder = tiny_copy(tmp_path / "model")
    for name in ("model.safetensors", "tokenizer.json"):
        (folder / name).write_text(POINTER)
    assert files(folder) == [
        ("error", "tokenizer.json is a Git LFS pointer: the file itself was never fetched"),
        ("error", "model.safetensors is a Git LFS pointer: the weights themselves were never fetched"),
    ]


def split(folder: Path) -> None:
    """The weights in two shards with an index."""
    arrays: Any = mx.load(str(folder / "model.safetensors"))
    mx.eval(arrays)
    (folder / "model.safetensors").unlink()
    places = {}
    for number, names in enumerate((sorted(arrays)[:13], sorted(arrays)[13:]), 1):
        shard = f"model-0000{number}-of-00002.safetensors"
        mx.save_safetensors(str(folder / shard), {name: arrays[name] for name in names})
        places |= dict.fromkeys(names, shard)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))


def test_shards_that_are_whole(tmp_path: Path) -> None:
    folder = tiny_copy(tmp_path / "model")
    split(folder)
    assert files(folder) == [("ok", "nanochat: 2 files of weights, 26 tensors, 3.5 MB")]


def test_a_shard_that_is_missing(tmp_path: Path) -> None:
    folder = tiny_copy(tmp_path / "model")
    split(folder)
    (folder / "model-00002-of-00002.safetensors").unlink()
    named = "model-00002-of-00002.safetensors is missing, and model.safetensors.index.json names it"
    assert files(folder) == [("error", named)]


def test_a_shard_of_another_model(tmp_path: Path) -> None:
    folder = tiny_copy(tmp_path / "model")
    split(folder)
    mx.save_safetensors(str(folder / "model-00002-of-00002.safetensors"), {"x": mx.zeros(2)})
    ((severity, seen),) = files(folder)
    assert severity == "error"
    assert seen.startswith("model-00002-of-00002.safetensors lacks transformer.h.")
    assert seen.endswith("and 10 more, which model.safetensors.index.json says it holds")


@pytest.mark.parametrize("index", [True, False])
def test_a_stale_shard(tmp_path: Path, index: bool) -> None:
    folder = tiny_copy(tmp_path / "model")
    if index:
        split(folder)
    mx.save_safetensors(str(folder / "model-old.safetensors"), {"lm_head.weight": mx.zeros((2, 2))})
    (finding,) = [f for f in look(Here(model=str(folder)), "model-files") if f.severity == "error"]
    if index:
        assert finding.seen == "model-old.safetensors is not in model.safetensors.index.json"
    else:
        assert finding.seen == "model.safetensors holds lm_head.weight, which model-old.safetensors holds too"
    assert finding.commands == (
        f"mv {folder / finding.numbers['file']} {folder / finding.numbers['file']}.aside",
    )


def test_an_index_that_is_none(tmp_path: Path) -> None:
    folder = tiny_copy(tmp_path / "model")
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {"a": 3}}')
    told = "model.safetensors.index.json has `weight_map.a` = 3: it must be a valid string"
    assert files(folder) == [("error", told)]


def test_weights_of_another_format(tmp_path: Path) -> None:
    folder = tiny_copy(tmp_path / "model", "model.safetensors")
    assert files(folder) == [("error", "model.safetensors is missing: the folder holds no weights")]
    (folder / "pytorch_model.bin").write_bytes(b"PK")
    finding = at(folder, "model-files")
    assert finding.seen == "no model*.safetensors, but pytorch_model.bin"
    assert finding.commands == ()  # a pickle, which no command reads
    (folder / "model_000650.pt").write_bytes(b"PK")
    finding = at(folder, "model-files")
    assert finding.seen == "no model*.safetensors, but model_000650.pt"
    assert finding.commands == (f"grpo convert {folder}",)


def test_a_folder_without_a_tokenizer(tmp_path: Path) -> None:
    folder = tiny_copy(tmp_path / "model", "tokenizer.json", "tokenizer.pkl")
    assert files(folder) == [("error", "tokenizer.json is missing, and tokenizer.pkl too")]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read(tmp_path: Path) -> None:
    folder = tiny_copy(tmp_path / "model")
    (folder / "model.safetensors").chmod(0)
    assert files(folder) == [("error", "model.safetensors cannot be read: Permission denied")]


ALL = ("model-files", "model-weights", "model-values", "garbled-output", "tokenizer", "vocabulary")
TEXTS = ("round-trip", "special-tokens", "end-tokens", "chat-template")


@pytest.mark.parametrize("seed", range(24))
def test_no_damage_makes_a_check_crash(tmp_path: Path, seed: int) -> None:
    """A file of the folder with bytes exchanged, cut out or put in: findings, never a traceback."""
    dice = random.Random(seed)
    folder = tiny_copy(tmp_path / "model", *(["tokenizer.pkl"] if seed % 2 else []))
    path = folder / dice.choice(sorted(child.name for child in folder.iterdir()))
    content = bytearray(path.read_bytes())
    at_byte = dice.randrange(min(len(content), 3000))
    content[at_byte : at_byte + dice.randrange(1, 40)] = dice.randbytes(dice.randrange(40))
    path.write_bytes(content)
    found: list[Finding] = look(Here(model=str(folder)), *ALL, *TEXTS)
    assert {finding.severity for finding in found} <= {"ok", "warning", "error", "skipped"}
    assert len(found) >= len(ALL) + len(TEXTS)
    assert all(finding.cure and finding.commands for finding in found if finding.severity == "error")


ODD = "my model; touch x"


def words(finding: Finding) -> list[list[str]]:
    """A finding's commands as a shell takes them apart."""
    return [shlex.split(command) for command in finding.commands]


@pytest.mark.parametrize(
    "file", ["config.json", "model.safetensors", "tokenizer.pkl", "tokenizer_config.json"]
)
def test_commands_for_a_damaged_file_are_safe_to_paste(tmp_path: Path, file: str) -> None:
    folder = tiny_copy(tmp_path / ODD)
    (folder / file).write_bytes(b"{")
    found = [f for f in look(Here(model=str(folder)), *ALL, *TEXTS) if f.severity == "error"]
    again = ["hf", "download", "OWNER/NAME", file, "--local-dir", str(folder)]
    assert again in [line for finding in found for line in words(finding)]
    assert all(line[-1] == str(folder) for finding in found for line in words(finding))


def test_commands_for_odd_weights_are_safe_to_paste(tmp_path: Path) -> None:
    folder = tiny_copy(tmp_path / ODD)
    mx.save_safetensors(str(folder / "model-x y.safetensors"), {"lm_head.weight": mx.zeros((2, 2))})
    (stale,) = [f for f in look(Here(model=str(folder)), "model-files") if f.severity == "error"]
    path = str(folder / stale.numbers["file"])
    assert words(stale) == [["mv", path, f"{path}.aside"]]

    other = tiny_copy(tmp_path / f"2 {ODD}", "model.safetensors")
    (other / "model_000650.pt").write_bytes(b"PK")
    assert words(at(other, "model-files")) == [["grpo", "convert", str(other)]]

    def change(arrays: Any) -> None:
        arrays["lm_head.weight"][40] = 0.0

    zero = at(rewritten(tiny_copy(tmp_path / f"3 {ODD}"), change), "model-values")
    assert words(zero) == [["grpo", "doctor", "--model", f"{tmp_path}/3 {ODD}", "--only", "garbled-output"]]

    garbage = judged(Here(model=str(folder)), Reading(70000.0, 65536), "x")
    look_first = ["grpo", "doctor", "--only", "tokenizer", "--only", "model-values", "--model", str(folder)]
    assert words(garbage) == [
        look_first, ["hf", "download", "OWNER/NAME", "tokenizer.pkl", "--local-dir", str(folder)],
    ]  # fmt: skip


def test_values_of_the_wrong_kind_in_config(tmp_path: Path) -> None:
    folder = tiny_copy(tmp_path / "model")
    whole = json.loads((folder / "config.json").read_text())
    for key, value in ((key, value) for key in whole for value in (None, [], {"a": 1}, -1, 1 << 70, "x")):
        (folder / "config.json").write_text(json.dumps({**whole, key: value}))
        look(Here(model=str(folder)), *ALL, *TEXTS)


def test_a_model_of_nothing(tmp_path: Path) -> None:
    found = look(Here(model=str(tmp_path)), *ALL, *TEXTS)
    assert [finding.severity for finding in found if finding.name == "model-files"] == ["error"] * 3
