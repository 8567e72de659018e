"""Cures of where a conversion goes, and of the way back."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from grpo_cli.convert.options import Options
from grpo_cli.convert.push import check_repository, plan
from grpo_cli.convert.run import convert
from grpo_cli.convert.staging import check_output
from grpo_cli.convert.to_hf import convert_to_hf
from grpo_cli.convert.to_nanochat import convert_back
from grpo_cli.convert.to_peft import convert_to_peft
from grpo_cli.models.adapters import LoRA, add_adapters, save_adapters
from grpo_cli.models.find import TINY
from grpo_cli.models.load import load_policy
from tests.support.cure_models import adapters, change, llama
from tests.support.cure_scenarios import Steps, cases_of, command, grpo
from tests.support.nanochat_checkpoints import write_checkpoint


def unseen(*_: object) -> None:
    """Show nothing."""


def made(source: object, **options: Any) -> object:
    return convert(str(source), Options(**{"verify": False, "force": True, **options}), unseen, unseen)


def back(source: object) -> object:
    return convert_back(str(source), Options(verify=False, force=True), unseen, unseen)


def nanochat(name: str = "d3") -> Path:
    """A nanochat checkpoint's folder, the same each time."""
    return write_checkpoint(Path(name))


def weights(folder: Path) -> Path:
    return next(folder.glob("model_*.pt"))


def meta(folder: Path) -> Path:
    return next(folder.glob("meta_*.json"))


def tiny_folder(name: str = "m") -> Path:
    shutil.copytree(TINY, name, ignore=shutil.ignore_patterns("*.py", "__pycache__"))
    return Path(name)


def copied_again(path: Path, original: Path, act: Callable[[], object], words: str) -> Steps:
    """The cure of a damaged file: the same file from where it is whole."""
    assert words in (yield act)
    shutil.copy(original, path)


def output_is_the_source() -> Steps:
    llama()
    assert "another folder with `--output`" in (yield lambda: made("m", output=Path("m")))
    yield lambda: made("m", output=Path("other"))


def output_is_a_file() -> Steps:
    llama()
    Path("f").write_text("")
    assert "name a folder with `--output`" in (yield lambda: made("m", output=Path("f")))
    yield lambda: made("m", output=Path("other"))


def output_is_a_disk() -> Steps:
    hint = yield lambda: check_output(Path("/proc"), False, [])
    assert hint == "choose one in it: `--output /proc/model`"
    yield lambda: check_output(Path("/proc/model"), False, [])


def output_exists() -> Steps:
    llama()
    made("m", output=Path("out"))
    assert "replace it with `--force`" in (yield lambda: made("m", output=Path("out"), force=False))
    yield lambda: made("m", output=Path("out"), force=True)


def output_holds_something_else() -> Steps:
    llama()
    Path("out").mkdir()
    Path("out/thesis.tex").write_text("")
    assert "another folder with `--output`" in (yield lambda: made("m", output=Path("out")))
    yield lambda: made("m", output=Path("other"))


# --- a folder of transformers', adapters, and back to nanochat ----------------------------------------


def step_of_a_folder() -> Steps:
    llama()
    assert (yield lambda: made("m", step=3)) == "leave them out"
    yield lambda: made("m")


def quantised_twice() -> Steps:
    llama()
    made("m", output=Path("q"), quantize=True)
    assert "quantize the original model" in (yield lambda: made("q", quantize=True))
    yield lambda: made("m", quantize=True)


def folder_without_a_tokenizer() -> Steps:
    path = llama() / "tokenizer.json"
    path.unlink()
    original = llama("again") / "tokenizer.json"
    yield from copied_again(path, original, lambda: made("m"), "download or copy the model again")


def unknown_kind_of_model() -> Steps:
    """A newer mlx-lm is not to be had here; a kind that this one has stands for it."""
    change(llama() / "config.json", model_type="unheard_of")
    assert "`pip install --upgrade mlx-lm`" in (yield lambda: made("m"))
    change(Path("m/config.json"), model_type="llama")


def nothing_to_fuse() -> Steps:
    llama("my model")
    from grpo_cli.convert.fuse import fuse

    hint = yield lambda: fuse("my model", Options(verify=False), unseen, unseen)
    grpo(*command(hint), "--no-verify")
    yield lambda: None


