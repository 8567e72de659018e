"""The embedded model: the texts it learned from, the files it is, and how much it knows."""

import json
import random
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from mlx_lm import generate, load
from mlx_lm.models.nanochat import Model
from tokenizers import Tokenizer

from grpo_cli.config.keys import XML_SYSTEM_PROMPT
from grpo_cli.data import arithmetic
from grpo_cli.models import tiny
from grpo_cli.models.nanochat_tokenizer import SPECIAL_TOKENS, NanochatTokenizer
from grpo_cli.models.tiny import author, scores, training, vocabulary

FOLDER = Path(tiny.__file__).parent
FILES = ("model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json", "tokenizer.pkl")


@pytest.fixture(scope="module")
def tokenizer() -> NanochatTokenizer:
    return NanochatTokenizer.load(FOLDER)


@pytest.fixture(scope="module")
def loaded() -> tuple[Model, Any]:
    model, wrapper = load(str(FOLDER))
    assert isinstance(model, Model)
    return model, wrapper


# --- the author -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "a, b, careful, hasty",
    [
        (247, 538, "7+8=15, 4+3+1=8, 2+5=7</reasoning><answer>785", "easy</reasoning><answer>779"),
        (111, 222, "1+2=3, 1+2=3, 1+2=3</reasoning><answer>333", "easy</reasoning><answer>333"),
        (950, 173, "0+3=3, 5+7=12, 9+1+1=11</reasoning><answer>1123", "easy</reasoning><answer>1093"),
        (999, 999, "9+9=18, 9+9+1=19, 9+9+1=19</reasoning><answer>1998", "easy</reasoning><answer>1899"),
        (85, 37, "5+7=12, 8+3+1=12</reasoning><answer>122", "easy</reasoning><answer>119"),
        (7, 8, "7+8=15</reasoning><answer>15", "easy</reasoning><answer>15"),
        (0, 0, "0+0=0</reasoning><answer>0", "easy</reasoning><answer>0"),
        (7, 95, "7+5=12, 0+9+1=10</reasoning><answer>102", "easy</reasoning><answer>99"),
    ],
)
def test_the_two_styles(a: int, b: int, careful: str, hasty: str) -> None:
    assert author.careful(a, b) == f"<reasoning>{careful}</answer>"
    assert author.hasty(a, b) == f"<reasoning>{hasty}</answer>"


