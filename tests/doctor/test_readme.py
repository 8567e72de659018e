"""README's sections that are made of the program are as the program is now."""

from pathlib import Path

import pytest

from grpo_cli.config.schema import Config
from grpo_cli.doctor.readme import main, refreshed

PATH = Path(__file__).parents[2] / "README.md"
README = PATH.read_text(encoding="utf-8")


def test_the_readme_is_fresh() -> None:
    assert refreshed(README) == README, "run `python -m grpo_cli.doctor.readme README.md`"


@pytest.mark.parametrize("key", Config.model_fields)
def test_every_key_is_in_the_readme_once(key: str) -> None:
    assert README.count(f"\n| `{key}` | ") == 1


@pytest.mark.parametrize(
    ("now", "before"),
    [
        ("| `cannot-save` |", "| `can-save` |"),
        ("| `adam_beta2` | `0.999` |", "| `adam_beta2` | `0.99` |"),
        ("| `lora_layers` |", "| `layers` |"),
    ],
)
def test_a_stale_readme_is_brought_up_to_date(tmp_path: Path, now: str, before: str) -> None:
    assert README.count(now) == 1
    stale = tmp_path / "README.md"
    stale.write_text(README.replace(now, before), encoding="utf-8")
    main(stale)
    assert stale.read_text(encoding="utf-8") == README


@pytest.mark.parametrize("mark", ["<!-- configuration keys: begin -->", "<!-- troubleshooting: end -->"])
def test_a_readme_without_marks_is_refused(mark: str) -> None:
    with pytest.raises(ValueError, match="lacks <!--"):
        refreshed(README.replace(mark, ""))
