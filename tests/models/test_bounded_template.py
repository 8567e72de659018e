"""Chat templates that never end or make a huge value: stopped, with an error that names the folder."""

import signal
import threading
import time
from pathlib import Path

import pytest

from grpo_cli.errors import ModelError
from grpo_cli.models import bounded_template
from grpo_cli.models.bounded_template import LARGEST_NUMBER, LONGEST, check_operation, limited_time
from grpo_cli.models.load import load_tokenizer
from tests.support.doctor_findings import fast_copy

LOOPS = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
TEXTS = "{% set a = 'a' * 99999 %}{% for i in a %}{% for j in a %}{% endfor %}{% endfor %}"
TREE = "{% macro f(n) %}{% if n < 60 %}{{ f(n + 1) }}{{ f(n + 1) }}{% endif %}{% endmacro %}{{ f(0) }}"
WITH_SYSTEM = "{% if messages[0].role == 'system' %}" + LOOPS + "{% endif %}{{ messages[0].content }}"
TWO = [{"role": "system", "content": "a"}, {"role": "user", "content": "b"}]


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounded_template, "SECONDS", 0.2)


@pytest.mark.usefixtures("short")
@pytest.mark.parametrize("template", [LOOPS, TEXTS, TREE])
def test_an_endless_template_is_an_error_of_its_folder(template: str, tmp_path: Path) -> None:
    folder = fast_copy(tmp_path / "m", chat_template=template)
    with pytest.raises(ModelError) as error:
        load_tokenizer(folder, {})
    stopped = "does not end: it was stopped after 0.2 seconds of computation"
    assert error.value.message == f"The chat template of {folder} {stopped}"
    assert signal.getitimer(signal.ITIMER_VIRTUAL) == (0.0, 0.0)
    assert signal.getsignal(signal.SIGVTALRM) is signal.SIG_DFL


@pytest.mark.usefixtures("short")
def test_a_template_that_is_endless_for_some_conversations_only(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(fast_copy(tmp_path / "m", chat_template=WITH_SYSTEM), {})
    assert tokenizer.spell(tokenizer.encode_prompt(TWO[1:])) == "b"
    with pytest.raises(ModelError, match="does not end"):
        tokenizer.encode_prompt(TWO)


def test_a_huge_value_is_refused_at_once(tmp_path: Path) -> None:
    for template in ("{{ 10 ** 10000000000 }}", "{{ 'a' * 10 ** 12 }}", "{{ range(10 ** 9) | length }}"):
        tokenizer = load_tokenizer(fast_copy(tmp_path / str(len(template)), chat_template=template), {})
        started = time.process_time()
        with pytest.raises(ModelError, match="refuses a conversation"):
            tokenizer.encode_prompt(TWO)
        assert time.process_time() - started < 1.0


def test_the_largest_operations() -> None:
    check_operation("**", 2, LARGEST_NUMBER // 2)  # 2 has two bits
    check_operation("*", "ab", LONGEST // 2)
    check_operation("*", 3, 4)
    check_operation("**", 2.0, 1000)
    for operator, left, right in (
        ("**", 2, LARGEST_NUMBER // 2 + 1),
        ("*", "ab", LONGEST // 2 + 1),
        ("*", LONGEST // 2 + 1, [1, 2]),
        ("*", 1 << LARGEST_NUMBER, 1),
    ):
        with pytest.raises(OverflowError):
            check_operation(operator, left, right)


def test_products_of_ordinary_templates(tmp_path: Path) -> None:
    template = "{{ '-' * 3 }}{{ 6 * 7 }}{{ 2 ** 10 }}"
    tokenizer = load_tokenizer(fast_copy(tmp_path / "m", chat_template=template), {})
    assert tokenizer.spell(tokenizer.encode_prompt(TWO)) == "---421024"


def test_another_thread_has_no_limit_and_no_error() -> None:
    seen: list[str] = []

    def work() -> None:
        with limited_time(0.001):
            end = time.process_time() + 0.05
            while time.process_time() < end:
                pass
        seen.append("done")

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == ["done"]
