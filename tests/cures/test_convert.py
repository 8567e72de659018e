"""Cures of what is converted."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from grpo_cli.convert.options import Options
from grpo_cli.convert.run import convert
from grpo_cli.convert.source import find_source
from grpo_cli.convert.to_nanochat import convert_back
from grpo_cli.convert.torch_file import TorchFile
from grpo_cli.models.find import TINY, check_model_folder
from tests.support.cure_models import adapters, llama
from tests.support.cure_scenarios import Steps, cases_of, command, grpo
from tests.support.nanochat_checkpoints import FIXTURES, write_checkpoint


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


# --- the source ---------------------------------------------------------------------------------------


def file_of_a_model() -> Steps:
    llama()
    assert (yield lambda: made("m/config.json")) == "name its folder: m"
    yield lambda: made("m")


def step_that_is_not_there() -> Steps:
    step = int(weights(nanochat()).stem.rpartition("_")[2])
    hint = yield lambda: find_source("d3", step=step + 1)
    assert hint == f"it has {step}: choose one with `--step`"
    yield lambda: find_source("d3", step=step)


def step_beside_a_file_of_another() -> Steps:
    file = weights(nanochat())
    hint = yield lambda: find_source(str(file), step=7)
    assert hint == "leave `--step` out, or name the folder d3"
    yield lambda: find_source(str(file))


def address_of_a_repository() -> Steps:
    hint = yield lambda: find_source("https://huggingface.co/owner/name/tree/main")
    assert hint == "a repository is named without the hub's address: owner/name"
    shutil.copytree(tiny_folder(), "owner/name")  # else the hub would be asked
    yield lambda: find_source("owner/name")


def adapters_are_no_model() -> Steps:
    adapters("a b")
    hint = yield lambda: made("a b")
    assert command(hint, 1) == ["eval", "--model", "a b"]
    grpo(*command(hint), "--no-verify")
    yield lambda: made(next(Path("models").iterdir()))


def weights_only_as_a_pickle() -> Steps:
    (llama() / "model.safetensors").rename("kept")
    Path("m/pytorch_model.bin").write_bytes(b"")
    assert (yield lambda: made("m")) == "look for a revision or a repository with `.safetensors` files"
    Path("kept").rename("m/model.safetensors")


def folder_of_models() -> Steps:
    Path("all").mkdir()
    llama("all/m")
    assert (yield lambda: made("all")) == "name one of them: all/m"
    yield lambda: made("all/m")


def folder_of_something_else() -> Steps:
    Path("x").mkdir()
    Path("x/notes.txt").write_text("")
    assert "with `config.json` and `model*.safetensors`" in (yield lambda: made("x"))
    llama()
    yield lambda: made("m")


def nanochat_not_converted() -> Steps:
    folder = nanochat()
    hint = yield lambda: check_model_folder(folder)
    grpo(*command(hint), "--output", "m")
    yield lambda: check_model_folder(Path("m"))


# --- nanochat's files ---------------------------------------------------------------------------------


def meta_missing() -> Steps:
    path = meta(nanochat())
    path.rename("kept")
    assert "next to the `.pt` file of the same step; copy both" in (yield lambda: made("d3"))
    Path("kept").rename(path)


def meta_damaged() -> Steps:
    path = meta(nanochat())
    path.write_text("{")
    yield from copied_again(path, meta(nanochat("again")), lambda: made("d3"), "copy or download it again")


def meta_without_sizes() -> Steps:
    path = meta(nanochat())
    path.write_text("{}")
    yield from copied_again(path, meta(nanochat("again")), lambda: made("d3"), "copy the meta file again")


def meta_of_another_checkpoint() -> Steps:
    path = meta(nanochat())
    content = json.loads(path.read_text())
    content["model_config"]["n_embd"] = 0
    path.write_text(json.dumps(content))
    yield from copied_again(path, meta(nanochat("again")), lambda: made("d3"), "from the same checkpoint")


def meta_of_another_width() -> Steps:
    path = meta(nanochat())
    content = json.loads(path.read_text())
    content["model_config"]["n_embd"] = 64
    path.write_text(json.dumps(content))
    yield from copied_again(path, meta(nanochat("again")), lambda: made("d3"), "from the same checkpoint")


def tokenizer_not_beside_the_weights() -> Steps:
    (nanochat() / "tokenizer.pkl").unlink(missing_ok=True)
    assert "copy the tokenizer of the same nanochat run there" in (yield lambda: made("d3"))
    shutil.copy(FIXTURES / "tokenizer.pkl", "d3")


def tokenizer_of_another_run() -> Steps:
    nanochat()
    shutil.copy(TINY / "tokenizer.pkl", "d3/tokenizer.pkl")
    yield from copied_again(
        Path("d3/tokenizer.pkl"), FIXTURES / "tokenizer.pkl", lambda: made("d3"), "from the same nanochat run"
    )


def renaming_that_is_none() -> Steps:
    nanochat()
    hint = yield lambda: made("d3", renames=("a",))
    assert "`--rename 'model.layers.*.q=transformer.h.*.attn.c_q'`" in hint
    yield lambda: made("d3")


def renaming_that_matches_nothing() -> Steps:
    nanochat()
    assert (yield lambda: made("d3", renames=("nothing=x",))).startswith("the file has ")
    yield lambda: made("d3")


# --- PyTorch's files ----------------------------------------------------------------------------------


def read(path: str) -> object:
    return TorchFile(Path(path))


def torch_file(how: Callable[[bytes], bytes], words: str) -> Steps:
    """A file that is not what torch writes, and the whole one in its place."""
    whole = weights(nanochat())
    Path("x.pt").write_bytes(how(whole.read_bytes()))
    yield from copied_again(Path("x.pt"), whole, lambda: read("x.pt"), words)


def torch_file_empty() -> Steps:
    yield from torch_file(lambda _: b"", "again")


def torch_file_of_git_lfs() -> Steps:
    yield from torch_file(
        lambda _: b"version https://git-lfs.github.com/spec/v1\n", "fetch it: `git lfs pull`"
    )


def torch_file_that_is_something_else() -> Steps:
    yield from torch_file(lambda _: b"hello", "again")


def torch_file_cut_off() -> Steps:
    yield from torch_file(lambda whole: whole[: len(whole) // 2], "again")


def torch_file_with_a_flipped_bit() -> Steps:
    def flipped(whole: bytes) -> bytes:
        place = whole.index(b"data.pkl") + 200
        return whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :]

    yield from torch_file(flipped, "again")


def torch_file_of_old() -> Steps:
    """torch is not installed here; a file that it would write stands in its place."""
    shutil.copy(FIXTURES / "legacy_nonzip.pt", "x.pt")
    hint = yield lambda: read("x.pt")
    assert "`torch.save(torch.load(old, weights_only=True), new)`" in hint
    shutil.copy(weights(nanochat()), "x.pt")


def torch_file_with_code() -> Steps:
    shutil.copy(FIXTURES / "archive_root.pt", "x.pt")
    import io
    import pickle
    import zipfile

    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return (print, ("it ran",))

    with zipfile.ZipFile("x.pt", "w") as archive:
        archive.writestr("a/data.pkl", pickle.dumps(Trap(), protocol=2))
        archive.writestr("a/version", io.BytesIO(b"3\n").getvalue())
    assert "nanochat writes as `model_<step>.pt`" in (yield lambda: read("x.pt"))
    shutil.copy(weights(nanochat()), "x.pt")


# --- where to -----------------------------------------------------------------------------------------


test_a_cure_cures = cases_of(globals())
