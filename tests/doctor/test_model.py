"""A model's files, weights and numbers, each broken for real; and the perplexity that tells garbage."""

import json
import math
import os
import random
import shlex
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from grpo_cli.config.schema import Config
from grpo_cli.convert.options import Options
from grpo_cli.convert.run import convert
from grpo_cli.doctor.checks import CHECKS
from grpo_cli.doctor.findings import Finding
from grpo_cli.doctor.headers import DamagedFile, Tensor, read_header
from grpo_cli.doctor.language import PROMPT, Reading, bytes_loaded, judged, perplexity
from grpo_cli.doctor.model_folder import repository_of
from grpo_cli.doctor.needs import needed
from grpo_cli.doctor.quantisation import Row, recommendation, smallest, told
from tests.convert.checkpoints import GENUINE, write_checkpoint
from tests.doctor.looking import TINY, Here, at, look, tiny_copy

WEIGHTS_BYTES = (TINY / "model.safetensors").stat().st_size
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 3471768\n"


def safetensors(header: bytes, data: bytes = b"", length: int | None = None) -> bytes:
    return (len(header) if length is None else length).to_bytes(8, "little") + header + data


def entry(**changes: Any) -> bytes:
    return json.dumps({"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8], **changes}}).encode()


def rewritten(folder: Path, change: Any) -> Path:
    """The folder with its weights changed: `change(arrays)` edits the table."""
    arrays: Any = mx.load(str(folder / "model.safetensors"))
    mx.eval(arrays)
    change(arrays)
    mx.save_safetensors(str(folder / "model.safetensors"), arrays)
    return folder


def edit_json(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


# --- headers ------------------------------------------------------------------------------------------


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
        (safetensors(b"{}", length=1 << 60), "is no safetensors file: its first 8 bytes give a header of"),
        (safetensors(b"{}", length=50), "is cut off: its header alone has 50 bytes, the file 10"),
        (safetensors(b"{nonsense}"), "has a header that is not JSON"),
        (safetensors(b"\xff\xfe{}"), "has a header that is not JSON"),
        (safetensors(b"[" * 200_000), "has a header that is not JSON"),
        (safetensors(b"[1, 2]"), "has a header that is not a JSON object"),
        (safetensors(b'{"w": 3}'), "has a header in which 'w' is no tensor"),
        (safetensors(entry(dtype="F99")), "has a header in which 'w' is no tensor"),
        (safetensors(entry(shape=7)), "has a header in which 'w' is no tensor"),
        (safetensors(entry(dtype=[])), "has a header in which 'w' is no tensor"),
        (safetensors(entry(shape=[-2])), "has a header with sizes of 'w' that are none"),
        (safetensors(entry(shape=["2"])), "has a header with sizes of 'w' that are none"),
        (safetensors(entry(data_offsets=[0, 1 << 70])), "has a header with sizes of 'w' that are none"),
        (safetensors(entry(shape=[3])), "has a header in which 'w' takes 8 bytes, not what its shape does"),
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


# --- files --------------------------------------------------------------------------------------------


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
    told = "model.safetensors.index.json has no `weight_map` of names and files"
    assert files(folder) == [("error", told)]


def test_weights_of_another_format(tmp_path: Path) -> None:
    folder = tiny_copy(tmp_path / "model", "model.safetensors")
    assert files(folder) == [("error", "model.safetensors is missing: the folder holds no weights")]
    (folder / "pytorch_model.bin").write_bytes(b"PK")
    finding = at(folder, "model-files")
    assert finding.seen == "no model*.safetensors, but pytorch_model.bin"
    assert finding.commands == (f"grpo convert {folder}",)


def test_a_folder_without_a_tokenizer(tmp_path: Path) -> None:
    folder = tiny_copy(tmp_path / "model", "tokenizer.json", "tokenizer.pkl")
    assert files(folder) == [("error", "tokenizer.json is missing, and tokenizer.pkl too")]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read(tmp_path: Path) -> None:
    folder = tiny_copy(tmp_path / "model")
    (folder / "model.safetensors").chmod(0)
    assert files(folder) == [("error", "model.safetensors Permission denied")]


# --- weights ------------------------------------------------------------------------------------------


def test_weights_that_fit() -> None:
    (finding,) = look(Here(model="tiny"), "model-weights")
    told = "26 tensors, 867,328 numbers in F32: names and shapes as nanochat has them"
    assert (finding.severity, finding.seen) == ("ok", told)


def drop(arrays: Any) -> None:
    del arrays["lm_head.weight"]


def add(arrays: Any) -> None:
    arrays["transformer.h.9.extra"] = mx.zeros(3)


def reshape(arrays: Any) -> None:
    arrays["lm_head.weight"] = mx.zeros((7, 128))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (drop, "Missing 1 parameters: lm_head.weight"),
        (add, "Received 1 parameters not in model: transformer.h.9.extra"),
        (reshape, "Expected shape (316, 128) but received shape (7, 128) for parameter lm_head.weight"),
    ],
)
def test_weights_that_do_not_fit_are_named(tmp_path: Path, change: Any, told: str) -> None:
    finding = at(rewritten(tiny_copy(tmp_path / "model"), change), "model-weights")
    assert finding.severity == "error"
    assert told in finding.seen


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"num_hidden_layers": 10**9}, "config.json has 1,000,000,000 layers, the weights only 26 tensors"),
        ({"num_attention_heads": 0}, "ZeroDivisionError"),
        ({"hidden_size": "wide"}, "do not fit its config.json"),
        ({"model_type": "../../evil"}, "do not fit its config.json: Model type"),
    ],
)
def test_a_config_that_makes_no_model(tmp_path: Path, changes: Any, told: str) -> None:
    folder = tiny_copy(tmp_path / "model")
    edit_json(folder / "config.json", **changes)
    finding = at(folder, "model-weights")
    assert finding.severity == "error"
    assert told in finding.seen


