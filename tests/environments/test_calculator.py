"""The calculator's token machine on streams of tokens, and on rows that nanochat's own engine sampled."""

import json
from collections import deque
from pathlib import Path
from random import Random
from typing import Any

import pytest

from grpo_cli.environments.calculator import Calculator
from grpo_cli.models.nanochat_tokenizer import NanochatTokenizer

EMBEDDED = Path(__file__).parents[1] / "fixtures" / "nanochat"
GENUINE = Path(__file__).parents[2] / "../shared/fixtures/nanochat"
needs_genuine = pytest.mark.skipif(not GENUINE.exists(), reason="needs ../shared/fixtures/nanochat")
FOLDERS = [
    pytest.param(EMBEDDED, id="embedded"),
    pytest.param(GENUINE / "head-sft-small", marks=needs_genuine, id="head-sft-small"),
    pytest.param(GENUINE / "oct2025-small", marks=needs_genuine, id="oct2025-small"),
]

S, E = "<|python_start|>", "<|python_end|>"
O, C = "<|output_start|>", "<|output_end|>"  # noqa: E741

# What is sampled, and the whole row with what is forced; forced parts stand between guillemets.
STREAMS = [
    ("no block at all", "no block at all"),
    (f"so {S}12/60{E} dollars", f"so {S}12/60{E}«{O}0.2{C}» dollars"),
    (f"{S}1,000*3{E}", f"{S}1,000*3{E}«{O}3000{C}»"),
    (f"{S}5-5{E}", f"{S}5-5{E}«{O}0{C}»"),
    (f"{S} 2 + 2 {E}", f"{S} 2 + 2 {E}«{O}4{C}»"),
    (f"{S}'strawberry'.count('r'){E}.", f"{S}'strawberry'.count('r'){E}«{O}3{C}»."),
    (f"{S}'.count('.strip('.count('){E}x", f"{S}'.count('.strip('.count('){E}«{O}{C}»x"),  # an empty text
    (f"{S}...{E}", f"{S}...{E}«{O}Ellipsis{C}»"),
    (f"{S}not 'a'.count('a'){E}", f"{S}not 'a'.count('a'){E}«{O}False{C}»"),
    # No result: nothing is forced.
    (f"{S}1/0{E} hm", f"{S}1/0{E} hm"),
    (f"{S}2**3{E}8", f"{S}2**3{E}8"),
    (f"{S}x+1{E}", f"{S}x+1{E}"),
    (f"{S} {E}", f"{S} {E}"),
    (f"{S}1+1\n{E}", f"{S}1+1\n{E}"),
    (f"{S}1\n+1{E}", f"{S}1\n+1{E}"),
    # An empty block, an end without a start, an end after an end.
    (f"{S}{E}1", f"{S}{E}1"),
    (f"1+1{E}2", f"1+1{E}2"),
    (E, E),
    (f"{E}{S}1+1{E}", f"{E}{S}1+1{E}«{O}2{C}»"),
    (f"{S}1+1{E}{E}3", f"{S}1+1{E}«{O}2{C}»{E}3"),
    (f"{S}1/0{E}1+1{E}", f"{S}1/0{E}1+1{E}"),
    # A start within a block begins it anew.
    (f"{S}9{S}1+1{E}", f"{S}9{S}1+1{E}«{O}2{C}»"),
    (f"{S}{S}4{E}", f"{S}{S}4{E}«{O}4{C}»"),
    (f"{S}9{S}{E}9{E}", f"{S}9{S}{E}9{E}"),
    # A block that is never closed.
    (f"{S}1+1", f"{S}1+1"),
    (S, S),
    # Several blocks.
    (f"{S}1+1{E} {S}2+2{E}", f"{S}1+1{E}«{O}2{C}» {S}2+2{E}«{O}4{C}»"),
    (f"{S}1+1{E}{S}2+2{E}", f"{S}1+1{E}«{O}2{C}»{S}2+2{E}«{O}4{C}»"),
    (f"{S}1/0{E}{S}2+2{E}", f"{S}1/0{E}{S}2+2{E}«{O}4{C}»"),
    # Other special tokens inside a block belong to the expression, which then has no result.
    (f"{S}1{O}1{E}", f"{S}1{O}1{E}"),
    (f"{S}{O}1+1{C}{E}", f"{S}{O}1+1{C}{E}"),
    (f"{S}1+1<|user_start|>{E}", f"{S}1+1<|user_start|>{E}"),
    (f"{S}1+1<|assistant_end|>{E}", f"{S}1+1<|assistant_end|>{E}"),
    (f"{S}1+1<|bos|>", f"{S}1+1<|bos|>"),
    # Outside a block they do nothing; a sampled output is read like any text.
    (f"{O}1+1{C}{S}6/4{E}", f"{O}1+1{C}{S}6/4{E}«{O}1.5{C}»"),
    (f"{S}1+1<|assistant_end|>", f"{S}1+1<|assistant_end|>"),
]


@pytest.fixture(scope="module", params=FOLDERS)
def tokenizer(request: pytest.FixtureRequest) -> NanochatTokenizer:
    return NanochatTokenizer.load(request.param)


