"""Completions cut at their tokens: dropped spaces, characters of several tokens, control tokens."""

import math

import pytest

from grpo_cli.report.tokens import ALPHABET, LONGEST, NOT_SAMPLED, level_of, packed, packed_tokens, pieces_of


@pytest.mark.parametrize(
    ("text", "tokens", "pieces"),
    [
        ("ab c", ["a", "b", " c"], ["a", "b", " c"]),
        ("the cat", ["the", "cat", "<|end|>"], ["the", " cat", ""]),  # SentencePiece drops the space
        ("é!", ["\ufffd", "\ufffd", "!"], ["", "é", "!"]),
        ("a é", ["a", " \ufffd", "\ufffd"], ["a", "", " é"]),  # a character at the end
        ("<tool>5", ["<tool>", "<|role|>", "5"], ["<tool>", "", "5"]),
        ("", ["<|end|>"], [""]),
    ],
)
def test_each_token_has_its_part_of_the_text(text: str, tokens: list[str], pieces: list[str]) -> None:
    assert pieces_of(text, tokens) == pieces
    assert "".join(pieces) == text


def test_tokens_of_another_text_are_refused() -> None:
    assert pieces_of("a quite different text", ["x", "y"]) is None


def test_logprobs_in_tenths_of_a_nat() -> None:
    assert [level_of(value) for value in (0.0, -0.05, -0.5, -100.0, math.nan, 0.3)] == [
        0, 0, 5, NOT_SAMPLED - 1, NOT_SAMPLED - 1, 0,
    ]  # fmt: skip


def test_lengths_and_levels_are_packed() -> None:
    line = {
        "completion": "<x>ab", "tokens_list": ["a", "b"], "logprobs": [-0.1, -1.0], "loss_mask": [1, 0],
    }  # fmt: skip
    assert packed_tokens(line, "<x>", 100) == ("311", f"{ALPHABET[-1]}1{ALPHABET[-1]}")  # prefix, a, b
    assert packed_tokens(line, "", 100) == ("41", f"1{ALPHABET[-1]}")
    assert packed_tokens({**line, "logprobs": [-0.1]}, "", 100) is None
    assert packed_tokens({**line, "tokens_list": []}, "", 100) is None


def test_what_is_shown_counts() -> None:
    assert packed([("\u202e", 1), ("abc", 2)], longest=3) == ("62", "12")  # \\u202e has 6 characters
    long = LONGEST + 3
    assert packed([("x" * long, 4)], longest=1000) == (ALPHABET[LONGEST] + "3", "44")


def test_the_alphabet_needs_no_escape() -> None:
    assert len(set(ALPHABET)) == len(ALPHABET) and not set(ALPHABET) & set("<>&\"'\\ ")
