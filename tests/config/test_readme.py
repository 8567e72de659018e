"""configs/KEYS.md: a key as a line of its tables."""

import pytest

from grpo_cli.config.keys import XML_SYSTEM_PROMPT
from grpo_cli.config.readme import configuration_keys, keys_document, row, values


@pytest.mark.parametrize(
    ("key", "shown"),
    [
        ("adam_beta2", "`0.999`"),
        ("reward_weights", "`[]`"),
        ("bits", "`4`; `2`, `3`, `6`, `8`"),
        ("lr_scheduler_type", '`"cosine"`; `"linear"`, `"constant"`'),
    ],
)
def test_a_default_and_the_other_values(key: str, shown: str) -> None:
    assert values(key) == shown


def test_a_long_default_is_cut_and_stays_on_its_line() -> None:
    assert len(XML_SYSTEM_PROMPT) > 80
    assert values("system_prompt").startswith('`"Respond in the following format:\\n<reasoning>')
    assert values("system_prompt").endswith("…`")


def test_a_line_has_the_first_sentence_of_the_description() -> None:
    assert row("max_steps") == "| `max_steps` | `0` | Stop after this many updates; 0: run all epochs |"
    assert row("reward_timeout") == (
        "| `reward_timeout` | `60.0` | Time limit in seconds for one call of an `async def` reward or "
        "one in a worker process; 0: no limit |"
    )


def test_a_table_for_each_group() -> None:
    lines = configuration_keys().splitlines()
    start = lines.index("## Several ranks")
    assert lines[start + 1 : start + 4] == ["", "| key | default | meaning |", "|---|---|---|"]
    assert lines[start + 4].startswith("| `rank_timeout` | `0.0` | ")


def test_the_document_names_the_command_that_makes_it() -> None:
    document = keys_document("make keys")
    assert document.startswith("# Configuration keys\n\nSet in a file")
    assert document.count("`make keys`") == 1
    assert document.endswith(f"\n\n{configuration_keys()}\n")
