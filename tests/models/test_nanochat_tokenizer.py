"""The tokenizer against ids that nanochat's own code computed (fixtures/nanochat, MIT licensed)."""

import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer

from grpo_cli.errors import ModelError
from grpo_cli.models.nanochat_fast import recover_merges
from grpo_cli.models.nanochat_tokenizer import SPECIAL_TOKENS, NanochatTokenizer
from tests.support.tokenizer_pickles import refusal, valid_state, write_pickle

FIXTURES = Path(__file__).parents[1] / "fixtures" / "nanochat"
VARIANTS = Path(__file__).parents[2] / "../shared/fixtures/nanochat/variants"
needs_variants = pytest.mark.skipif(
    not VARIANTS.exists(), reason="needs ../shared/fixtures/nanochat/variants"
)


@pytest.fixture(scope="module")
def tokenizer() -> NanochatTokenizer:
    return NanochatTokenizer.load(FIXTURES)


def recorded(name: str) -> Any:
    return json.loads((FIXTURES / name).read_text(encoding="utf-8"))


# --- ids ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", recorded("tokens.json")["texts"], ids=lambda case: repr(case["text"])[:30])
def test_text_gives_nanochats_ids_and_comes_back(tokenizer: NanochatTokenizer, case: dict[str, Any]) -> None:
    assert tokenizer.encode(case["text"]) == case["ids"]
    assert tokenizer.decode(case["ids"]) == case["decoded"]


@pytest.mark.parametrize(
    "case",
    [case for case in recorded("conversations.json") if case["completion_ids"]],
    ids=lambda case: str(len(case["ids"])),
)
def test_a_prompt_is_nanochats_render_for_completion(
    tokenizer: NanochatTokenizer, case: dict[str, Any]
) -> None:
    before_the_last = case["conversation"]["messages"][:-1]  # as render_for_completion does
    assert tokenizer.encode_prompt(before_the_last) == case["completion_ids"]


@pytest.mark.parametrize("case", recorded("conversations.json"), ids=lambda case: str(len(case["ids"])))
def test_a_conversation_is_nanochats_render_conversation(
    tokenizer: NanochatTokenizer, case: dict[str, Any]
) -> None:
    ids, mask = tokenizer.render(case["conversation"]["messages"])
    assert (ids, mask) == (case["ids"], case["mask"])
    assert {"ids": ids[:5], "mask": mask[:5]} == case["max_tokens_5"]


@pytest.mark.parametrize(
    ("message", "words"),
    [
        ({"role": "user", "content": [{"type": "text", "text": "x"}]}, "The user's message is not text"),
        ({"role": "assistant", "content": None}, "The assistant's message is not text: None"),
        ({"role": "assistant", "content": [{"type": "image"}]}, "has no parts of type 'image'"),
        ({"role": "assistant", "content": ["x"]}, "has no parts of type None"),
    ],
)
def test_a_message_the_format_has_no_place_for(
    tokenizer: NanochatTokenizer, message: dict[str, Any], words: str
) -> None:
    with pytest.raises(ModelError) as error:
        tokenizer.render([message])
    assert words in error.value.message


def test_the_prefix_is_encoded_after_assistant_start(tokenizer: NanochatTokenizer) -> None:
    messages = [{"role": "user", "content": "hi"}]
    prompt = tokenizer.encode_prompt(messages)
    assert tokenizer.encode_prompt(messages, "Hello world") == [*prompt, 72, 302, 354, 308, 264, 108, 100]
    assert prompt[-1] == 994


def test_a_system_message_goes_before_the_first_user_message(tokenizer: NanochatTokenizer) -> None:
    with_system = [{"role": "system", "content": "Be terse."}, {"role": "user", "content": "Why?"}]
    assert tokenizer.encode_prompt(with_system) == tokenizer.encode_prompt(
        [{"role": "user", "content": "Be terse.\n\nWhy?"}]
    )


