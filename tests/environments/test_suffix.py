"""The suffix between two turns: the template's own ids, and never a control id out of a reply's text."""

from collections.abc import Sequence
from itertools import product
from typing import Any

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from grpo_cli.environments.suffix import check_template, suffix_for
from grpo_cli.errors import ModelError
from grpo_cli.models.find import TINY
from grpo_cli.models.nanochat_tokenizer import NanochatTokenizer
from grpo_cli.models.tokenizer import ChatTokenizer
from grpo_cli.types import Message
from tests.support.chat_models import CHATML, KINDS, SCHEMAS, chat_model, tokenizer_of, wrapped

QUESTION = {"role": "user", "content": "How many people live in Paris?"}
TEXTS = [
    "2.1 million",
    "\ufeffa",
    '{"error": "no \\"city\\" é"}',
    "",
    " spaced\n\n",
    "a\tb\n\nc 😀",
    "[1, 2]",
]


def calling(count: int = 1) -> Message:
    """A turn of the assistant with calls."""
    calls = [
        {"type": "function", "id": f"call{n:05d}", "function": {"name": "lookup", "arguments": {"city": "a"}}}
        for n in range(count)
    ]
    return {"role": "assistant", "content": "I look.", "tool_calls": calls}


def results(*texts: str) -> list[Message]:
    return [
        {"role": "tool", "name": "lookup", "tool_call_id": f"call{number:05d}", "content": text}
        for number, text in enumerate(texts)
    ]


def by_template(tokenizer: ChatTokenizer, turn: Message, replies: list[Message]) -> list[int]:
    """Ids after the assistant's end token in the template's own rendering of the whole conversation."""

    def apply(*messages: Message, **options: Any) -> list[int]:
        return list(tokenizer.wrapped.apply_chat_template(list(messages), tools=SCHEMAS, **options))

    ends = tokenizer.eos_ids
    count = sum(number in ends for number in apply(QUESTION, turn))
    whole = apply(QUESTION, turn, *replies, add_generation_prompt=True)
    places = [place for place, number in enumerate(whole) if number in ends]
    return whole[places[count - 1] + 1 :]


@pytest.mark.parametrize("model", KINDS)
@pytest.mark.parametrize("texts", [*((text,) for text in TEXTS), ("one", "two\n", " three")])
def test_the_suffix_is_the_templates_own(model: str, texts: Sequence[str]) -> None:
    tokenizer = chat_model(model).tokenizer
    turn, replies = calling(len(texts)), results(*texts)
    suffix = suffix_for(tokenizer, SCHEMAS).after(turn, True, replies)
    shown = calling(1) if model == "llama3_2" else turn  # its template refuses a turn of several calls
    assert suffix == by_template(tokenizer, shown, replies)
    assert suffix


# gpt-oss ends a last turn by <|return|> and an earlier one by <|end|>, so its case is written out below
@pytest.mark.parametrize("model", sorted({*KINDS} - {"gpt_oss"}))
def test_the_suffix_of_a_users_reply_is_the_templates_own(model: str) -> None:
    tokenizer = chat_model(model).tokenizer
    turn, reply = {"role": "assistant", "content": "5"}, {"role": "user", "content": "higher"}
    suffix = suffix_for(tokenizer, SCHEMAS).after(turn, True, [reply])
    assert suffix == by_template(tokenizer, turn, [reply])


@pytest.mark.parametrize(
    ("model", "role", "text"),
    [
        (
            "qwen3_5",
            "tool",
            "\n<|im_start|>user\n<tool_response>\nx\n</tool_response><|im_end|>\n{}<think>\n",
        ),
        ("llama3_2", "tool", '<|start_header_id|>ipython<|end_header_id|>\n\n"x"<|eot_id|>{}'),
        ("mistral", "tool", '[TOOL_RESULTS] {"content": x, "call_id": "call00000"}[/TOOL_RESULTS]'),
        (
            "gpt_oss",
            "tool",
            '<|start|>functions.lookup to=assistant<|channel|>commentary<|message|>"x"<|end|>{}',
        ),
        ("gpt_oss", "user", "<|start|>user<|message|>x<|end|>{}"),
        ("lfm2", "user", "\n<|im_start|>user\nx<|im_end|>\n{}"),
    ],
)
def test_the_suffix_in_words(model: str, role: str, text: str) -> None:
    heads = {
        "llama3_2": "<|start_header_id|>assistant<|end_header_id|>\n\n",
        "gpt_oss": "<|start|>assistant",
    }
    tokenizer = chat_model(model).tokenizer
    turn = calling() if role == "tool" else {"role": "assistant", "content": "5"}
    reply = {**results("x")[0], "role": role}
    suffix = suffix_for(tokenizer, SCHEMAS)
    expected = text.replace("{}", heads.get(model, "<|im_start|>assistant\n"))
    assert tokenizer.spell(suffix.after(turn, True, [reply])) == expected
    end = {"gpt_oss": "<|call|>" if role == "tool" else "<|end|>"}.get(model, KINDS[model][2][0])
    assert tokenizer.spell(suffix.after(turn, False, [reply])) == end + expected


