"""load_examples over every kind of dataset: system prompt, limits, the hub's errors, GSM8K's copy."""

import gc
import json
from pathlib import Path
from typing import Any

import datasets
import pytest
from datasets.exceptions import DatasetNotFoundError

from grpo_cli.config.schema import Config
from grpo_cli.data import arithmetic, hub
from grpo_cli.data.load import load_examples
from grpo_cli.errors import DataError
from grpo_cli.types import Example

GSM8K = Path(__file__).parents[2] / "../shared/data/gsm8k"
SYSTEM = {"role": "system", "content": "Be short."}


def user(text: str) -> dict[str, str]:
    """A user's message."""
    return {"role": "user", "content": text}


def sums(folder: Path, count: int = 3) -> Config:
    """A configuration whose dataset is a folder with 1 + 1, 2 + 2, … as train and 10 + 10 as test."""
    rows = [{"question": f"{n} + {n}?", "answer": 2 * n} for n in range(1, count + 1)]
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "test.jsonl").write_text('{"question": "10 + 10?", "answer": 20}\n' * 2)
    return Config(dataset=str(folder), system_prompt="")


def error_of(config: Config, split: str = "train") -> DataError:
    """The error that loading gives."""
    with pytest.raises(DataError) as caught:
        load_examples(config, split)
    return caught.value


def test_a_folder(tmp_path: Path) -> None:
    config = sums(tmp_path)
    assert load_examples(config, "train") == [
        Example(
            messages=[user(f"{n} + {n}?")],
            answer=str(2 * n),
            columns={"question": f"{n} + {n}?", "answer": 2 * n},
        )
        for n in (1, 2, 3)
    ]
    ten = Example(messages=[user("10 + 10?")], answer="20", columns={"question": "10 + 10?", "answer": 20})
    assert load_examples(config, "test") == [ten] * 2
    assert load_examples(config, "test")[1].place == f"line 2 of {tmp_path}/test.jsonl, split `test`"


@pytest.mark.parametrize("dataset", ["arithmetic", "folder"])
def test_max_train_samples_takes_the_first_training_examples_only(tmp_path: Path, dataset: str) -> None:
    config = sums(tmp_path)
    if dataset == "arithmetic":
        config = config.model_copy(update={"dataset": "arithmetic"})
    limited = config.model_copy(update={"max_train_samples": 1})
    assert load_examples(limited, "train") == load_examples(config, "train")[:1]
    assert load_examples(limited, "test") == load_examples(config, "test")
    assert len(load_examples(config, "test")) > 1


def test_every_kind_of_dataset_gets_the_system_prompt(tmp_path: Path) -> None:
    for dataset in ("arithmetic", sums(tmp_path).dataset):
        plain = load_examples(Config(dataset=dataset, system_prompt=""), "train")[0]
        [message] = plain.messages
        with_system = load_examples(Config(dataset=dataset, system_prompt="Be short."), "train")[0]
        assert with_system.messages == [SYSTEM, message]


def test_a_conversation_with_its_own_system_message_keeps_it(tmp_path: Path) -> None:
    own = [{"role": "system", "content": "Be long."}, user("1 + 1?")]
    (tmp_path / "a.jsonl").write_text(json.dumps({"question": own, "answer": 2}))
    config = Config(dataset=str(tmp_path / "a.jsonl"), system_prompt="Be short.")
    assert load_examples(config, "train")[0].messages == own


def test_an_empty_split_is_named(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_text("\n")
    assert (
        error_of(Config(dataset=str(tmp_path))).message == f"Empty split: `train` of {tmp_path} has no rows"
    )


def test_a_path_that_does_not_exist_is_not_looked_for_on_the_hub(tmp_path: Path) -> None:
    sums(tmp_path)
    error = error_of(Config(dataset=f"{tmp_path}/tran.jsonl"))
    assert error.message == f"Dataset not found: {tmp_path}/tran.jsonl"
    assert error.hint == f"did you mean `{tmp_path}/train.jsonl`?"


def test_arithmetic_has_two_splits() -> None:
    assert (
        error_of(Config(dataset="arithmetic"), "dev").message == "The dataset `arithmetic` has no split 'dev'"
    )


def on_the_hub(monkeypatch: pytest.MonkeyPatch, answer: Any) -> list[tuple[Any, ...]]:
    """Let `datasets` answer with these rows or raise this error; the calls it gets are returned."""
    calls: list[tuple[Any, ...]] = []

    def load_dataset(
        name: str, config_name: str | None, split: str, trust_remote_code: bool
    ) -> datasets.Dataset:
        assert trust_remote_code is False
        calls.append((name, config_name, split))
        if isinstance(answer, Exception):
            raise answer
        return datasets.Dataset.from_list(answer)

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    return calls


def test_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{"question": "a", "answer": "x\n#### 1,000"}, {"question": "b", "answer": "#### -3"}]
    calls = on_the_hub(monkeypatch, rows)
    config = Config(dataset="openai/gsm8k", system_prompt="", max_train_samples=1)
    first = Example(messages=[user("a")], answer="1,000", columns=rows[0])
    assert load_examples(config, "train") == [first]
    assert load_examples(config, "test") == [
        first,
        Example(messages=[user("b")], answer="-3", columns=rows[1]),
    ]
    load_examples(config.model_copy(update={"dataset_config": "socratic"}), "test")
    load_examples(config.model_copy(update={"dataset": "owner/sums", "max_train_samples": 9}), "train")
    assert calls == [
        ("openai/gsm8k", "main", "train"),
        ("openai/gsm8k", "main", "test"),
        ("openai/gsm8k", "socratic", "test"),
        ("owner/sums", None, "train"),
    ]


