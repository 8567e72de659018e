"""tokenizer.pkl has no checksum: what no training gives is refused by its structure."""

from pathlib import Path

import pytest

from grpo_cli.errors import ModelError
from grpo_cli.models.nanochat_fast import recover_merges
from grpo_cli.models.nanochat_tokenizer import SPECIAL_TOKENS, NanochatTokenizer
from tests.support.tokenizer_pickles import refusal, valid_state, write_pickle


@pytest.mark.parametrize("pattern", [r"\w+", r"\w+|\s+", r"\w*|\W+", r"\w+|\W+?|"])
def test_a_pattern_that_leaves_out_text_is_refused(tmp_path: Path, pattern: str) -> None:
    """tiktoken would drop the text, and panics on the patterns that match nothing."""
    folder = write_pickle(tmp_path, valid_state() | {"pat_str": pattern})
    if pattern.endswith("?|"):  # what could match nothing is never reached
        assert NanochatTokenizer.load(folder).encode("a b") == [97, 32, 98]
    else:
        assert refusal(folder) == "its pattern leaves out some text"


@pytest.mark.parametrize(
    "tokens, reason",
    [
        ([b"ab", b"abc"], ""),
        ([b"abc", b"ab"], "its token b'abc' cannot come from training"),
        ([b"ab", b"xyz"], "its token b'xyz' cannot come from training"),
        ([b"a\xc3", b"\xa9b"], ""),  # é, cut
        ([b"a\xc3", b"a\xc3b"], r"its token b'a\xc3b' cannot come from training"),
        (
            [b"\x80\x80", b"\x80\x80\x80", b"\x80\x80\x80\x80"],
            r"its token b'\x80\x80\x80\x80' cannot come from training",
        ),
        ([b"a" * (1 << 16)], "its tokens are too long"),
    ],
)
def test_tokens_that_no_training_gives(tmp_path: Path, tokens: list[bytes], reason: str) -> None:
    ranks = {bytes([byte]): byte for byte in range(256)} | {token: 256 + n for n, token in enumerate(tokens)}
    special = {name: len(ranks) + n for n, name in enumerate(SPECIAL_TOKENS)}
    folder = write_pickle(tmp_path, valid_state() | {"mergeable_ranks": ranks, "special_tokens": special})
    if reason:
        assert refusal(folder) == reason
    else:
        assert NanochatTokenizer.load(folder).vocab_size == len(ranks) + len(SPECIAL_TOKENS)


def test_ids_that_training_does_not_give(tmp_path: Path) -> None:
    special = valid_state()["special_tokens"]
    swapped = special | {"<|bos|>": special["<|user_start|>"], "<|user_start|>": special["<|bos|>"]}
    state = valid_state() | {"special_tokens": swapped}
    assert (
        refusal(write_pickle(tmp_path / "a", state)) == "its special tokens do not have the ids from 256 on"
    )
    gap = valid_state()["mergeable_ranks"] | {b"ab": 999}
    state = valid_state() | {"mergeable_ranks": gap}
    assert refusal(write_pickle(tmp_path / "b", state)) == "its ranks have gaps"


def test_a_token_that_other_merges_take_apart() -> None:
    ranks = {b"a": 0, b"b": 1, b"c": 2, b"d": 3, b"ab": 4, b"bc": 5, b"abcd": 6}  # ab, then c and d
    with pytest.raises(ModelError, match="the token b'abcd' is not a merge of two others"):
        recover_merges(ranks)