def ids(tokenizer: NanochatTokenizer, text: str) -> list[int]:
    """Ids of a text in which spelled-out special tokens are special."""
    return tokenizer.encoding.encode(text, allowed_special="all")


def play(calculator: Calculator, sampled: list[int]) -> tuple[list[int], list[int]]:
    """The row and its mask, when these tokens are sampled wherever none is forced."""
    ahead, forced = deque(sampled), deque[int]()
    row, mask = [], []
    while ahead or forced:
        mask.append(0 if forced else 1)
        row.append(forced.popleft() if forced else ahead.popleft())
        forced.extend(calculator.read(row[-1]))
    return row, mask


def row_and_mask(tokenizer: NanochatTokenizer, expected: str) -> tuple[list[int], list[int]]:
    """The ids of a whole row, and its mask: 0 for what stands between guillemets."""
    row, mask = [], []
    for place, part in enumerate(expected.replace("»", "«").split("«")):
        row += ids(tokenizer, part)
        mask += [1 - place % 2] * len(ids(tokenizer, part))
    return row, mask


@pytest.mark.parametrize(("sampled", "expected"), STREAMS)
def test_streams(tokenizer: NanochatTokenizer, sampled: str, expected: str) -> None:
    expectation = row_and_mask(tokenizer, expected)
    assert play(Calculator(tokenizer), ids(tokenizer, sampled)) == expectation


def is_closed(stream: str) -> bool:
    """True if a stream leaves no block open, so that another one may follow it."""
    return stream.rfind(E) >= stream.rfind(S)


def test_two_hundred_generated_streams(tokenizer: NanochatTokenizer) -> None:
    """Two to eight of the streams above, one after the other and the last perhaps left open: the results of
    each are those that it has alone.
    """
    random = Random(0)
    closed = [pair for pair in STREAMS if is_closed(pair[0])]
    seen = set()
    for _ in range(200):
        chosen = [*random.choices(closed, k=random.randint(1, 7)), random.choice(STREAMS)]
        sampled: list[int] = []
        row: list[int] = []
        mask: list[int] = []
        for stream, expected in chosen:
            sampled += ids(tokenizer, stream)
            more, trained = row_and_mask(tokenizer, expected)
            row, mask = row + more, mask + trained
        assert play(Calculator(tokenizer), sampled) == (row, mask)
        seen.add(tuple(sampled))
    assert len(seen) == 200


def test_a_special_token_that_is_spelled_out_in_a_text_opens_no_block(tokenizer: NanochatTokenizer) -> None:
    plain = tokenizer.encode(f"{S}1+1{E}")
    assert play(Calculator(tokenizer), plain) == (plain, [1] * len(plain))


def test_the_tokens_of_an_expression_are_decoded_together(tokenizer: NanochatTokenizer) -> None:
    one_by_one = [*ids(tokenizer, S), *(tokenizer.encode(c)[0] for c in "120*2"), *ids(tokenizer, E)]
    row, _ = play(Calculator(tokenizer), one_by_one)
    assert row == [*one_by_one, *ids(tokenizer, f"{O}240{C}")]


def test_a_block_that_is_not_utf8_has_no_result(tokenizer: NanochatTokenizer) -> None:
    half = [*ids(tokenizer, S), tokenizer.encoding.encode_single_token(b"\xc3"), *ids(tokenizer, E)]
    assert play(Calculator(tokenizer), half)[0] == half


def test_calculators_of_two_rollouts_are_independent(tokenizer: NanochatTokenizer) -> None:
    one, other = Calculator(tokenizer), Calculator(tokenizer)
    for token_id in ids(tokenizer, f"{S}1+1"):
        one.read(token_id)
    [end] = ids(tokenizer, E)
    assert other.read(end) == []
    assert one.read(end) == ids(tokenizer, f"{O}2{C}")


def greedy() -> list[Any]:
    """The completions that nanochat's engine sampled greedily, with its masks."""
    if not GENUINE.exists():
        return []
    paths = sorted(GENUINE.glob("*/greedy.json"))
    return [
        pytest.param(path.parent, case, id=f"{path.parent.name}-{name}")
        for path in paths
        for name, case in json.loads(path.read_text(encoding="utf-8"))["prompts"].items()
    ]


@needs_genuine
@pytest.mark.parametrize(("folder", "case"), greedy())
def test_rows_of_nanochats_engine(folder: Path, case: dict[str, Any]) -> None:
    row, mask = case["engine_greedy_ids"], case["engine_mask"]
    sampled = [token_id for token_id, is_sampled in zip(row, mask, strict=True) if is_sampled]
    played, its_mask = play(Calculator(NanochatTokenizer.load(folder)), sampled)
    assert (played[: len(row)], its_mask[: len(row)]) == (row, mask)


@needs_genuine
def test_the_rows_of_nanochats_engine_hold_forced_tokens() -> None:
    forced = [case.values[1]["engine_mask"].count(0) for case in greedy()]
    assert sum(count > 0 for count in forced) == 2