@pytest.mark.parametrize(
    ("name", "raised", "message", "hint"),
    [
        ("owner/x", DatasetNotFoundError("gone"), "Dataset not found: owner/x", hub.NOT_FOUND),
        (
            "owner/x",
            ConnectionError("Couldn't reach\n 'owner/x'"),
            "Dataset not reachable: owner/x is neither on this disk nor in the local cache, "
            "and HF_HUB_OFFLINE=1 forbids access to the hub",
            f"`unset HF_HUB_OFFLINE`, or {hub.LOCAL_COPY}",
        ),
        (
            "owner/x",
            OSError("disk full"),
            "Failed to load dataset owner/x, split `train`: disk full",
            hub.LOCAL_COPY,
        ),
    ],
)
def test_errors_of_the_hub(
    monkeypatch: pytest.MonkeyPatch, name: str, raised: Exception, message: str, hint: str
) -> None:
    on_the_hub(monkeypatch, raised)
    error = error_of(Config(dataset=name))
    assert (error.message, error.hint) == (message, hint)
    assert error.__cause__ is raised


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("arithmatic", "did you mean `arithmetic`?"),
        ("my_problms", "did you mean `my_problems`?"),
        ("my_problem", "did you mean `my_problems`?"),
        ("sub/sum", "did you mean `sub/sums.csv`?"),
        ("my_problems.jsonl", "did you mean `my_problems`?"),
    ],
)
def test_a_slip_in_a_local_name_is_answered_without_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, hint: str
) -> None:
    calls = on_the_hub(monkeypatch, AssertionError("the hub was asked"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_problems").mkdir()
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "sums.csv").write_text("question,answer\n")
    error = error_of(Config(dataset=name))
    assert (error.message, error.hint, calls) == (f"Dataset not found: {name}", hint, [])


def test_a_name_of_the_hub_is_not_taken_for_a_slip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "openai" / "gpt-oss-20b").mkdir(parents=True)
    calls = on_the_hub(monkeypatch, [{"question": "a", "answer": "b"}])
    load_examples(Config(dataset="openai/gsm8k"), "train")
    assert calls == [("openai/gsm8k", "main", "train")]


def test_an_unknown_split_or_configuration_lists_those_that_exist(tmp_path: Path) -> None:
    sums(tmp_path)  # `datasets` says the same of a folder as of the hub
    with pytest.raises(DataError) as caught:
        hub.read(str(tmp_path), "", "dev")
    assert caught.value.message == (
        f"Failed to load dataset {tmp_path}, split `dev`: "
        "Unknown split \"dev\". Should be one of ['train', 'test']."
    )
    with pytest.raises(DataError) as caught:
        hub.read(str(tmp_path), "main", "train")
    assert caught.value.message.endswith("BuilderConfig 'main' not found. Available: ['default']")
    assert caught.value.hint == "set dataset_config, train_split and eval_split to names that the dataset has"


@pytest.mark.skipif(not GSM8K.is_dir(), reason="needs ../shared/data/gsm8k")
def test_a_local_copy_of_gsm8k() -> None:
    config = Config(dataset=str(GSM8K), dataset_config="main")
    train, test = load_examples(config, "train"), load_examples(config, "test")
    assert (len(train), len(test)) == (7473, 1319)
    assert (train[0].answer, test[0].answer) == ("72", "18")
    assert train[0].messages[0] == {"role": "system", "content": config.system_prompt}
    assert train[0].messages[1]["content"].startswith("Natalia sold clips to 48 of her friends in April")


def test_the_garbage_collector_is_off_only_while_rows_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[bool] = []
    monkeypatch.setattr(arithmetic, "load", lambda *_: seen.append(gc.isenabled()))
    load_examples(Config(dataset="arithmetic"), "train")
    with pytest.raises(DataError):
        load_examples(Config(dataset="./missing.jsonl"), "train")
    assert seen == [False]
    assert gc.isenabled()