# --- numbers ------------------------------------------------------------------------------------------


def test_numbers_that_are_all_numbers() -> None:
    (finding,) = look(Here(model="tiny"), "model-values")
    assert (finding.severity, finding.seen) == ("ok", "867,328 numbers, none NaN or infinite")


@pytest.mark.parametrize("number", [math.nan, math.inf])
def test_a_weight_that_is_no_number_is_named(tmp_path: Path, number: float) -> None:
    def change(arrays: Any) -> None:
        arrays["transformer.h.2.mlp.c_fc.weight"][3, 4] = number

    finding = at(rewritten(tiny_copy(tmp_path / "model"), change), "model-values")
    told = "NaN or infinite numbers in transformer.h.2.mlp.c_fc.weight"
    assert (finding.severity, finding.seen) == ("error", told)


def test_rows_of_zeros_of_tokens_that_text_becomes(tmp_path: Path) -> None:
    def change(arrays: Any) -> None:
        arrays["transformer.wte.weight"][5] = 0.0
        arrays["transformer.wte.weight"][9] = 0.0

    finding = at(rewritten(tiny_copy(tmp_path / "model"), change), "model-values")
    told = "transformer.wte.weight: 2 token ids have a row of zeros (5, 9)"
    assert (finding.severity, finding.seen) == ("warning", told)


def test_rows_of_zeros_that_no_text_uses_are_fine(tmp_path: Path) -> None:
    """The current nanochat rounds 1,000 tokens up to 1,024 rows; id 315 is a special token of tiny's."""

    def change(arrays: Any) -> None:
        arrays["lm_head.weight"][315] = 0.0
        for name in ("transformer.wte.weight", "lm_head.weight"):
            arrays[name] = mx.concatenate([arrays[name], mx.zeros((4, 128))])

    finding = at(rewritten(tiny_copy(tmp_path / "model"), change), "model-values")
    told = f"{867_328 + 2 * 4 * 128:,} numbers, none NaN or infinite; 9 zero rows that no text uses"
    assert (finding.severity, finding.seen) == ("ok", told)


# --- language -----------------------------------------------------------------------------------------


def constant(logits: list[float]) -> Any:
    """A model that gives every position the same logits."""
    return lambda tokens: mx.broadcast_to(mx.array(logits), (*tokens.shape, len(logits)))


def test_uniform_logits_have_the_vocabulary_s_perplexity() -> None:
    assert perplexity(constant([0.0] * 50), [1, 2, 3, 4]) == pytest.approx(50, rel=1e-5)


def test_perplexity_by_hand() -> None:
    """p = 1/2, 1/4, 1/4; the ids after the first are 0, 0, 1: (1/2 · 1/2 · 1/4)^(-1/3) = 16^(1/3)."""
    model = constant([math.log(2), 0.0, 0.0])
    assert perplexity(model, [2, 0, 0, 1]) == pytest.approx(16 ** (1 / 3), rel=1e-5)


@pytest.mark.parametrize(
    ("measured", "verdict"),
    [
        (15.0, "language"),  # SmolLM2-135M-Instruct
        (70.1, "language"),  # at 3 bits
        (620.1, "unlikely"),  # its words shuffled
        (2432.7, "unlikely"),  # another, smaller vocabulary
        (13926.2, "unlikely"),  # ids shifted by one
        (72272.4, "guessing"),  # untrained
        (384045.8, "guessing"),  # ids permuted
        (math.inf, "guessing"),
        (math.nan, "guessing"),
    ],
)
def test_the_verdict_on_what_was_measured(measured: float, verdict: str) -> None:
    assert Reading(measured, 49152).verdict == verdict


