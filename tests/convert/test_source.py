"""Names of sources: short names, folders, repositories, steps; and what holds nothing to convert."""

from pathlib import Path

import pytest

from grpo_cli.convert.errors import ConversionError
from grpo_cli.convert.source import SHORT_NAMES, Source, find_source, short_name
from grpo_cli.errors import ModelError
from tests.support.hub_server import HubServer
from tests.support.nanochat_checkpoints import write_checkpoint


def touched(folder: Path, *names: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).touch()
    return folder


def refusal(name: object, step: int | None = None) -> ModelError:
    with pytest.raises(ModelError) as error:
        find_source(str(name), step)
    assert error.value.hint
    return error.value


def test_the_newest_step_unless_another_is_asked_for(tmp_path: Path) -> None:
    touched(tmp_path, "model_000650.pt", "meta_000650.json", "model_021400.pt", "model_x.pt", "optim_9.pt")
    source = find_source(str(tmp_path))
    assert source == Source(
        name=str(tmp_path), kind="nanochat", folder=tmp_path, repository=None, step="021400"
    )
    assert source.model_file == tmp_path / "model_021400.pt"
    assert find_source(str(tmp_path), 650).meta_file == tmp_path / "meta_000650.json"
    error = refusal(tmp_path, 651)
    assert error.message == f"Failed to convert model: {tmp_path} has no step 651"
    assert error.hint == "it has 650, 21400: choose one with `--step`"


def test_a_model_file_by_its_own_name(tmp_path: Path) -> None:
    touched(tmp_path / "d20", "model_000650.pt", "model_000700.pt")
    source = find_source(str(tmp_path / "d20/model_000650.pt"))
    assert source.model_file == tmp_path / "d20/model_000650.pt"
    assert short_name(str(source.model_file)) == "d20"
    assert find_source(str(source.model_file), 650) == source
    error = refusal(source.model_file, 700)
    assert "is of step 650, and `--step 700` asks for another" in error.message


def test_transformers_format(tmp_path: Path) -> None:
    touched(tmp_path / "one", "config.json", "model.safetensors")
    assert find_source(str(tmp_path / "one")).kind == "transformers"
    touched(tmp_path / "two", "config.json", "model-00001-of-00002.safetensors", "model_000001.pt")
    assert find_source(str(tmp_path / "two")).kind == "nanochat"


def test_the_outputs_name_comes_from_the_source(tmp_path: Path) -> None:
    def short(path: str, *files: str) -> str:
        return short_name(str(touched(tmp_path / path, *files)))

    assert short("d20", "model_000001.pt") == "d20"
    assert short("run/final", "config.json", "model.safetensors") == "run-final"
    assert short("run/checkpoint-10", "config.json", "model.safetensors") == "run-checkpoint-10"


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (["adapter_config.json", "adapters.safetensors"], "adapter_config.json is not JSON"),
        (
            ["config.json", "pytorch_model-00001-of-00002.bin"],
            "holds its weights only as pytorch_model-00001",
        ),
        (["consolidated.00.pth"], "holds its weights only as consolidated.00.pth"),
        (
            ["config.json", "notes.txt"],
            "holds no model that can be converted (found: config.json, notes.txt)",
        ),
        ([], "holds no model that can be converted (found: nothing)"),
    ],
)
def test_a_folder_without_a_model(tmp_path: Path, files: list[str], message: str) -> None:
    touched(tmp_path, *files)
    assert message in refusal(tmp_path).message


def test_what_is_neither_folder_nor_repository() -> None:
    error = refusal("./no/such/folder")
    assert error.message == "Failed to convert model: Model not found: ./no/such/folder"
    assert "nanochat-d32" in error.hint
    address = refusal("https://huggingface.co/karpathy/nanochat-d32")
    assert address.hint.endswith("without the hub's address: karpathy/nanochat-d32")


def test_a_file_and_a_folder_of_folders(tmp_path: Path) -> None:
    touched(tmp_path / "checkpoints/d20", "model_000650.pt", "meta_000650.json")
    assert refusal(tmp_path / "checkpoints").hint == f"name one of them: {tmp_path}/checkpoints/d20"
    meta = tmp_path / "checkpoints/d20/meta_000650.json"
    assert refusal(meta).hint == f"name its folder: {meta.parent}"


# --- on the hub --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*SHORT_NAMES, "someone/else"])
def test_of_a_repository_only_what_is_needed_is_fetched(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_checkpoint(tmp_path / "files")
    files = {path.name: path for path in folder.iterdir()}
    files |= {"model_000001.pt": folder / "meta_000650.json", "meta_000001.json": folder / "meta_000650.json"}
    files["optim_000650.pt"] = folder / "model_000650.pt"
    repository = SHORT_NAMES.get(name, name)
    with HubServer({repository: files}) as server:
        server.use(monkeypatch, tmp_path)
        source = find_source(name)
        assert {path.name for path in source.folder.iterdir()} == {
            "model_000650.pt",
            "meta_000650.json",
            "tokenizer.pkl",
        }
        assert not server.transfers("optim_000650.pt")
    assert (source.kind, source.repository, source.step) == ("nanochat", repository, "000650")
    assert short_name(name) == name.rpartition("/")[2]
    assert source.model_file.read_bytes() == (folder / "model_000650.pt").read_bytes()


def test_a_folder_with_a_short_name_counts_if_it_holds_a_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    touched(tmp_path / "nanochat/scripts", "chat_rl.py")  # a clone of nanochat's repository
    with HubServer({"sdobson/nanochat": {"README.md": b"x"}}) as server:
        server.use(monkeypatch, tmp_path)
        assert "sdobson/nanochat holds no model" in refusal("nanochat").message
        touched(tmp_path / "nanochat", "model_000001.pt")
        assert find_source("nanochat").folder == Path("nanochat")


@pytest.mark.parametrize("missing", ["meta_000650.json", "tokenizer.pkl"])
def test_a_repository_that_lacks_a_file(
    missing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {"model_000650.pt": b"x", "meta_000650.json": b"x", "tokenizer.pkl": b"x"}
    del files[missing]
    with HubServer({"karpathy/nanochat-d32": files}) as server:
        server.use(monkeypatch, tmp_path)
        error = refusal("nanochat-d32")
        assert not server.transfers("model_000650.pt")  # before gigabytes are fetched
    assert error.message.startswith(f"The repository karpathy/nanochat-d32 has no {missing} (found: ")


def test_a_repository_of_pickled_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with HubServer({"some/one": {"config.json": b"{}", "pytorch_model.bin": b"x"}}) as server:
        server.use(monkeypatch, tmp_path)
        assert isinstance(refusal("some/one"), ConversionError)
        assert "a pickle that can run code" in refusal("some/one").message