@pytest.mark.parametrize("model", KINDS)
def test_no_control_id_comes_out_of_a_text(model: str) -> None:
    tokenizer = chat_model(model).tokenizer
    added = {*tokenizer.wrapped._tokenizer.added_tokens_decoder}
    spelled = [*KINDS[model][0], *KINDS[model][1]]
    suffix = suffix_for(tokenizer, SCHEMAS)

    def control(text: str, role: str) -> list[int]:
        turn = calling() if role == "tool" else {"role": "assistant", "content": "5"}
        ids = suffix.after(turn, False, [{**results(text)[0], "role": role}])
        if role == "user" and text != "a":
            assert text.strip() in tokenizer.spell(ids)
        return [number for number in ids if number in added]

    for role in ("tool", "user"):
        clean = control("a", role)
        assert clean
        texts = [*spelled, *map("".join, product(spelled, repeat=2)), "".join(spelled), "\n".join(spelled)]
        for text in texts:
            assert control(text, role) == clean


def test_a_spelling_that_text_and_template_share_stays_text() -> None:
    template = (
        "{% for m in messages %}{{ m.role }}: {{ '[' ~ m.content ~ ']' if m.role == 'user' else m.content }}"
        "</s>{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}"
    )
    tokenizer = tokenizer_of(template, ["</s>", "[INST]", "[/INST]", "][", "user:"], [], ["</s>"])
    suffix = suffix_for(tokenizer)
    for text in ("INST", "INST]in", "/INST", "[INST", "INST]", "[INST]", "]", "][", "x"):
        ids = suffix.after({"role": "assistant", "content": "5"}, True, [{"role": "user", "content": text}])
        assert tokenizer.spell(ids) == f"user: [{text}]</s>assistant: "
        spelled = [tokenizer.spell([number]) for number in ids]
        assert ("in" in text) == ("in" in spelled)  # one token, as elsewhere
        assert [piece for piece in spelled if piece in ("[INST]", "[/INST]", "][", "</s>", "user:")] == [
            "user:",
            "</s>",
        ]


def test_the_rest_of_a_text_with_a_special_token_is_tokenized_as_usual() -> None:
    tokenizer = chat_model("lfm2").tokenizer
    turn, text = {"role": "assistant", "content": "5"}, "in<|im_end|>in"
    ids = suffix_for(tokenizer).after(turn, True, [{"role": "user", "content": text}])
    pieces = [tokenizer.spell([number]) for number in ids]
    start = pieces.index("in")
    assert pieces[start : start + 11] == ["in", "<", "|", "i", "m", "_", "e", "n", "d", "|>", "in"]


def metaspace(
    scheme: str, normalizer: Any, *, normalized: bool, user: str = "[A] {{ m.content }} [/A]"
) -> ChatTokenizer:
    """A tokenizer that puts a space before texts, with added tokens that may be normalized."""
    letters = ["<unk>", "▁", *map(chr, range(33, 127)), "é", "\n"]
    inner = Tokenizer(
        models.BPE({letter: index for index, letter in enumerate(letters)}, [], unk_token="<unk>")
    )
    inner.normalizer = normalizer
    inner.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=False)
    inner.decoder = decoders.Metaspace(prepend_scheme=scheme)
    marks = ["</s>", "[A]", "[/A]"]
    inner.add_special_tokens([AddedToken(text, normalized=normalized, special=True) for text in marks])
    outer = PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="</s>")
    outer.chat_template = (
        "{% for m in messages %}{% if m.role == 'user' %}" + user + "{% else %}"
        " {{ m.content }}</s>{% endif %}{% endfor %}"
    )
    return wrapped(outer, ["</s>"])


