"""Cures of datasets: columns, rows, splits, formats."""

import json
import shutil
from pathlib import Path
from typing import Any

import datasets

from grpo_cli.config.schema import Config
from grpo_cli.data.load import load_examples
from grpo_cli.engine.rollout.prompts import Prompts
from grpo_cli.models.load import load_policy
from tests.support.cure_scenarios import Steps, cases_of, toml

ROW = {"question": "1 + 1?", "answer": "2"}
MESSAGE = {"role": "user", "content": "1 + 1?"}


def rows(file: str, *found: object) -> None:
    Path(file).parent.mkdir(parents=True, exist_ok=True)
    Path(file).write_text("".join(json.dumps(row) + "\n" for row in found))


def examples(dataset: str, split: str = "train", **keys: Any) -> object:
    return load_examples(Config.model_validate({"dataset": dataset, **keys}), split)


def row_without_answer() -> Steps:
    rows("d.jsonl", ROW, {**ROW, "answer": " "})
    assert "remove the row or give it an answer" in (yield lambda: examples("d.jsonl"))
    rows("d.jsonl", ROW, {**ROW, "answer": "4"})


def answer_that_is_none() -> Steps:
    rows("d.jsonl", ROW, {**ROW, "answer": None})
    assert "remove the row" in (yield lambda: examples("d.jsonl"))
    rows("d.jsonl", ROW)


def arithmetic_split() -> Steps:
    assert "its splits are `train` and `test`" in (yield lambda: examples("arithmetic", "dev"))
    yield lambda: examples("arithmetic", "test")


def arithmetic_difficulty() -> Steps:
    assert '"1" to "4"' in (yield lambda: examples("arithmetic", dataset_config="9"))
    yield lambda: examples("arithmetic", dataset_config="4")


def no_text() -> Steps:
    rows("d.jsonl", {**ROW, "question": 3})
    hint = yield lambda: examples("d.jsonl", prompt_format="text")
    assert hint == "give the row a text, or remove it"
    rows("d.jsonl", ROW)


def no_prompt() -> Steps:
    rows("d.jsonl", {**ROW, "question": 3})
    assert "a prompt is text or a list of chat messages" in (yield lambda: examples("d.jsonl"))
    rows("d.jsonl", ROW, {**ROW, "question": [MESSAGE]})


def no_conversation() -> Steps:
    rows("d.jsonl", {**ROW, "question": [{"speaker": "me", "text": "1 + 1?"}]})
    hint = yield lambda: examples("d.jsonl")
    assert '{"role": "user", "content": "…"} or {"from": "human", "value": "…"}' in hint
    rows("d.jsonl", {**ROW, "question": [MESSAGE]}, {**ROW, "question": [{"from": "human", "value": "2?"}]})


def empty_split() -> Steps:
    rows("d/train.jsonl", ROW)
    rows("d/dev.jsonl")
    assert "name another split" in (yield lambda: examples("d", "dev"))
    yield lambda: examples("d", "train")


def arithmetic_misspelt() -> Steps:
    assert (yield lambda: examples("arithmatic")) == "did you mean `arithmetic`?"
    yield lambda: examples("arithmetic")


def file_misspelt() -> Steps:
    rows("d/train.jsonl", ROW)
    assert (yield lambda: examples("./d/trian.jsonl")) == "did you mean `d/train.jsonl`?"
    yield lambda: examples("d/train.jsonl")


def one_table_has_one_split() -> Steps:
    rows("sums.jsonl", ROW)
    hint = yield lambda: examples("sums.jsonl", "test")
    assert "make a folder with train.jsonl and test.jsonl" in hint and toml(hint) == {"eval_steps": 0}
    rows("sums/train.jsonl", ROW)
    rows("sums/test.jsonl", ROW)
    yield lambda: examples("sums", "test")


def unknown_kind_of_file() -> Steps:
    Path("d.xml").write_text("<a/>")
    assert ".jsonl" in (yield lambda: examples("d.xml"))
    rows("d.jsonl", ROW)
    yield lambda: examples("d.jsonl")


def split_not_in_folder() -> Steps:
    rows("d/train.jsonl", ROW)
    hint = yield lambda: examples("d", "test")
    assert "its splits: train" in hint and toml(hint) == {"eval_steps": 0}
    yield lambda: examples("d", "train")


def split_in_two_kinds() -> Steps:
    rows("d/train.jsonl", ROW)
    Path("d/train.csv").write_text("question,answer\n1,2\n")
    assert "keep one kind" in (yield lambda: examples("d"))
    Path("d/train.csv").unlink()


def rows_that_are_no_objects() -> Steps:
    rows("d.jsonl", ROW, [1])
    assert "one JSON object per line" in (yield lambda: examples("d.jsonl"))
    rows("d.jsonl", ROW)