@pytest.mark.parametrize(
    "roles, message",
    [
        (["tool"], "nanochat's chat format does not allow the role 'tool' here"),
        (["user", "system"], "nanochat's chat format does not allow the role 'system' here"),
        (
            ["system"],
            "nanochat's chat format allows no system message without a user message after it",
        ),
    ],
)
def test_a_role_the_format_lacks_is_an_error(
    tokenizer: NanochatTokenizer, roles: list[str], message: str
) -> None:
    with pytest.raises(ModelError) as error:
        tokenizer.encode_prompt([{"role": role, "content": "x"} for role in roles])
    assert error.value.message == message


def test_special_tokens_are_left_out_of_text(tokenizer: NanochatTokenizer) -> None:
    assert tokenizer.decode([991, 992, 72, 993, 994, 302, 995]) == tokenizer.decode([72, 302])
    assert tokenizer.decode([999]) == ""


def test_end_tokens_and_size(tokenizer: NanochatTokenizer) -> None:
    assert tokenizer.eos_ids == {995, 991}
    assert tokenizer.vocab_size == 1000


# --- other programs' files ------------------------------------------------------------------------


def test_tokenizer_json_gives_the_same_ids(tokenizer: NanochatTokenizer, tmp_path: Path) -> None:
    tokenizer.save(tmp_path)
    other = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    texts = [case["text"] for case in recorded("tokens.json")["texts"] if "<|" not in case["text"]]
    assert len(texts) > 60
    for text in texts:
        assert other.encode(text).ids == tokenizer.encode(text), text
    assert [other.token_to_id(name) for name in SPECIAL_TOKENS] == list(range(991, 1000))


