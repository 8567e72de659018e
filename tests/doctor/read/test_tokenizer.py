"""A tokenizer's texts, by hand."""

import pytest

from grpo_cli.doctor.read.tokenizer import letters, too_few, where_it_differs


@pytest.mark.parametrize(
    ("tokens", "rows", "expected"),
    [
        (151_665, 151_936, False),  # Qwen2.5-0.5B
        (151_665, 152_064, False),  # Qwen2.5-7B
        (65_536, 65_536, False),  # nanochat
        (50_295, 51_200, False),  # phi-2
        (100_002, 102_400, False),  # DeepSeek-V2
        (1000, 2024, False),
        (1000, 2025, True),
        (95_000, 100_000, False),
        (94_999, 100_000, True),
        (319, 49_152, True),  # SmolLM2 with a tokenizer of few letters
        (319, None, False),
    ],
)
def test_what_is_more_than_padding(tokens: int, rows: int | None, expected: bool) -> None:
    assert too_few(tokens, rows) is expected


def test_letters_are_what_is_visible_and_plain() -> None:
    assert letters(" Ab\t1\n é½</s>", ["</s>"]) == "Ab112"  # ½ is 1⁄2 when composed anew
    assert where_it_differs("abcdef", "abXdef") == "'cdef' comes back as 'Xdef' (character 2 of 'abcdef'…)"
    assert where_it_differs("abc", "ab") == "'c' comes back as '' (character 2 of 'abc'…)"
