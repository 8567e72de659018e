"""Model cards: what a run's folder says, and no path of this machine."""

import json
from pathlib import Path

import pytest

from grpo_cli.config.render import dump_config
from grpo_cli.config.schema import Config
from grpo_cli.convert.model_card import base_name, model_card, public

RUN = Config(
    model_name="/home/ada/models/SmolLM2",
    dataset="/home/ada/data/sums.jsonl",
    output_dir="/home/ada/outputs",
    run_name="sums",
    reward_functions=["correctness", "/home/ada/rewards.py:short"],
    reward_weights=[1.0, 0.5],
    seed=7,
    learning_rate=2e-5,
)


@pytest.fixture
def final(tmp_path: Path) -> Path:
    """A checkpoint of step 20 of a run of 40 steps."""
    folder = tmp_path / "sums" / "final"
    folder.mkdir(parents=True)
    (folder / "config.toml").write_text(dump_config(RUN))
    (folder / "trainer_state.json").write_text('{"step": 20}')
    lines = [{"step": step, "eval_accuracy": value, "eval_samples": 50} for step, value in SCORES.items()]
    (tmp_path / "sums" / "training_log.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n")
    return folder


SCORES = {0: 0.02, 10: 0.4, 20: 0.625, 40: 0.99}


def test_the_card_of_a_run(final: Path) -> None:
    card = model_card(final, "HuggingFaceTB/SmolLM2-135M-Instruct", "hf")
    assert card.startswith(
        '---\nlibrary_name: transformers\nbase_model: "HuggingFaceTB/SmolLM2-135M-Instruct"\n'
        "tags:\n- grpo\n- mlx\n---\n\n# sums\n\nMade from HuggingFaceTB/SmolLM2-135M-Instruct by GRPO"
    )
    for row in (
        "| data | sums.jsonl train |",
        "| rewards | correctness × 1, rewards.py:short × 0.5 |",
        "| accuracy before (step 0) | 2.0% on 50 items of the split test |",
        "| accuracy after (step 20) | 62.5% |",  # not of a later step
        "| loss | dapo |",
        "| seed | 7 |",
    ):
        assert row in card.splitlines()
    assert "| versions | grpo-cli " in card
    settings = card.partition("```toml\n")[2].partition("```")[0].splitlines()
    assert "learning_rate = 2e-05" in settings
    assert 'model_name = "SmolLM2"' in settings
    assert 'reward_functions = ["correctness", "rewards.py:short"]' in settings
    assert not any(line.startswith("temperature") for line in settings)  # the default


def test_no_path_of_this_machine(final: Path) -> None:
    card = model_card(final, base_name(final, str(final)), "mlx")
    assert "ada" not in card
    assert str(final.parent.parent) not in card
    assert "base_model" not in card  # a folder is no name on the hub
    assert "Made from SmolLM2 by GRPO" in card


def test_the_card_of_a_model_without_a_run(tmp_path: Path) -> None:
    folder = tmp_path / "SmolLM2"
    folder.mkdir()
    card = model_card(folder, "owner/name", "nanochat")
    assert card == (
        '---\nlibrary_name: nanochat\nbase_model: "owner/name"\ntags:\n- grpo\n- mlx\n---\n\n# name\n\n'
        "Made from owner/name, converted by grpo-cli.\n"
    )


def test_a_damaged_log_gives_no_scores(final: Path) -> None:
    (final.parent / "training_log.jsonl").write_text('{"step": 0, "eval_accuracy": 0.5}\n{"ste')
    assert "accuracy" not in model_card(final, "owner/name", "mlx").partition("## Configuration")[0]


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("owner/name", "owner/name"),
        ("tiny", "tiny"),
        ("/a/b/c", "c"),
        ("./models/x", "x"),
        ("a/b/c", "c"),
        ("~/m", "m"),
    ],
)
def test_names_for_others(name: str, shown: str) -> None:
    assert public(name) == shown


def test_a_folder_of_two_parts_is_no_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "models" / "mine").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert public("models/mine") == "mine"
