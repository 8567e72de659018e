"""Every check of verify.py sees the damage that it is there for, and says so; sound models pass it."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from grpo_cli.convert import compare, verify
from grpo_cli.convert.errors import ConversionError
from grpo_cli.convert.options import CheckResult, no_progress
from grpo_cli.errors import ModelError
from grpo_cli.models.classes import load_weights
from grpo_cli.models.find import TINY
from grpo_cli.models.nanochat_tokenizer import NanochatTokenizer
from grpo_cli.words import plural
from tests.support.damaged_conversions import configure, converted_model, damaged

LAST = "lm_head.weight"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return converted_model(tmp_path_factory.mktemp("sound"), "october")


# --- strict load -------------------------------------------------------------------------------------


def test_a_sound_model_loads(model: Path) -> None:
    seen = "20 tensors, names and shapes match nanochat"
    assert verify.verify_load(model) == CheckResult("strict load", True, seen)


@pytest.mark.parametrize(
    ("change", "seen"),
    [
        (lambda arrays: arrays.pop(LAST), "Missing 1 parameters: \nlm_head.weight."),
        (
            lambda arrays: arrays.update(bigram=mx.zeros(3)),
            "Received 1 parameters not in model: \nbigram.",
        ),
        (
            lambda arrays: arrays.update({LAST: arrays[LAST].T}),
            "Expected shape (1000, 32) but received shape (32, 1000) for parameter lm_head.weight",
        ),
    ],
    ids=["missing", "extra", "transposed"],
)
def test_a_model_that_does_not_load(model: Path, change: Any, seen: str, tmp_path: Path) -> None:
    assert verify.verify_load(damaged(model, tmp_path / "bad", change)) == CheckResult(
        "strict load", False, seen
    )


def test_a_folder_without_weights_or_with_another_config_does_not_load(model: Path, tmp_path: Path) -> None:
    other = damaged(model, tmp_path / "other", lambda _: None)
    configure(other, num_hidden_layers=2)
    check = verify.verify_load(other)
    assert not check.passed
    assert check.seen.startswith("Received 6 parameters not in model: \ntransformer.h.2.attn.c_k.weight,")
    (other / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="holds no weights"):
        verify.verify_load(other)


# --- numbers -----------------------------------------------------------------------------------------


def test_finite_numbers_are_counted(model: Path) -> None:
    told: list[tuple[str, int, int]] = []
    check = verify.verify_numbers(model, lambda *step: told.append(step))
    assert check == CheckResult("finite", True, "97,792 numbers, none NaN or infinite")
    size = (model / "model.safetensors").stat().st_size
    assert [step for step in told if step[0] != "checking" or step[2] != size] == []
    assert len(told) == 20
    assert told[0][1] == 0
    assert told[-1][1] == 4 * 97_792 - 4 * 32_000  # all but the last one: transformer.wte.weight


@pytest.mark.parametrize("value", [mx.nan, mx.inf, -mx.inf])
def test_numbers_that_are_not_finite(model: Path, value: float, tmp_path: Path) -> None:
    def change(arrays: dict[str, mx.array]) -> None:
        arrays[LAST][999, 31] = value

    bad = damaged(model, tmp_path / "bad", change)
    seen = "NaN or infinite numbers in lm_head.weight"
    assert verify.verify_numbers(bad, no_progress) == CheckResult("finite", False, seen)


def test_three_broken_tensors_are_named(model: Path, tmp_path: Path) -> None:
    bad = damaged(
        model, tmp_path / "bad", lambda found: found.update({n: a * mx.nan for n, a in found.items()})
    )
    seen = "NaN or infinite numbers in lm_head.weight, "
    seen += "transformer.h.0.attn.c_k.weight, transformer.h.0.attn.c_proj.weight"
    assert verify.verify_numbers(bad, no_progress) == CheckResult("finite", False, seen)


def test_every_file_and_every_piece_is_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compare, "NUMBERS_AT_ONCE", 4)
    mx.save_safetensors(str(tmp_path / "model-00001.safetensors"), {"ids": mx.arange(3)})  # no number of ours
    mx.save_safetensors(str(tmp_path / "model-00002.safetensors"), {"a": mx.ones((3, 3)), "b": mx.ones(2)})
    seen = "11 numbers, none NaN or infinite"
    assert verify.verify_numbers(tmp_path, no_progress) == CheckResult("finite", True, seen)
    for place in range(9):
        array = mx.where(mx.arange(9) == place, mx.nan, 1.0).reshape(3, 3)
        mx.save_safetensors(str(tmp_path / "model-00002.safetensors"), {"a": array, "b": mx.ones(2)})
        seen = "NaN or infinite numbers in a"
        assert verify.verify_numbers(tmp_path, no_progress) == CheckResult("finite", False, seen)


# --- tokenizer ---------------------------------------------------------------------------------------


def test_a_sound_tokenizer(model: Path) -> None:
    seen = "21 tricky texts to the original's ids and back"
    assert verify.verify_nanochat_tokenizer(model, 1000) == CheckResult("tokenizer", True, seen)


def test_a_model_with_more_rows_than_tokens(model: Path) -> None:
    seen = "1000 and 1000 tokens, the model has 1024"
    assert verify.verify_nanochat_tokenizer(model, 1024) == CheckResult("tokenizer", False, seen)


def test_the_tokenizer_of_another_vocabulary(model: Path, tmp_path: Path) -> None:
    bad = damaged(model, tmp_path / "bad", lambda _: None)
    shutil.copyfile(TINY / "tokenizer.json", bad / "tokenizer.json")
    seen = "1000 and 316 tokens, the model has 1000"
    assert verify.verify_nanochat_tokenizer(bad, 1000) == CheckResult("tokenizer", False, seen)


def test_a_vocabulary_of_the_same_size_with_two_tokens_swapped(model: Path, tmp_path: Path) -> None:
    bad = damaged(model, tmp_path / "bad", lambda _: None)
    content = json.loads((bad / "tokenizer.json").read_text())
    vocab = content["model"]["vocab"]
    vocab["H"], vocab["J"] = vocab["J"], vocab["H"]
    (bad / "tokenizer.json").write_text(json.dumps(content))
    rest = "302, 354, 44, 308, 264, 108, 100]"
    seen = f"different ids for 'Hello, world!': [74, {rest}, not [72, {rest}"
    assert verify.verify_nanochat_tokenizer(bad, 1000) == CheckResult("tokenizer", False, seen)


def points(text: str) -> list[int]:
    return list(map(ord, text))


def text_of(ids: list[int]) -> str:
    return "".join(map(chr, ids))


def test_tokenizers_that_agree() -> None:
    seen = "21 tricky texts to the original's ids"
    assert verify.compare_tokenizers(points, points, None) == CheckResult("tokenizer", True, seen)
    assert verify.compare_tokenizers(points, points, text_of) == CheckResult(
        "tokenizer", True, f"{seen} and back"
    )


@pytest.mark.parametrize("text", verify.TRICKY_TEXTS)
def test_other_ids_for_one_text(text: str) -> None:
    def converted(given: str) -> list[int]:
        return [7, *points(given)] if given == text else points(given)

    check = verify.compare_tokenizers(points, converted, text_of)
    seen = f"different ids for {text!r}: {[7, *points(text)][:8]}, not {points(text)[:8]}"
    assert check == CheckResult("tokenizer", False, seen)


@pytest.mark.parametrize("text", verify.TRICKY_TEXTS)
def test_a_text_that_does_not_come_back(text: str) -> None:
    def decode(ids: list[int]) -> str:
        return text_of(ids) + "." if ids == points(text) else text_of(ids)

    check = verify.compare_tokenizers(points, points, decode)
    assert check == CheckResult("tokenizer", False, f"{text!r} comes back as {text + '.'!r}")


# --- generation --------------------------------------------------------------------------------------


def greedy(model: Path, count: int) -> tuple[NanochatTokenizer, list[int], list[int]]:
    """The tokenizer, bos and the prompt, and the ids that continue it, computed plainly."""
    tokenizer, whole = NanochatTokenizer.load(model), load_weights(model)[0]
    prompt = [991, *tokenizer.encode("The capital of France is")]
    ids = list(prompt)
    for _ in range(count):
        ids.append(whole(mx.array([ids]))[0, -1].argmax().item())
    return tokenizer, prompt, ids[len(prompt) :]


def test_a_sound_model_continues_the_sentence(model: Path) -> None:
    tokenizer, _, said = greedy(model, 8)
    assert not tokenizer.eos_ids & {*said}
    told: list[tuple[str, int, int]] = []
    check = verify.verify_generation(model, tokenizer, [991], lambda *step: told.append(step))
    assert check == CheckResult(
        "generation", True, f"“The capital of France is” → “{tokenizer.decode(said)}”"
    )
    assert told == [("generating", done, 8) for done in range(8)]


def test_logits_that_are_nan(model: Path, tmp_path: Path) -> None:
    bad = damaged(model, tmp_path / "bad", lambda arrays: arrays.update({LAST: arrays[LAST] * mx.nan}))
    check = verify.verify_generation(bad, NanochatTokenizer.load(model), [991], no_progress)
    assert check == CheckResult("generation", False, "the logits after 0 tokens are NaN")


@pytest.mark.parametrize("count", [1, 3])
def test_one_logit_that_is_nan_later(model: Path, count: int, tmp_path: Path) -> None:
    """The embedding of one token that is said is NaN."""
    tokenizer, prompt, said = greedy(model, count)
    assert said[-1] not in [*prompt, *said[:-1]]

    def change(arrays: dict[str, mx.array]) -> None:
        arrays["transformer.wte.weight"][said[-1], 0] = mx.nan

    bad = damaged(model, tmp_path / "bad", change)
    check = verify.verify_generation(bad, tokenizer, [991], no_progress)
    assert check == CheckResult("generation", False, f"the logits after {plural(count, 'token')} are NaN")


def test_a_model_may_end_at_once(model: Path) -> None:
    tokenizer, _, (first, second) = greedy(model, 2)

    class Ending(NanochatTokenizer):
        eos_ids = frozenset([first])

    ending = Ending(tokenizer.encoding)
    seen = "“The capital of France is” → “the end, at once”"
    assert verify.verify_generation(model, ending, [991], no_progress) == CheckResult(
        "generation", True, seen
    )
    ending.eos_ids = frozenset([second])
    seen = f"“The capital of France is” → “{tokenizer.decode([first])}”"
    assert verify.verify_generation(model, ending, [991], no_progress) == CheckResult(
        "generation", True, seen
    )


def test_streamed_logits_are_the_models(model: Path) -> None:
    expected = load_weights(model)[0](mx.array([[991, 5, 7]]))[0, -1]
    assert mx.abs(verify.streamed_logits(model, [991, 5, 7]) - expected).max().item() < 1e-5


# --- all of them -------------------------------------------------------------------------------------


def cache_limit() -> int:
    """MLX's cache limit: there is no way but to set another one."""
    limit = mx.set_cache_limit(0)
    mx.set_cache_limit(limit)
    return limit