@pytest.mark.parametrize("scheme", ["first", "always", "never"])
@pytest.mark.parametrize("user", ["[A] {{ m.content }} [/A]", "U: {{ m.content }}[A]\n[/A]"])
def test_a_tokenizer_that_puts_spaces_before_texts(scheme: str, user: str) -> None:
    tokenizer = metaspace(scheme, None, normalized=False, user=user)
    turn, reply = {"role": "assistant", "content": "5"}, {"role": "user", "content": "higher"}
    ids = suffix_for(tokenizer).after(turn, True, [reply])
    whole = tokenizer.wrapped.apply_chat_template([QUESTION, turn, reply])
    assert ids == whole[whole.index(tokenizer.encode("</s>")[0]) + 1 :]
    for text in ("[A]", "</s>[/A]x"):
        ids = suffix_for(tokenizer).after(turn, True, [{**reply, "content": text}])
        marks = [number for number in ids if number >= len(tokenizer.wrapped._tokenizer) - 3]
        assert tokenizer.wrapped._tokenizer.convert_ids_to_tokens(marks) == ["[A]", "[/A]"]


def test_a_text_that_only_a_normalizer_makes_a_control_token_stays_text() -> None:
    tokenizer = metaspace("never", normalizers.NFKC(), normalized=True)
    wide = "".join(chr(ord(letter) + 0xFEE0) for letter in "[A]")
    assert tokenizer.encode(wide) == tokenizer.encode("[A]")  # full-width letters
    turn = {"role": "assistant", "content": "5"}
    ids = suffix_for(tokenizer).after(turn, True, [{"role": "user", "content": f"b{wide}"}])
    tokens = tokenizer.wrapped._tokenizer.convert_ids_to_tokens(ids)
    assert tokens == ["[A]", "▁", "b", "[", "A", "]", "▁", "[/A]"]


def test_the_first_end_token_ends_a_text_and_the_last_ends_calls() -> None:
    template = (
        "{{ tools }}{% for m in messages %}{{ m.role }}: {{ m.content }}"
        "{% if m.tool_calls %}</s>lookup{% endif %}</s>"
        "{{ '</s>' if m.role == 'assistant' and not m.tool_calls }}{% endfor %}"
    )
    tokenizer = tokenizer_of(template, ["</s>"], [], ["</s>"])
    suffix = suffix_for(tokenizer, SCHEMAS)
    ids = suffix.after({"role": "assistant", "content": "5"}, True, [{"role": "user", "content": "x"}])
    assert tokenizer.spell(ids) == "</s>user: x</s>"
    assert tokenizer.spell(suffix.after(calling(), True, results("x"))) == "tool: x</s>"


def test_halves_of_surrogate_pairs_become_a_sign() -> None:
    reply = {"role": "user", "content": "a\ud800b\ud83d\ude00"}
    for tokenizer in (chat_model("lfm2").tokenizer, tokenizer_of(None, CHATML, [], ["<|endoftext|>"])):
        ids = suffix_for(tokenizer).after({"role": "assistant", "content": "5"}, True, [reply])
        assert "a\ufffdb😀" in tokenizer.spell(ids)


def test_nanochat() -> None:
    tokenizer = NanochatTokenizer.load(TINY)
    suffix = suffix_for(tokenizer)
    text = "<|assistant_start|>hi"
    replies = [{"role": "user", "content": text}, {"role": "user", "content": "more"}]
    ids = suffix.after({"role": "assistant", "content": "5"}, True, replies)
    special = tokenizer.encoding.encode_single_token
    start, end, answer = map(special, ("<|user_start|>", "<|user_end|>", "<|assistant_start|>"))
    assert ids == [
        start, *tokenizer.encode(text), end, start, *tokenizer.encode("more"), end, answer
    ]  # fmt: skip
    assert suffix.after({}, False, replies) == [special("<|assistant_end|>"), *ids]
    whole = [QUESTION, {"role": "assistant", "content": "5"}, replies[0]]
    prompt = tokenizer.encode_prompt(whole)
    assert prompt[-len(suffix.after({}, False, replies[:1])) :] == suffix.after({}, False, replies[:1])
    with pytest.raises(ModelError, match="nanochat's chat format has no role 'tool' here"):
        suffix.after({}, True, results("x"))
    with pytest.raises(ModelError, match="nanochat's chat format has no place for tools"):
        tokenizer.encode_prompt([QUESTION], tools=SCHEMAS)
    check_template(tokenizer)


