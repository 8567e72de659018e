"""Cures of configurations, paths, eval and the doctor."""

import os
from pathlib import Path

from grpo_cli.cli.completions_file import completions_file
from grpo_cli.cli.doctor import examined_context, show_chapter
from grpo_cli.cli.output_file import OutputFile
from grpo_cli.config.load import load_config
from grpo_cli.config.resolve import find_config
from grpo_cli.config.schema import Config
from grpo_cli.device import choose_kind
from grpo_cli.distributed.hosts import read_hosts
from grpo_cli.distributed.topology import find_rank
from grpo_cli.doctor.context import Context
from grpo_cli.doctor.run import chosen
from grpo_cli.files import chosen_path
from tests.support.cure_models import adapters, change, llama
from tests.support.cure_scenarios import Steps, cases_of, command


def no_configuration() -> Steps:
    hint = yield lambda: load_config(None, required=True)
    assert hint.startswith("`--config smoke_test.toml` (shipped: ")
    yield lambda: load_config("smoke_test.toml", required=True)


def configuration_elsewhere() -> Steps:
    Path("configs").mkdir()
    Path("configs/mine.toml").write_text("seed = 1\n")
    hint = yield lambda: find_config("mien.toml")
    assert hint
    yield lambda: find_config("configs/mine.toml")


def path_with_an_unknown_name() -> Steps:
    hint = yield lambda: chosen_path("$NOWHERE/x")
    name = hint.split("`export ")[1].partition("=")[0]
    os.environ[name] = "/tmp"
    try:
        yield lambda: chosen_path("$NOWHERE/x")
    finally:
        del os.environ[name]


def path_of_an_unknown_user() -> Steps:
    hint = yield lambda: chosen_path("~nobody-here/x")
    assert "`./~nobody-here/x`" in hint
    yield lambda: chosen_path("./~nobody-here/x")


def path_with_a_nul() -> Steps:
    assert (yield lambda: chosen_path("a\0b")) == "write a path whose names have at most 255 bytes"
    yield lambda: chosen_path("ab")


def device_that_is_not_there() -> Steps:
    hint = yield lambda: choose_kind("tpu", metal=False, cuda=False)
    assert hint == "set GRPO_DEVICE to `cpu`, or unset it"
    yield lambda: choose_kind("cpu", metal=False, cuda=False)


def host_file_that_is_none() -> Steps:
    Path("h.json").write_text("{}")
    hint = yield lambda: read_hosts(Path("h.json"))
    Path("h.json").write_text(hint.split("`")[1])


def rank_that_cannot_be_told() -> Steps:
    environment = {"MLX_RANK": "0"}
    assert "unset MLX_RANK" in (yield lambda: find_rank(environment))
    yield lambda: find_rank({})


def launcher_that_is_not_ours() -> Steps:
    environment = {"OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": "0"}
    assert "or unset OMPI_COMM_WORLD_SIZE" in (yield lambda: find_rank(environment))
    yield lambda: find_rank({"OMPI_COMM_WORLD_RANK": "0"})


# --- eval, doctor -------------------------------------------------------------------------------------


def completions_over_the_dataset() -> Steps:
    Path("d.jsonl").write_text("{}\n")
    config = Config(dataset="d.jsonl")
    assert "choose a file" in (yield lambda: completions_file(Path("d.jsonl"), True, config))
    yield lambda: completions_file(Path("out.jsonl"), True, config)


def output_that_exists() -> Steps:
    Path("f").write_text("kept")
    hint = yield lambda: OutputFile(
        Path("f"), force=False, cannot="", exists="exists", replace="`--force` overwrites it"
    )
    assert "--force" in hint
    yield lambda: OutputFile(Path("f"), force=True, cannot="", exists="exists", replace="")


def doctor_of_a_run_that_is_not_there() -> Steps:
    Path("outputs/r").mkdir(parents=True)
    hint = yield lambda: examined_context(None, None, None, Path("outputs/x"), [])
    assert hint.startswith("give the folder of a run")
    yield lambda: examined_context(None, None, None, Path("outputs/r"), [])


def chapter_misspelt() -> Steps:
    hint = yield lambda: show_chapter("datast", as_json=True)
    assert hint.startswith("did you mean `dataset`")
    yield lambda: show_chapter("dataset", as_json=True)


def check_misspelt() -> Steps:
    hint = yield lambda: chosen(Context(), ["disc"])
    assert "`disk`" in hint
    yield lambda: chosen(Context(), ["disk"])


def check_without_its_subject() -> Steps:
    llama("m")
    hint = yield lambda: chosen(Context(), ["tokenizer"])
    assert command(hint)[:4] == ["doctor", "--only", "tokenizer", "--model"]
    yield lambda: chosen(Context(model="m"), ["tokenizer"])


def doctor_of_adapters_without_base() -> Steps:
    llama("base")
    folder = adapters("a", base="./base")
    Path("base").rename("moved")
    hint = yield lambda: Context(model="a").base_folder
    assert "write its new place into `model` of" in hint
    change(folder / "adapter_config.json", model="./moved")
    yield lambda: Context(model="a").base_folder


def doctor_of_a_missing_model() -> Steps:
    llama("m")
    assert "`hf download owner/gone`" in (yield lambda: examined_context(None, "owner/gone", None, None, []))
    yield lambda: examined_context(None, "m", None, None, [])


def doctor_of_a_missing_folder() -> Steps:
    llama("m")
    assert "give a local folder" in (yield lambda: examined_context(None, "./gone", None, None, []))
    yield lambda: examined_context(None, "m", None, None, [])


# --- rewards ------------------------------------------------------------------------------------------


test_a_cure_cures = cases_of(globals())