def test_what_is_told_of_garbage(tmp_path: Path) -> None:
    folder = tiny_copy(tmp_path / "model")
    case = Here(model=str(folder))
    said = "M don yourty\nyoust insOifissty"
    finding = judged(case, Reading(70000.0, 65536), said)
    assert finding.severity == "error"
    assert finding.seen == (
        "perplexity 70,000.0 on plain English (guessing: 65,536); "
        f"“{PROMPT}” → “M don yourty youst insOifissty”"
    )
    assert finding.commands == (
        f"grpo doctor --only tokenizer --only model-values --model {folder}",
        f"hf download OWNER/NAME tokenizer.pkl --local-dir {folder}",
    )
    assert judged(case, Reading(2000.0, 65536), said).severity == "warning"
    assert judged(case, Reading(20.0, 65536), said).severity == "ok"


def test_a_vocabulary_of_no_language_is_not_judged() -> None:
    (finding,) = look(Here(model="tiny"), "garbled-output")
    told = "316 tokens are no vocabulary of a language: nothing to compare with"
    assert (finding.severity, finding.seen) == ("skipped", told)


def converted(source: Path, output: Path) -> Path:
    return convert(str(source), Options(output=output, verify=False)).output


def test_random_weights_are_garbage_for_real(tmp_path: Path) -> None:
    finding = at(converted(write_checkpoint(tmp_path / "source"), tmp_path / "model"), "garbled-output")
    assert finding.severity == "error"
    assert finding.numbers["vocabulary"] == 1000
    assert finding.numbers["perplexity"] > 1000


@pytest.mark.skipif(not GENUINE.exists(), reason="nanochat's own checkpoints are not at hand")
def test_a_genuine_model_with_its_own_and_with_another_tokenizer(tmp_path: Path) -> None:
    """What it reads is language; where its ids mean other tokens, it is not."""
    folder = converted(GENUINE / "oct2025-small", tmp_path / "model")
    right = at(folder, "garbled-output")
    assert right.severity == "ok"
    assert right.numbers["perplexity"] == pytest.approx(100.8, abs=0.5)
    order = mx.array(random.Random(0).sample(range(1000), 1000))

    def change(arrays: Any) -> None:
        for name in ("transformer.wte.weight", "lm_head.weight"):
            arrays[name] = arrays[name][order]

    wrong = at(rewritten(folder, change), "garbled-output")
    assert wrong.severity == "error"
    assert wrong.numbers["perplexity"] > 5000


def test_a_model_without_room_is_not_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = converted(write_checkpoint(tmp_path / "source"), tmp_path / "model")
    monkeypatch.setattr("grpo_cli.device.memory_budget", lambda _: 1000)
    finding = at(folder, "garbled-output")
    told = "its weights take 0.0 GB of memory, and 0.0 are free"
    assert (finding.severity, finding.seen) == ("skipped", told)


def test_bytes_of_weights_that_are_unpacked(tmp_path: Path) -> None:
    """8 × 4 packed words of 4 bits are 8 × 32 numbers of 4 bytes; the scales 8 × 1 become float32 too."""
    arrays = {"w.weight": mx.zeros((8, 4), dtype=mx.uint32), "w.scales": mx.zeros((8, 1), dtype=mx.float16)}
    mx.save_safetensors(str(tmp_path / "model.safetensors"), arrays)
    (tmp_path / "config.json").write_text('{"quantization": {"bits": 4, "group_size": 32}}')
    case = Here(model=str(tmp_path))
    assert bytes_loaded(case, upcast=True) == 8 * 32 * 4 + 8 * 4
    assert bytes_loaded(case, upcast=False) == 8 * 4 * 4 + 8 * 2


def test_training_takes_as_many_bytes_of_weights_that_are_unpacked(tmp_path: Path) -> None:
    """4 bits and groups of 32: scales and biases are numbers already, and not 8 of them in a word."""
    arrays = {
        "model.layers.0.w.weight": mx.zeros((8, 4), dtype=mx.uint32),
        "model.layers.0.w.scales": mx.zeros((8, 1), dtype=mx.float16),
        "model.layers.0.w.biases": mx.zeros((8, 1), dtype=mx.float16),
    }
    mx.save_safetensors(str(tmp_path / "model.safetensors"), arrays)
    shape = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 1, "vocab_size": 10}
    facts = {"quantization": {"bits": 4}, "intermediate_size": 64, "model_type": "llama", **shape}
    (tmp_path / "config.json").write_text(json.dumps(facts))
    needs = needed(Config(model_name=str(tmp_path)), tmp_path, on_cpu=True)
    assert needs is not None
    assert needs.weights == 4 * (8 * 32 + 8 + 8) == bytes_loaded(Here(model=str(tmp_path)), upcast=True)


