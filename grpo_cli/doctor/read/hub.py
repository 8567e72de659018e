"""The model hub as seen from this machine: repository names, downloaded datasets, and the token."""

import os
import re
from pathlib import Path

from grpo_cli.config.local_model import hub_cache
from grpo_cli.doctor.read.machine import Machine

HUB = "https://huggingface.co"
EMBEDDED = ("arithmetic", "tiny")
OWN_FOLDERS = ("models", "outputs", "checkpoints")  # as the loader of models reads a name
DATA_FILES = (".json", ".jsonl", ".parquet")
TOKEN_NAMES = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")


def is_repository(name: str) -> bool:
    """True if the name of a model or dataset means a repository on the hub."""
    try:
        is_local = Path(name).expanduser().exists() or name in EMBEDDED
    except (OSError, ValueError, RuntimeError):  # too long, a NUL in it, an unknown ~user
        return False
    if is_local or name.split("/")[0] in OWN_FOLDERS or name.endswith(DATA_FILES):
        return False
    return bool(re.fullmatch(r"\w[\w.-]*(/[\w.-]+)?", name))


def dataset_cached(machine: Machine, name: str) -> bool:
    """True if a dataset is in the hub's cache or was prepared by `datasets`."""
    cache = hub_cache(machine.environment)
    prepared = machine.environment.get("HF_DATASETS_CACHE") or str(cache.parent / "datasets")
    places = (cache / f"datasets--{name.replace('/', '--')}", Path(prepared) / name.replace("/", "___"))
    return any(machine.names(str(place.expanduser())) for place in places)


def downloads(missing: list[str]) -> list[str]:
    """The commands that download what is missing, on a machine with a connection."""
    lines = []
    for what in missing:
        kind, name = what.removeprefix("the ").split(" ", 1)
        flag = " --repo-type dataset" if kind == "dataset" else ""
        lines.append(f"hf download {name}{flag}")
    return lines


def without_password(address: str) -> str:
    """A URL without user and password; the password may contain an @."""
    return re.sub(r"(?<=://)[^/?#]*@", "", address)


def token_and_source(machine: Machine) -> tuple[str, str]:
    """The token that the hub's library would use, and its source; both empty without one."""
    for name in TOKEN_NAMES:
        if machine.environment.get(name):
            return machine.environment[name], name
    home = machine.environment.get("HF_HOME") or str(hub_cache(machine.environment).parent)
    path = machine.environment.get("HF_TOKEN_PATH") or str(Path(home) / "token")
    path = os.path.expanduser(path)  # noqa: PTH111 (leaves an unknown ~user as it is)
    text = machine.text(path) or ""
    return (text, path) if text.strip() else ("", "")


def malformed(value: str, endpoint: str) -> str:
    """The fault of a token; empty if it looks valid. Tokens of a mirror may have another prefix."""
    text = value.strip("\r\n")
    if not text.strip():
        return "is empty"
    if text != text.strip() or re.search(r"\s", text):
        return "has spaces or line breaks in it"
    if text[0] in "\"'`" or text[-1] in "\"'`":
        return "has quotation marks around it"
    if not text.isascii() or not text.isprintable():
        return "has characters that no token has"
    if endpoint.rstrip("/") == HUB and not text.startswith(("hf_", "api_org_")):
        return "does not begin with hf_"
    return ""
