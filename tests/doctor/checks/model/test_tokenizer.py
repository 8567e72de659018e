"""Tokenizers that are damaged, another model's, or lack what a conversation needs; each made for real."""

import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from tokenizers.decoders import WordPiece

from grpo_cli.models.adapters import LoRA, add_adapters, save_adapters
from tests.support.doctor_findings import Here, at, fast_copy, look, seen, tiny_copy
from tests.support.nanochat_checkpoints import FIXTURES

SUBJECT = ("tokenizer", "vocabulary", "round-trip", "special-tokens", "end-tokens", "chat-template")


def test_a_healthy_tokenizer() -> None:
    assert [seen(finding) for finding in look(Here(model="tiny"), *SUBJECT)] == [
        ("ok", "nanochat's tokenizer.pkl, read as data: 316 tokens"),
        ("ok", "316 tokens, 316 rows of the model"),
        ("ok", "21 tricky texts come back unchanged"),
        (
            "ok",
            "9 tokens, one id each (<|bos|> 307, <|user_start|> 308, <|user_end|> 309, …); "
            "typed by a user they stay text",
        ),
        ("ok", "<|bos|> 307, <|assistant_end|> 311"),
        ("ok", "system and user become 25 ids, ending with '<|assistant_start|>'"),
    ]


def test_a_healthy_tokenizer_of_hugging_face(tmp_path: Path) -> None:
    folder = fast_copy(tmp_path / "model")
    found = look(Here(model=str(folder)), *SUBJECT)
    assert [finding.severity for finding in found] == ["ok"] * 6
    assert found[0].seen == "tokenizer.json: 316 tokens"
    assert found[5].seen.endswith("ending with '<|assistant_start|>'")


# --- files --------------------------------------------------------------------------------------------


def test_a_damaged_pickle(tmp_path: Path) -> None:
    folder = tiny_copy(tmp_path / "models--owner--name" / "snapshots" / "abc")
    path = folder / "tokenizer.pkl"
    path.write_bytes(path.read_bytes()[:-100])
    first, *others = look(Here(model=str(folder)), *SUBJECT)
    assert first.severity == "error"
    assert first.seen.startswith(f"Failed to load tiktoken tokenizer: {path}: ")
    assert first.cure == (
        "download only tokenizer.pkl again, from the same model: another tokenizer gives garbled text"
    )
    assert first.commands == ("hf download owner/name tokenizer.pkl --force-download",)
    assert {seen(finding) for finding in others} == {("skipped", "the tokenizer does not load")}


class Evil:
    """Its pickle writes a file when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (Path.touch, (self.path,))


def test_nothing_in_a_pickle_is_run(tmp_path: Path) -> None:
    folder, mark = tiny_copy(tmp_path / "model"), tmp_path / "was run"
    (folder / "tokenizer.pkl").write_bytes(pickle.dumps(Evil(mark)))
    finding = at(folder, "tokenizer")
    assert finding.severity == "error"
    assert finding.seen.startswith("Failed to load tiktoken tokenizer:")
    assert not mark.exists()


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"model": {"type": "BPE"}}', '{"model": 3}'])
def test_a_damaged_tokenizer_json(tmp_path: Path, content: str) -> None:
    folder = fast_copy(tmp_path / "model")
    (folder / "tokenizer.json").write_text(content)
    finding = at(folder, "tokenizer")
    assert finding.severity == "error"
    assert finding.seen.startswith(f"The tokenizer in {folder} cannot be loaded: ")
    assert finding.commands == (f"hf download OWNER/NAME tokenizer.json --local-dir {folder}",)


def test_adapters_have_the_tokenizer_of_their_base(tmp_path: Path) -> None:
    folder = tmp_path / "final"
    folder.mkdir()
    from grpo_cli.models.load import load_policy

    base = tiny_copy(tmp_path / "base")
    model = load_policy(str(base)).model
    add_adapters(model, LoRA(rank=2))
    save_adapters(model, LoRA(rank=2), str(base), folder)
    assert at(folder, "tokenizer").seen == "nanochat's tokenizer.pkl, read as data: 316 tokens"
    shutil.rmtree(base)
    finding = at(folder, "tokenizer")
    assert (finding.name, finding.severity) == ("model-not-found", "error")
    assert finding.seen == f"Model not found: {base}: the adapters in {folder} were trained on it"


# --- vocabulary ---------------------------------------------------------------------------------------


def test_a_larger_tokenizer_than_the_model(tmp_path: Path) -> None:
    folder = tiny_copy(tmp_path / "model")
    shutil.copyfile(FIXTURES / "tokenizer.pkl", folder / "tokenizer.pkl")
    finding = at(folder, "vocabulary")
    assert seen(finding) == ("error", "1,000 tokens, the model only 316 rows")
    assert finding.numbers == {"tokens": 1000, "rows": 316}


def test_a_smaller_tokenizer_of_nanochat(tmp_path: Path) -> None:
    """nanochat's is never smaller than the model; the weights have rows to spare, so only the count tells."""
    folder = tiny_copy(tmp_path / "model")
    arrays: Any = mx.load(str(folder / "model.safetensors"))
    arrays |= {name: mx.zeros((1200, 128)) for name in ("transformer.wte.weight", "lm_head.weight")}
    mx.eval(arrays)
    mx.save_safetensors(str(folder / "model.safetensors"), arrays)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "vocab_size": 1200}))
    assert seen(at(folder, "vocabulary")) == ("error", "316 tokens, the model 1200")