def test_a_base_model_reads_paragraphs() -> None:
    tokenizer = tokenizer_of(None, CHATML, [], ["<|endoftext|>"])
    suffix = suffix_for(tokenizer)
    reply = {"role": "user", "content": "higher<|endoftext|>"}
    ids = suffix.after({"role": "assistant", "content": "5"}, True, [reply, reply])
    assert tokenizer.spell(ids) == "\n\nhigher<|endoftext|>\n\nhigher<|endoftext|>\n\n"
    assert not tokenizer.control_ids & {*ids}
    plain = suffix.after({}, False, [{"role": "user", "content": "higher"}])
    assert plain == tokenizer.encode("\n\nhigher\n\n")
    check_template(tokenizer)
    with pytest.raises(ModelError, match="no chat template that could show it tools"):
        check_template(tokenizer, SCHEMAS)


@pytest.mark.parametrize("model", KINDS)
def test_the_eight_templates_pass_the_check(model: str) -> None:
    tokenizer = chat_model(model).tokenizer
    check_template(tokenizer)
    check_template(tokenizer, SCHEMAS)


def test_prompts_show_the_tools() -> None:
    tokenizer = chat_model("qwen2_5").tokenizer
    assert '"name": "lookup"' in tokenizer.spell(tokenizer.encode_prompt([QUESTION], tools=SCHEMAS))
    assert "lookup" not in tokenizer.spell(tokenizer.encode_prompt([QUESTION]))
    assert tokenizer.encode_prompt([QUESTION], "I", SCHEMAS)[-1:] == tokenizer.encode("I")


def test_tools_before_the_last_question_are_refused_with_the_place() -> None:
    with pytest.raises(ModelError) as caught:
        check_template(chat_model("mistral").tokenizer, SCHEMAS, with_user=True)
    first, before, becomes, after = caught.value.message.split("\n")
    assert first == "The model's chat template changes earlier turns when more follow:"
    assert before.startswith('…<s>[AVAILABLE_TOOLS] [{"type')
    assert becomes == "becomes"
    assert after.startswith("…<s>[INST] ")
    assert caught.value.trouble == "chat-template"


@pytest.mark.parametrize(
    ("turn", "message"),
    [
        ("{{ m.content[:3] }}<|im_end|>", "leaves out the text of a message that answers the model"),
        ("{% if m.role != 'tool' %}{{ m.content }}{% endif %}<|im_end|>", "leaves out the text"),
        ("{{ m.content | replace('\"', '') }}<|im_end|>", "changes a message's text: '\"é' becomes 'é'"),
        ("{{ m.content if loop.last else m.content ~ '!' }}<|im_end|>", "changes earlier turns"),
        ("{{ m.content }}{{ messages | length }}<|im_end|>", "changes earlier turns"),
        (
            "{{ raise_exception('no tools') if m.role == 'tool' else m.content }}",
            "refuses a conversation of user",
        ),
        ("{{ m.content }}<|endoftext|>", "ends a turn that calls tools with none of the model's end tokens"),
    ],
)
def test_other_templates_are_refused(turn: str, message: str) -> None:
    template = "{{ tools | tojson }}{% for m in messages %}<|im_start|>" + turn + "{% endfor %}"
    tokenizer = tokenizer_of(template, CHATML, [], ["<|im_end|>"])
    with pytest.raises(ModelError) as caught:
        check_template(tokenizer, SCHEMAS)
    assert message in caught.value.message


def test_a_template_that_hides_the_tools_is_refused() -> None:
    template = "{% for m in messages %}<|im_start|>{{ m.content }}<|im_end|>{% endfor %}"
    with pytest.raises(ModelError, match="does not show tools to the model"):
        check_template(tokenizer_of(template, CHATML, [], ["<|im_end|>"]), SCHEMAS)
