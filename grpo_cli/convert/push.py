"""Upload a converted folder to the hub, private unless asked otherwise.

upload = plan(Path("models/prod-final-hf"), "ada/prod", card)     # writes nothing and asks nobody
upload.files                                                      # [("README.md", 812), …]
send(upload)                                                      # the address of the new commit
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalTokenNotFoundError

from grpo_cli.convert.errors import ConversionError
from grpo_cli.models.adapter_config import ADAPTER_CONFIG, read_adapter_config
from grpo_cli.models.hub_errors import FAILURES, explain

CARD = "README.md"


class Api(Protocol):
    """The calls of huggingface_hub.HfApi that an upload makes."""

    def create_repo(self, repo_id: str, *, private: bool, exist_ok: bool) -> Any: ...

    def upload_folder(
        self, *, repo_id: str, folder_path: str, commit_message: str, allow_patterns: list[str]
    ) -> Any: ...


@dataclass(frozen=True, kw_only=True)
class Upload:
    """A planned upload. `files`: name and bytes of each file, the card included."""

    folder: Path
    repository: str
    card: str
    files: list[tuple[str, int]]
    is_private: bool = True

    @property
    def size(self) -> int:
        """Bytes in all."""
        return sum(size for _, size in self.files)


def check_repository(name: str) -> None:
    """Raise ConversionError unless the name is OWNER/NAME."""
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(name)
        is_valid = name.count("/") == 1
    except HFValidationError:
        is_valid = False
    if not is_valid:
        raise ConversionError(
            f"--push {name} does not name a repository of the hub",
            "write `--push OWNER/NAME`: letters, digits, `-`, `_` and `.`",
        )


def plan(folder: Path, repository: str, card: str, is_private: bool = True) -> Upload:
    """The content of an upload: every file of the folder, and the card as README.md.

    Raises ConversionError for adapters whose base exists only on this machine.
    """
    if (folder / ADAPTER_CONFIG).exists():
        base = read_adapter_config(folder).model
        if base.startswith(("/", "~", ".")) or Path(base).exists():
            raise ConversionError(
                f"the adapters in {folder} name the base {base}, a folder that only this machine has",
                "convert them and their base as one model: `--to hf` in place of `--to peft`",
            )
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    sizes = {path.relative_to(folder).as_posix(): path.stat().st_size for path in paths}
    sizes[CARD] = len(card.encode())
    return Upload(
        folder=folder, repository=repository, card=card, files=sorted(sizes.items()), is_private=is_private
    )


def send(upload: Upload, api: Api | None = None) -> str:
    """Write the card into the folder, make the repository and upload the planned files; returns the address.

    An existing repository keeps its visibility. Raises ConversionError if the hub refuses.
    """
    from huggingface_hub import HfApi, constants

    api = api or HfApi()
    (upload.folder / CARD).write_text(upload.card, encoding="utf-8")
    try:
        api.create_repo(upload.repository, private=upload.is_private, exist_ok=True)
        api.upload_folder(
            repo_id=upload.repository,
            folder_path=str(upload.folder),
            commit_message="Upload by grpo convert --push",
            allow_patterns=[name for name, _ in upload.files],
        )
    except (*FAILURES, LocalTokenNotFoundError) as error:
        raise refused(upload, error) from error
    return f"{constants.ENDPOINT}/{upload.repository}"


def refused(upload: Upload, error: Exception) -> ConversionError:
    """The error for an upload that the hub, the network or a missing login prevents."""
    status = error.response.status_code if isinstance(error, HfHubHTTPError) else None
    if isinstance(error, LocalTokenNotFoundError) or status in (401, 403, 404):
        return ConversionError(
            f"the hub does not let you write to {upload.repository}; the model stays in {upload.folder}",
            "`hf auth login` with a token that may write, and name an owner that you belong to; then run the "
            "same command again with `--force`",
            trouble="hub-token",
        )
    known = explain(upload.repository, error)
    return ConversionError(
        f"the upload to {upload.repository} failed: {known.message}; the model stays in {upload.folder}",
        "run the same command again with `--force` once the network is back",
        trouble="hub",
    )