def some_checks(made: list[tuple[str, int]], *passed: bool) -> Iterator[CheckResult]:
    """Checks that note their name and the cache limit at the time when they are made."""
    for name, passes in zip("abc", passed, strict=False):
        made.append((name, cache_limit()))
        yield CheckResult(name, passes, f"{name} was seen")


@pytest.fixture
def limit() -> Iterator[int]:
    before = mx.set_cache_limit(123_456_789)
    yield 123_456_789
    mx.set_cache_limit(before)


def test_what_passes_every_check_is_approved(limit: int) -> None:
    made: list[tuple[str, int]] = []
    told: list[CheckResult] = []
    verify.approve(some_checks(made, True, True, True), told.append)
    assert made == [("a", 0), ("b", 0), ("c", 0)]
    assert told == [CheckResult(name, True, f"{name} was seen") for name in "abc"]
    assert cache_limit() == limit


def test_the_first_check_that_fails_is_the_last_one_made(limit: int) -> None:
    made: list[tuple[str, int]] = []
    told: list[CheckResult] = []
    with pytest.raises(ConversionError) as error:
        verify.approve(some_checks(made, True, False, True), told.append)
    assert made == [("a", 0), ("b", 0)]
    assert told == [CheckResult("a", True, "a was seen"), CheckResult("b", False, "b was seen")]
    assert error.value.message == ("Failed to convert model: the result failed a check (b: b was seen)")
    assert error.value.hint == (
        "nothing was kept; run it again: if it fails again, the source is damaged or its format is not "
        "known: `--no-verify` keeps the result for inspection"
    )
    assert cache_limit() == limit