def broken_json_line() -> Steps:
    Path("d.jsonl").write_text('{"question": "1", "answer": "2"}\n{"question": \n')
    assert "one JSON object per line" in (yield lambda: examples("d.jsonl"))
    rows("d.jsonl", ROW)


def json_too_deep() -> Steps:
    Path("d.jsonl").write_text("[" * 100_000 + "\n")
    assert "one JSON object per line" in (yield lambda: examples("d.jsonl"))
    rows("d.jsonl", ROW)


def broken_parquet() -> Steps:
    Path("d.parquet").write_bytes(b"PAR1 not")
    assert (yield lambda: examples("d.parquet")) == "download or write it again"
    datasets.Dataset.from_list([ROW]).to_parquet("d.parquet")


def broken_arrow() -> Steps:
    Path("d.arrow").write_bytes(b"not")
    assert (yield lambda: examples("d.arrow")) == "write it again"
    datasets.Dataset.from_list([ROW]).save_to_disk("saved")
    shutil.copy(next(Path("saved").glob("*.arrow")), "d.arrow")


def broken_csv() -> Steps:
    Path("d.csv").write_text('question,answer\n"1,2,3\n')
    assert "cells with a comma, a quote or a line break are quoted" in (yield lambda: examples("d.csv"))
    Path("d.csv").write_text('question,answer\n"1,2,3",4\n')


def description_of_elsewhere() -> Steps:
    rows("d/data/train.jsonl", ROW)
    Path("d/README.md").write_text("---\nconfigs:\n- config_name: a\n  data_files: ../x.jsonl\n---\n")
    assert "name a data file in it" in (yield lambda: examples("d"))
    yield lambda: examples("d/data/train.jsonl")


def configuration_not_in_description() -> Steps:
    rows("d/data/x.jsonl", ROW)
    Path("d/README.md").write_text(
        "---\nconfigs:\n- config_name: a\n  data_files: [{split: train, path: data/x.jsonl}]\n---\n"
    )
    assert (yield lambda: examples("d", dataset_config="b")) == "set dataset_config to one of a"
    yield lambda: examples("d", dataset_config="a")


def column_of_another_name() -> Steps:
    rows("d.jsonl", {"problem": "1 + 1?", "answer": "2"})
    hint = yield lambda: examples("d.jsonl")
    yield lambda: examples("d.jsonl", **toml(hint))


def solution_is_no_prompt() -> Steps:
    rows("d.jsonl", {"question": "1 + 1?", "solution": "2"})
    hint = yield lambda: examples("d.jsonl")
    assert toml(hint) == {"answer_column": "solution"}
    yield lambda: examples("d.jsonl", **toml(hint))


def solution_beside_a_strange_prompt() -> Steps:
    rows("d.jsonl", {"wozu": "1 + 1?", "solution": "2"})
    hint = yield lambda: examples("d.jsonl")
    assert hint == "set `prompt_column` to one of them: its columns: wozu, solution"
    yield lambda: examples("d.jsonl", prompt_column="wozu", answer_column="solution")


def dataset_without_answers() -> Steps:
    rows("d.jsonl", {"question": "1 + 1?"})
    hint = yield lambda: examples("d.jsonl")
    assert toml(hint) == {"answer_column": ""}
    yield lambda: examples("d.jsonl", reward_functions=["length"], eval_steps=0, **toml(hint))


def split_not_saved() -> Steps:
    datasets.DatasetDict(train=datasets.Dataset.from_list([ROW])).save_to_disk("d")
    hint = yield lambda: examples("d", "test")
    assert "its splits: train;" in hint and toml(hint) == {"eval_steps": 0}
    yield lambda: examples("d", "train")


def saved_dataset_that_is_broken() -> Steps:
    datasets.Dataset.from_list([ROW]).save_to_disk("d")
    next(Path("d").glob("*.arrow")).unlink()
    assert "save it again with `dataset.save_to_disk(FOLDER)`" in (yield lambda: examples("d"))
    datasets.Dataset.from_list([ROW]).save_to_disk("d")


def half_of_a_character() -> Steps:
    rows("d.jsonl", {**ROW, "question": "1 \ud83d"})
    assert "write it again, or remove the row" in (yield lambda: examples("d.jsonl"))
    rows("d.jsonl", {**ROW, "question": "1 😀"})


def prompts_too_long() -> Steps:
    policy = load_policy("tiny")
    config = Config(max_prompt_length=1, max_new_tokens=8)
    found = load_examples(config.model_copy(update={"dataset": "arithmetic"}), "train")[:4]
    hint = yield lambda: Prompts(found, policy.tokenizer, config).count(4)
    longer = config.model_copy(update=toml(f"`{hint}`"))
    yield lambda: Prompts(found, policy.tokenizer, longer).count(4)


test_a_cure_cures = cases_of(globals())