def test_fewer_tokens_than_rows_are_usual_elsewhere(tmp_path: Path) -> None:
    folder = fast_copy(tmp_path / "model")
    mx.save_safetensors(str(folder / "model.safetensors"), {"embed_tokens.weight": mx.zeros((320, 2))})
    assert seen(at(folder, "vocabulary")) == ("ok", "316 tokens, 320 rows of the model (4 rows to spare)")


def test_a_far_smaller_tokenizer_than_the_model(tmp_path: Path) -> None:
    """Another model's: its end tokens and template are no cure for anything."""
    folder = fast_copy(tmp_path / "model", eos_token="<|bos|>")
    mx.save_safetensors(str(folder / "model.safetensors"), {"embed_tokens.weight": mx.zeros((49_152, 2))})
    finding = at(folder, "vocabulary")
    assert seen(finding) == ("warning", "316 tokens, but the model has 49,152 rows")
    assert finding.commands == (f"hf download OWNER/NAME tokenizer.json --local-dir {folder}",)
    assert seen(at(folder, "end-tokens")) == (
        "skipped",
        "the tokenizer belongs to another model: see vocabulary",
    )


@pytest.mark.parametrize("content", [None, "{", "{}", '{"vocab_size": 316}'])
def test_a_vocabulary_without_a_config(tmp_path: Path, content: str | None) -> None:
    folder = tiny_copy(tmp_path / "model", "config.json")
    if content is not None:
        (folder / "config.json").write_text(content)
    told = "316 tokens; config.json cannot be used: see model-files"
    assert seen(at(folder, "vocabulary")) == ("skipped", told)


@pytest.mark.parametrize(
    ("layers", "width", "repository"),
    [
        (20, 1280, "sdobson/nanochat"),
        (32, 2048, "karpathy/nanochat-d32"),
        (34, 2176, "karpathy/nanochat-d34"),
    ],
)
def test_nanochat_models_have_65536_tokens(tmp_path: Path, layers: int, width: int, repository: str) -> None:
    """Told by layers and width, whatever config.json says of the vocabulary."""
    folder = tiny_copy(tmp_path / "model", "model.safetensors")
    config = json.loads((folder / "config.json").read_text())
    config |= {"num_hidden_layers": layers, "hidden_size": width}
    (folder / "config.json").write_text(json.dumps(config))
    finding = at(folder, "vocabulary")
    assert seen(finding) == ("error", f"316 tokens; nanochat-d{layers} has 65,536")
    assert finding.commands == (f"hf download {repository} tokenizer.pkl --local-dir {folder}",)


# --- there and back -----------------------------------------------------------------------------------


def words_only(content: dict[str, Any]) -> None:
    """A tokenizer that knows no capital letters: they come back small."""
    content["normalizer"] = {"type": "Lowercase"}


def composed(content: dict[str, Any]) -> None:
    """A tokenizer that composes accents, as Qwen's does."""
    content["normalizer"] = {"type": "NFC"}


def test_accents_that_are_composed_are_no_loss(tmp_path: Path) -> None:
    finding = at(fast_copy(tmp_path / "model", composed), "round-trip")
    assert seen(finding) == (
        "ok",
        "20 of 21 tricky texts come back unchanged, the rest normalized: white space, accents or special "
        "tokens' spellings",
    )
    assert finding.numbers == {"texts": 21, "changed": 1, "lost": 0}


def test_letters_that_are_lost_are_told(tmp_path: Path) -> None:
    finding = at(fast_copy(tmp_path / "model", words_only), "round-trip")
    assert finding.severity == "warning"
    assert finding.seen.endswith("lose plain letters; 'Hello, world!' comes back as 'hello, world!' "
                                 "(character 0 of 'Hello, world!'…)")  # fmt: skip
    assert finding.numbers["lost"] >= 5


def test_a_tokenizer_of_few_words(tmp_path: Path) -> None:
    """A made-up vocabulary of two words: everything else becomes its token for the unknown."""
    folder = fast_copy(tmp_path / "model")
    made = Tokenizer(models.WordLevel({"Hello": 0, "world": 1, "?": 2}, unk_token="?"))
    made.normalizer, made.pre_tokenizer = normalizers.NFC(), pre_tokenizers.Whitespace()
    made.decoder = WordPiece()
    made.save(str(folder / "tokenizer.json"))
    finding = at(folder, "round-trip")
    assert finding.severity == "warning"
    assert finding.numbers["lost"] > 10