# --- quantisation -------------------------------------------------------------------------------------

PLAIN = Row(0, 538.1, 94.0, 15.04, 1.0, 0.375)
ROWS = [
    PLAIN,
    Row(8, 143.0, 97.0, 15.05, 0.99, 0.375),
    Row(6, 109.4, 96.0, 15.46, 0.97, 0.34375),
    Row(4, 75.8, 95.0, 18.74, 0.85, 0.375),
    Row(2, 42.1, 93.0, 1240033.1, 0.02, 0.0),
]


def test_the_fewest_bits_that_are_as_good() -> None:
    assert smallest(ROWS) == 6
    assert smallest([PLAIN, Row(8, 1, 1, 15.0, 1.0, 0.25)]) is None  # 4 of 32 answers lost
    without = [Row(0, 1, 1, None, 1.0, None), Row(8, 1, 1, None, 0.95, None), Row(4, 1, 1, None, 0.89, None)]
    assert smallest(without) == 8


def test_the_table_as_it_is_told() -> None:
    assert told(ROWS[:3], in_float32=True).splitlines() == [
        "group size 64",
        "bits         MB  tokens/s  perplexity  same tokens  accuracy",
        "as is     538.1        94        15.0            –       38%",
        "8         143.0        97        15.1          99%       38%",
        "6         109.4        96        15.5          97%       34%",
        "this CPU computes in float32 whatever the bits: they save disk here, not time or memory",
        "the fewest bits as good as the weights: 6 (perplexity within 10% and at most 1 of 32 answers lost): "
        "`grpo convert … --quantize --bits 6`",
    ]


def test_where_no_bits_are_good_enough() -> None:
    assert recommendation([PLAIN, ROWS[4]]) == (
        "no number of bits is as good as the weights "
        "(perplexity within 10% and at most 1 of 32 answers lost): leave them as they are"
    )


def test_the_embedded_model_by_bits() -> None:
    """128-wide float32 layers: 26 tensors of 867,328 numbers, all quantisable at group size 64."""
    case = Here(model="tiny", config_name="smoke_test", overrides=("eval_max_new_tokens=8",))
    (finding,) = look(case, "quantisation")
    rows = finding.numbers["rows"]
    assert [row["bits"] for row in rows] == [0, 8, 6, 4, 3, 2]
    # bits a number, and a scale and a bias of 32 bits each for 64 numbers; tiny holds float32
    sizes = [867_328 * (bits / 8 + 8 / 64) / 1e6 for bits in (8, 6, 4, 3, 2)]
    assert [row["megabytes"] for row in rows] == pytest.approx([WEIGHTS_BYTES / 1e6, *sizes])
    assert rows[1]["same_tokens"] > 0.97 > rows[5]["same_tokens"]
    assert all(row["tokens_per_second"] > 0 and row["perplexity"] is None for row in rows)
    assert all(row["accuracy"] in [count / 32 for count in range(33)] for row in rows)
    assert finding.severity == "ok"


# --- hostile folders ----------------------------------------------------------------------------------

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
    (other / "pytorch_model.bin").write_bytes(b"PK")
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


@pytest.mark.parametrize("name", ["x; rm -rf ~", "-x/y", "a/b c", "a/$(b)", "gone", "outputs/gone/final"])
def test_only_a_repository_s_name_is_downloaded(tmp_path: Path, name: str) -> None:
    folder = tiny_copy(tmp_path / ODD, "tokenizer.pkl")
    case = Here(model=name)
    expected = name if name == "gone" else None
    assert repository_of(case, folder) == expected


def test_values_of_the_wrong_kind_in_config(tmp_path: Path) -> None:
    folder = tiny_copy(tmp_path / "model")
    whole = json.loads((folder / "config.json").read_text())
    for key, value in ((key, value) for key in whole for value in (None, [], {"a": 1}, -1, 1 << 70, "x")):
        (folder / "config.json").write_text(json.dumps({**whole, key: value}))
        look(Here(model=str(folder)), *ALL, *TEXTS)


def test_a_model_of_nothing(tmp_path: Path) -> None:
    found = look(Here(model=str(tmp_path)), *ALL, *TEXTS)
    assert [finding.severity for finding in found if finding.name == "model-files"] == ["error"] * 3