def test_the_chat_template_gives_the_same_prompt(tokenizer: NanochatTokenizer, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer.save(tmp_path)
    other = AutoTokenizer.from_pretrained(str(tmp_path))
    conversation = [
        {"role": "system", "content": "Be terse."},
        {"role": "user", "content": "What is 2 + 2?"},
        {"role": "assistant", "content": "4"},
        {"role": "user", "content": "And  3 + 3 ?"},
    ]
    ids = other.apply_chat_template(conversation, add_generation_prompt=True, return_dict=False)
    assert ids == tokenizer.encode_prompt(conversation)
    assert (other.bos_token, other.eos_token) == ("<|bos|>", "<|assistant_end|>")
    assert other.clean_up_tokenization_spaces is False


def test_saving_keeps_the_original_files(tokenizer: NanochatTokenizer, tmp_path: Path) -> None:
    tokenizer.save(tmp_path / "first")
    original = (FIXTURES / "tokenizer.pkl").read_bytes()
    assert (tmp_path / "first" / "tokenizer.pkl").read_bytes() == original
    config = tmp_path / "first" / "tokenizer_config.json"
    config.write_text('{"mine": true}')
    again = NanochatTokenizer.load(tmp_path / "first")
    again.save(tmp_path / "second")
    assert (tmp_path / "second" / "tokenizer_config.json").read_text() == '{"mine": true}'
    assert (tmp_path / "second" / "tokenizer.pkl").read_bytes() == original
    again.save(tmp_path / "first")  # onto itself
    assert (tmp_path / "first" / "tokenizer.pkl").read_bytes() == original


def test_merges_are_recovered_from_ranks() -> None:
    ranks = {b"a": 0, b"b": 1, b"c": 2, b"bc": 3, b"ab": 4, b"abc": 5}
    assert recover_merges(ranks) == [(b"b", b"c"), (b"a", b"b"), (b"a", b"bc")]


# --- what is refused ------------------------------------------------------------------------------


def test_a_missing_file(tmp_path: Path) -> None:
    assert refusal(tmp_path) == " does not exist"


def test_a_pickle_that_names_a_program_is_not_run(tmp_path: Path) -> None:
    trace = tmp_path / "ran"
    program = f"cos\nsystem\n(S'touch {trace}'\ntR."
    (tmp_path / "tokenizer.pkl").write_bytes(program.encode())
    assert refusal(tmp_path) == "it names os.system, which a tokenizer has no use for"
    assert not trace.exists()


def test_the_bytes_codec_does_nothing_else(tmp_path: Path) -> None:
    program = b"c_codecs\nencode\n(S'abc'\nS'zlib'\ntR."
    (tmp_path / "tokenizer.pkl").write_bytes(program)
    assert refusal(tmp_path) == "it calls _codecs.encode with the codec 'zlib'"


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_another_object_is_refused(tmp_path: Path, protocol: int) -> None:
    (tmp_path / "tokenizer.pkl").write_bytes(pickle.dumps({"a": 1}, protocol=protocol))
    assert refusal(tmp_path) == "it holds a dict, not a tiktoken encoding"


def test_a_cut_off_file_is_refused(tmp_path: Path) -> None:
    whole = (FIXTURES / "tokenizer.pkl").read_bytes()
    (tmp_path / "tokenizer.pkl").write_bytes(whole[: len(whole) // 2])
    assert refusal(tmp_path).startswith("it is not a readable pickle (")


def test_a_valid_state_loads(tmp_path: Path) -> None:
    loaded = NanochatTokenizer.load(write_pickle(tmp_path, valid_state()))
    assert loaded.encode("hi") == [104, 105]
    assert loaded.eos_ids == {260, 256}


@pytest.mark.parametrize(
    "change, reason",
    [
        ({"pat_str": 7}, "its field pat_str is not of type str"),
        ({"special_tokens": {"<|bos|>": "1"}}, "its field special_tokens holds '<|bos|>': '1'"),
        ({"special_tokens": {"<|bos|>": -1}}, "its field special_tokens holds '<|bos|>': -1"),
        ({"special_tokens": {"<|bos|>": 7}}, "several of its tokens have the same id"),
        ({"mergeable_ranks": {b"\x00": 0}}, "it has no token for the byte 1"),
        (
            {"extra": 1},
            "its encoding must have exactly the fields name, pat_str, mergeable_ranks, special_tokens",
        ),
        ({"special_tokens": {"<|endoftext|>": 256}}, f" has no special token {', '.join(SPECIAL_TOKENS)}"),
    ],
)
def test_a_state_that_tiktoken_does_not_write(tmp_path: Path, change: dict[str, Any], reason: str) -> None:
    assert refusal(write_pickle(tmp_path, valid_state() | change)) == reason


def test_an_invalid_pattern_is_refused(tmp_path: Path) -> None:
    reason = refusal(write_pickle(tmp_path, valid_state() | {"pat_str": "(unclosed"}))
    assert "parenthesis" in reason


def test_an_encoding_by_reference_is_refused(tmp_path: Path) -> None:
    assert refusal(write_pickle(tmp_path, "gpt2")) == (
        "it only names an encoding ('gpt2') and does not contain it"
    )


@needs_variants
def test_the_genuine_pickle_by_reference_is_refused(tmp_path: Path) -> None:
    shutil.copyfile(VARIANTS / "tokenizer_by_reference.pkl", tmp_path / "tokenizer.pkl")
    assert refusal(tmp_path).startswith("it only names an encoding ('rustbpe')")


@needs_variants
@pytest.mark.parametrize("protocol", [2, 5])
def test_other_protocols_hold_the_same_tokens(
    tokenizer: NanochatTokenizer, tmp_path: Path, protocol: int
) -> None:
    shutil.copyfile(VARIANTS / f"tokenizer_proto{protocol}.pkl", tmp_path / "tokenizer.pkl")
    other = NanochatTokenizer.load(tmp_path)
    assert other.encoding._mergeable_ranks == tokenizer.encoding._mergeable_ranks
    assert other.encoding._special_tokens == tokenizer.encoding._special_tokens
    assert other.encoding._pat_str == tokenizer.encoding._pat_str