def hf(source: str) -> object:
    return convert_to_hf(source, Options(verify=False, force=True), unseen, unseen)


def peft(source: str) -> object:
    return convert_to_peft(source, Options(verify=False, force=True), unseen, unseen)


def family_that_transformers_lacks() -> Steps:
    hint = yield lambda: hf("tiny")
    grpo(*command(hint), "--no-verify", "--output", "nanochat")
    yield lambda: None


def peft_of_a_full_model() -> Steps:
    llama("my model")
    hint = yield lambda: peft("my model")
    grpo(*command(hint), "--no-verify", "--output", "full")
    yield lambda: None


def peft_of_a_quantized_base() -> Steps:
    llama()
    small = convert("m", Options(output=Path("small"), quantize=True, group_size=32, verify=False))
    adapters(base=str(small.output))
    hint = yield lambda: peft("a")
    grpo(*command(hint), "--no-verify", "--output", "full")
    yield lambda: None


def peft_of_a_tied_embedding() -> Steps:
    llama()
    policy, lora = load_policy("m"), LoRA(rank=2, keys=("model.embed_tokens",))
    add_adapters(policy.model, lora)
    Path("a").mkdir()
    save_adapters(policy.model, lora, "m", Path("a"))
    hint = yield lambda: peft("a")
    grpo(*command(hint), "--no-verify", "--output", "full")
    yield lambda: None


def repository_without_an_owner() -> Steps:
    assert "`--push OWNER/NAME`" in (yield lambda: check_repository("mine"))
    yield lambda: check_repository("OWNER/NAME")


def peft_of_a_local_base_for_others() -> Steps:
    llama()
    adapters(base="m")
    grpo("convert", "--to", "peft", "a", "--no-verify", "--output", "p")
    hint = yield lambda: plan(Path("p"), "ada/p", "")
    assert "`--to hf` in place of `--to peft`" in hint
    grpo("convert", "--to", "hf", "a", "--no-verify", "--output", "full")
    yield lambda: plan(Path("full"), "ada/p", "")


def back_of_a_runs_folder() -> Steps:
    Path("run").mkdir()
    tiny_folder("run/final")
    assert (yield lambda: back("run")) == "name one of its models: run/final"
    yield lambda: back("run/final")


def back_of_a_llama() -> Steps:
    llama()
    assert "only nanochat models" in (yield lambda: back("m"))
    yield lambda: back(tiny_folder("t"))


def back_without_a_tokenizer() -> Steps:
    path = tiny_folder() / "tokenizer.pkl"
    path.unlink()
    yield from copied_again(
        path, TINY / "tokenizer.pkl", lambda: back("m"), "copy it there from the nanochat run"
    )


def back_of_a_damaged_origin() -> Steps:
    change(tiny_folder() / "config.json", nanochat={"step": "x"})
    assert "or delete its entry `nanochat`" in (yield lambda: back("m"))
    config = json.loads(Path("m/config.json").read_text())
    del config["nanochat"]
    Path("m/config.json").write_text(json.dumps(config))


def back_of_other_sizes() -> Steps:
    made(nanochat(), output=Path("m"))
    change(Path("m/config.json"), nanochat={}, num_attention_heads=0)
    hint = yield lambda: back("m")
    assert hint == "take a model that `grpo convert` made, or that was trained from one"
    made("d3", output=Path("m"))


def back_of_other_rows() -> Steps:
    made(nanochat(), output=Path("m"))
    config = json.loads(Path("m/config.json").read_text())
    change(Path("m/config.json"), nanochat={**config["nanochat"], "rows": 9})
    assert (yield lambda: back("m")) == "convert the original again"
    made("d3", output=Path("m"))


def tensor_of_whole_numbers() -> Steps:
    from grpo_cli.convert.dtypes import DTYPES
    from grpo_cli.convert.outgoing import OutgoingTensor
    from grpo_cli.convert.torch_writer import write_torch_file

    file = weights(nanochat())
    kept = file.read_bytes()
    whole = DTYPES["int64"]
    write_torch_file(
        file, [OutgoingTensor(name="a", dtype=whole, shape=(2,), read=lambda: np.zeros(2, np.int64))]
    )
    assert "`model_<step>.pt`" in (yield lambda: made("d3"))
    file.write_bytes(kept)


test_a_cure_cures = cases_of(globals())
