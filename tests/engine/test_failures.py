"""The classes of failures of the device, by MLX's exact texts."""

import pytest

from grpo_cli.doctor.chapters import chapters
from grpo_cli.engine.failures import FAILURES, LOST_DEVICE, failure_of, is_allocation_failure
from tests.support.device_faults import REASONED, SEEN, TEXTS

EXPECTED = {
    "metal memory": ("out of memory", "halve"),
    "command memory": ("out of memory", "halve"),
    "cuda memory": ("out of memory", "halve"),
    "bad alloc": ("out of memory", "halve"),
    "timeout": ("GPU timeout", "shrink"),
    "interactivity": ("GPU interactivity", "shrink"),
    "page fault": ("GPU page fault", "shrink"),
    "victim": ("GPU reset by another program", "again"),
    "refused": ("GPU refuses the process", "restart"),
    "resource limit": ("resource limit", "drop"),
    "lost device": ("lost device", "end"),
    "compile": ("failed compilation", "plain"),
}


@pytest.mark.parametrize("name", TEXTS)
def test_every_text_has_its_class_and_its_answer(name: str) -> None:
    found = failure_of(RuntimeError(TEXTS[name]))
    assert found is not None
    assert (found.name, found.answer) == EXPECTED[name]


@pytest.mark.parametrize("text", SEEN)
def test_texts_of_threads_and_of_the_source(text: str) -> None:
    found = failure_of(RuntimeError(text))
    assert found is not None
    assert found.name == SEEN[text][0]


@pytest.mark.parametrize("text", REASONED)
def test_texts_that_nobody_published(text: str) -> None:
    assert failure_of(RuntimeError(text)) is LOST_DEVICE


def test_the_resource_limit_is_not_taken_for_memory() -> None:
    assert not is_allocation_failure(RuntimeError(TEXTS["resource limit"]))


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("[save_safetensors] No space left on device"),
        RuntimeError("shapes do not match"),
        ValueError("out of memory"),
        RuntimeError("[ring] connection to a peer was lost"),
    ],
)
def test_other_errors_have_no_class(error: Exception) -> None:
    assert failure_of(error) is None


@pytest.mark.parametrize("failure", FAILURES, ids=lambda failure: failure.name)
def test_every_class_has_a_chapter(failure: object) -> None:
    assert failure.chapter in chapters()  # type: ignore[attr-defined]
