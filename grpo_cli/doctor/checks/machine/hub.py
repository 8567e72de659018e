"""The model hub: whether it can be reached, and as whom."""

import os
import re
from collections.abc import Iterator
from pathlib import Path

from grpo_cli.config.local_model import hub_cache
from grpo_cli.doctor.context import Case
from grpo_cli.doctor.findings import Finding, error, ok, skipped, warning
from grpo_cli.doctor.read.machine import Machine

HUB = "https://huggingface.co"
EMBEDDED = ("arithmetic", "tiny")
OWN_FOLDERS = ("models", "outputs", "checkpoints")  # as the loader of models reads a name
DATA_FILES = (".json", ".jsonl", ".parquet")
ON = ("1", "on", "yes", "true")
TOKEN_NAMES = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")


def reachable(case: Case) -> Iterator[Finding]:
    """The hub answers, where something must be downloaded."""
    environment = case.machine.environment
    told = without_password((environment.get("HF_ENDPOINT") or HUB).rstrip("/"))
    missing = not_here(case)
    if environment.get("HF_HUB_OFFLINE", "").lower() in ON:
        yield offline(missing)
        return
    reason = case.machine.reach(told)
    numbers = {"endpoint": told, "reachable": not reason, "missing": missing}
    if not reason:
        yield ok(f"{told} answers" + (f"; to download: {', '.join(missing)}" if missing else ""), **numbers)
    elif missing:
        yield error(
            f"{told} does not answer ({reason}), and {' and '.join(missing)} would have to be downloaded",
            "connect this machine, or download on another one and copy the folder; a proxy is set with "
            "HTTPS_PROXY, a mirror with HF_ENDPOINT",
            *downloads(missing),
            *(["unset HF_ENDPOINT"] if environment.get("HF_ENDPOINT") else []),
            **numbers,
        )
    else:
        yield skipped(f"{told} is not reachable: {reason}; what is on this machine works", **numbers)


def offline(missing: list[str]) -> Finding:
    """Downloads are forbidden by HF_HUB_OFFLINE."""
    seen = "HF_HUB_OFFLINE is set: nothing is downloaded"
    if not missing:
        return skipped(seen, offline=True, missing=missing)
    return error(
        f"{seen}, and {' and '.join(missing)} is not on this machine",
        "allow downloads",
        "unset HF_HUB_OFFLINE",
        offline=True,
        missing=missing,
    )


def not_here(case: Case) -> list[str]:
    """What the configuration needs of the hub and this machine does not have, each in words."""
    config, found = case.config, []
    if config is None:
        return []
    if case.configured_model is None and is_repository(config.model_name):
        found.append(f"the model {config.model_name}")
    if is_repository(config.dataset) and not dataset_cached(case.machine, config.dataset):
        found.append(f"the dataset {config.dataset}")
    return found


def is_repository(name: str) -> bool:
    """Whether the name of a model or dataset means one on the hub."""
    try:
        is_local = Path(name).expanduser().exists() or name in EMBEDDED
    except (OSError, ValueError, RuntimeError):  # too long, a NUL in it, an unknown ~user
        return False
    if is_local or name.split("/")[0] in OWN_FOLDERS or name.endswith(DATA_FILES):
        return False
    return bool(re.fullmatch(r"\w[\w.-]*(/[\w.-]+)?", name))


def dataset_cached(machine: Machine, name: str) -> bool:
    """Whether a dataset was downloaded before: by the hub's library, or prepared by `datasets`."""
    cache = hub_cache(machine.environment)
    prepared = machine.environment.get("HF_DATASETS_CACHE") or str(cache.parent / "datasets")
    places = (cache / f"datasets--{name.replace('/', '--')}", Path(prepared) / name.replace("/", "___"))
    return any(machine.names(str(place.expanduser())) for place in places)


def downloads(missing: list[str]) -> list[str]:
    """The lines that download what is missing, for a machine that has a connection."""
    lines = []
    for what in missing:
        kind, name = what.removeprefix("the ").split(" ", 1)
        flag = " --repo-type dataset" if kind == "dataset" else ""
        lines.append(f"hf download {name}{flag}")
    return lines


def without_password(address: str) -> str:
    """An address without the user and password that may be in it: the password may hold an @ too."""
    return re.sub(r"(?<=://)[^/?#]*@", "", address)


def token(case: Case) -> Iterator[Finding]:
    """A token for gated models."""
    value, source = token_and_source(case.machine)
    if not value:
        yield ok("none is set; only gated and private models need one", source=None)
        return
    mistake = malformed(value, case.machine.environment.get("HF_ENDPOINT") or HUB)
    if mistake:
        yield warning(
            f"the token of {source} {mistake}",
            "put one there as https://huggingface.co/settings/tokens shows it; HF_TOKEN comes first",
            *(["unset HF_TOKEN"] if source in TOKEN_NAMES else []),
            "hf auth login",
            source=source,
        )
    else:
        yield ok(f"a token is set ({source})", source=source)


def token_and_source(machine: Machine) -> tuple[str, str]:
    """The token that the hub's library would use and where it comes from; both empty without one."""
    for name in TOKEN_NAMES:
        if machine.environment.get(name):
            return machine.environment[name], name
    home = machine.environment.get("HF_HOME") or str(hub_cache(machine.environment).parent)
    path = machine.environment.get("HF_TOKEN_PATH") or str(Path(home) / "token")
    path = os.path.expanduser(path)  # noqa: PTH111 (leaves an unknown ~user as it is)
    text = machine.text(path) or ""
    return (text, path) if text.strip() else ("", "")


def malformed(value: str, endpoint: str) -> str:
    """What no token has; empty for one that looks right. A mirror's tokens may begin in another way."""
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
