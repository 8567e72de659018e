"""Special and end tokens, and the chat template of a tokenizer; each damaged for real."""

import json
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from jinja2 import TemplateError

from grpo_cli.doctor.checks.model.chat_format import conversation
from tests.support.doctor_findings import Here, at, fast_copy, look, seen, tiny_copy


def test_a_special_token_beyond_the_rows(tmp_path: Path) -> None:
    folder = tiny_copy(tmp_path / "model")
    mx.save_safetensors(str(folder / "model.safetensors"), {"wte.weight": mx.zeros((315, 2))})
    finding = at(folder, "special-tokens")
    assert seen(finding) == ("error", "<|output_end|> has the id 315, the model only 315 rows")


def test_markers_of_another_model_s_template(tmp_path: Path) -> None:
    """tiny has no <|im_start|>: the template's marker falls into bytes, which nobody was trained on."""
    folder = templated(tmp_path / "model", CHATML)
    finding = at(folder, "special-tokens")
    assert seen(finding) == (
        "error",
        "<|im_end|>, which the chat template writes, becomes 10 ids; "
        "<|im_start|>, which the chat template writes, becomes 12 ids",
    )
    assert finding.commands == (
        f"hf download OWNER/NAME tokenizer.json tokenizer_config.json --local-dir {folder}",
    )


def test_ends_that_are_not_in_the_vocabulary(tmp_path: Path) -> None:
    folder = fast_copy(tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "eos_token_id": 9000}))
    assert seen(at(folder, "end-tokens")) == ("error", "the end token 9000 is beyond the 316 tokens")


def test_a_turn_s_end_that_ends_no_completion(tmp_path: Path) -> None:
    folder = fast_copy(tmp_path / "model", eos_token="<|bos|>")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "eos_token_id": 307}))
    finding = at(folder, "end-tokens")
    assert seen(finding) == (
        "warning",
        "the chat template ends a turn with <|assistant_end|> (311), but only <|bos|> 307 ends a completion",
    )
    assert finding.commands == ('"eos_token_id": [307, 311]',)


def test_an_end_that_only_generation_config_names(tmp_path: Path) -> None:
    """As Llama 3 and others: training reads it, above config.json's."""
    folder = fast_copy(tmp_path / "model", eos_token="<|bos|>")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "eos_token_id": 307}))
    (folder / "generation_config.json").write_text('{"eos_token_id": [307, 311]}')
    assert seen(at(folder, "end-tokens")) == ("ok", "<|bos|> 307, <|assistant_end|> 311")
    (folder / "generation_config.json").write_text('{"temperature": 1.0}')
    assert at(folder, "end-tokens").severity == "warning"


def templated(folder: Path, template: str | None) -> Path:
    fast_copy(folder, chat_template=template)
    if template is None:
        content = json.loads((folder / "tokenizer_config.json").read_text())
        del content["chat_template"]
        (folder / "tokenizer_config.json").write_text(json.dumps(content))
    return folder


ONLY_USER = (
    "{%- if messages[0]['role'] == 'system' -%}"
    "{{- raise_exception('System role not supported') -}}{%- endif -%}"
    "{%- for m in messages -%}{{- m['content'] -}}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|assistant_start|>' -}}{%- endif -%}"
)


CHATML = (
    "{%- for m in messages -%}{{- '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>\\n' -}}"
    "{%- endfor -%}{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}"
)


class Templated:
    """A tokenizer whose chat template raises."""

    has_chat_template = True

    def __init__(self, error: Exception) -> None:
        self.wrapped, self.error = self, error

    def apply_chat_template(self, *_: Any, **__: Any) -> str:
        raise self.error


@pytest.mark.parametrize("error", [TemplateError("no"), ZeroDivisionError(), KeyError("x"), TypeError()])
def test_a_template_that_fails_writes_no_conversation(error: Exception) -> None:
    assert conversation(Templated(error), "answer") is None  # type: ignore[arg-type]


def test_an_error_that_no_template_raises_is_not_hidden() -> None:
    with pytest.raises(EOFError):
        conversation(Templated(EOFError()), "answer")  # type: ignore[arg-type]


def test_a_base_model_has_no_template(tmp_path: Path) -> None:
    finding = at(templated(tmp_path / "model", None), "chat-template")
    told = "none: a base model; its prompts are the messages' texts as paragraphs"
    assert seen(finding) == ("ok", told)


def test_a_template_without_a_system_role(tmp_path: Path) -> None:
    """No trouble: the system message is put before the question."""
    folder = templated(tmp_path / "model", ONLY_USER)
    told = "system and user become 22 ids, the system message as the beginning of the question"
    finding = at(folder, "chat-template")
    assert seen(finding) == ("ok", f"{told}, ending with '<|assistant_start|>'")
    assert finding.numbers["system"] is False


def test_a_template_that_does_not_let_the_assistant_speak(tmp_path: Path) -> None:
    folder = templated(tmp_path / "model", "{%- for m in messages -%}{{- m['content'] -}}{%- endfor -%}")
    told = "the template does not end where the assistant speaks: it ignores add_generation_prompt"
    assert seen(at(folder, "chat-template")) == ("warning", told)


@pytest.mark.parametrize("failing", ["{{ 1 / 0 }}", "{{ 'a' * 10 ** 12 }}", "{{ raise_exception('no') }}"])
def test_a_template_that_fails_without_the_assistants_turn_only(tmp_path: Path, failing: str) -> None:
    """No prompt of a run is written so."""
    template = f"{{% if not add_generation_prompt %}}{failing}{{% endif %}}{{{{ messages[0].content }}}}"
    finding = at(templated(tmp_path / "model", template), "chat-template")
    assert finding.severity == "ok"
    assert "check itself failed" not in finding.seen


@pytest.mark.parametrize(
    "template", ["{{ 1 / 0 }}", "{{ messages + 3 }}", "{% for %}", "{{ a.b.c }}", "{{ [] | first }}"]
)
def test_a_template_that_fails(tmp_path: Path, template: str) -> None:
    found = look(Here(model=str(templated(tmp_path / "model", template))), "chat-template", "end-tokens")
    assert found[0].severity in ("error", "ok", "skipped")  # end-tokens needs the same template
    assert found[1].severity == "error"
    assert "chat template" in found[1].seen