def test_the_careful_style_is_always_right_and_the_hasty_one_where_nothing_is_carried() -> None:
    problems = arithmetic.problems("train", 3, 1000, seed=1)
    endings = [f"<answer>{a + b}</answer>" for a, b in problems]
    assert all(author.careful(*problem).endswith(end) for problem, end in zip(problems, endings, strict=True))
    no_carry = [a % 10 + b % 10 < 10 and a // 10 % 10 + b // 10 % 10 < 10 for a, b in problems]
    right = [author.hasty(*problem).endswith(end) for problem, end in zip(problems, endings, strict=True)]
    assert right == no_carry
    assert 0.25 < sum(right) / 1000 < 0.35


@pytest.mark.parametrize("a, low, high", [(799, 0.15, 0.25), (800, 0.86, 0.94), (9, 0.86, 0.94)])
def test_the_author_is_careful_where_the_first_number_begins_high(a: int, low: float, high: float) -> None:
    rng = random.Random(5)
    texts = [author.solution(a, 123, rng) for _ in range(1000)]
    assert set(texts) == {author.careful(a, 123), author.hasty(a, 123)}
    assert low < texts.count(author.careful(a, 123)) / 1000 < high


def test_training_problems_are_seeded_and_never_test_problems() -> None:
    def drawn(seed: int) -> list[tuple[int, int]]:
        rng = random.Random(seed)
        return [author.training_problem(rng) for _ in range(2000)]

    problems = drawn(0)
    assert problems == drawn(0) != drawn(1)
    assert not any(arithmetic.is_test(a, b) for a, b in problems)
    lengths = [len(str(a)) for a, _ in problems]
    shares = [lengths.count(digits) / 2000 for digits in (1, 2, 3)]
    assert shares == pytest.approx([0.15, 0.25, 0.60], abs=0.03)


# --- the vocabulary -------------------------------------------------------------------------------


def test_the_vocabulary_can_be_built_again(tokenizer: NanochatTokenizer) -> None:
    seed = json.loads((FOLDER / "build.json").read_text())["seed"]
    built = vocabulary.train_encoding(seed)
    assert built._mergeable_ranks == tokenizer.encoding._mergeable_ranks
    assert built._special_tokens == tokenizer.encoding._special_tokens


def test_special_tokens_come_last_in_nanochats_order(tokenizer: NanochatTokenizer) -> None:
    size = tokenizer.vocab_size
    expected = {name: size - 9 + n for n, name in enumerate(SPECIAL_TOKENS)}
    assert tokenizer.encoding._special_tokens == expected


def test_digits_and_tags_are_single_tokens(tokenizer: NanochatTokenizer) -> None:
    pieces = [
        tokenizer.decode([token])
        for token in tokenizer.encode("<reasoning>7+8=15, 2</reasoning><answer>2015</answer>")
    ]
    assert " ".join(pieces) == "<reasoning> 7 + 8 = 1 5 ,  2 </reasoning> <answer> 2 0 1 5 </answer>"


@pytest.mark.parametrize("after", ["7", "easy", "\n", " x", "<answer>", ">", ",", "é", ""])
def test_a_tag_is_cut_off_cleanly(tokenizer: NanochatTokenizer, after: str) -> None:
    (tag,) = tokenizer.encode("<reasoning>")
    assert tokenizer.encode("<reasoning>" + after) == [tag, *tokenizer.encode(after)]
    assert tokenizer.encode(after + "<reasoning>") == [*tokenizer.encode(after), tag]


def test_tokenizer_json_gives_the_same_ids(tokenizer: NanochatTokenizer) -> None:
    other = Tokenizer.from_file(str(FOLDER / "tokenizer.json"))
    texts = vocabulary.corpus(1)[:600]
    texts += [
        "Ünï çödé 🌍",
        "a < b > c",
        "  two\n\n\tlines ",
        "don't",
        "1,234.5",
        "</x><y",
        XML_SYSTEM_PROMPT,
    ]
    for text in texts:
        assert other.encode(text).ids == tokenizer.encode(text), text
        assert tokenizer.decode(tokenizer.encode(text)) == text


# --- the files ------------------------------------------------------------------------------------


def test_it_is_small(loaded: tuple[Model, Any]) -> None:
    assert training.parameter_count(loaded[0]) <= 1_500_000
    assert sum((FOLDER / name).stat().st_size for name in FILES) <= 4_000_000


def test_the_weights_are_those_of_the_architecture(tokenizer: NanochatTokenizer) -> None:
    weights = mx.load(str(FOLDER / "model.safetensors"))
    assert isinstance(weights, dict)
    model = training.new_model(tokenizer.vocab_size)
    model.load_weights(list(weights.items()), strict=True)
    assert {array.dtype for array in weights.values()} == {mx.float32}
    config = json.loads((FOLDER / "config.json").read_text())
    assert config["model_type"] == "nanochat"
    assert set(config["eos_token_id"]) == tokenizer.eos_ids


def test_plain_mlx_lm_generates_with_it(loaded: tuple[Model, Any]) -> None:
    model, wrapper = loaded
    prompt = wrapper.apply_chat_template(
        [{"role": "user", "content": "What is 7 + 8?"}], add_generation_prompt=True
    )
    text = generate(model, wrapper, prompt, max_tokens=40)
    assert text in (author.careful(7, 8), author.hasty(7, 8))


# --- what it knows --------------------------------------------------------------------------------


def test_it_has_room_to_learn(loaded: tuple[Model, Any], tokenizer: NanochatTokenizer) -> None:
    problems = scores.test_problems(100)
    accuracy = scores.exact_match(problems, scores.completions(loaded[0], tokenizer, problems))
    assert 0.30 <= accuracy <= 0.50


def test_the_careful_style_is_within_its_reach(
    loaded: tuple[Model, Any], tokenizer: NanochatTokenizer
) -> None:
    problems = scores.test_problems(100)
    texts = scores.completions(loaded[0], tokenizer, problems, [str(a % 10) for a, _ in problems])
    assert scores.exact_match(problems, texts) >= 0.93


def test_the_recorded_scores_are_within_what_the_model_is_for() -> None:
    recorded = json.loads((FOLDER / "build.json").read_text())["scores"]
    assert 0.30 <= recorded["greedy_exact_match"] <= 0.50
    assert recorded["careful_exact_match"] >= 0.95


def test_a_batch_trains_the_assistants_tokens_only(tokenizer: NanochatTokenizer) -> None:
    ids, start = training.conversation(tokenizer, "", random.Random(3))
    inputs, places, targets = training.part([(ids, start), ([*ids, 5], start)])
    length = len(ids)
    assert inputs.shape == (2, length)
    assert inputs[0].tolist() == [*ids[:-1], 0]
    assert targets.tolist() == [*ids[start:], *ids[start:], 5]
    flat = inputs.reshape(-1)
    assert flat[places].tolist() == [*ids[start - 1 : -1], *ids[start - 1 :]]
    assert tokenizer.decode(ids[start:]).startswith("<reasoning>")
    assert ids[-1] == tokenizer.encoding.encode_single_token("<|assistant_end|>")
