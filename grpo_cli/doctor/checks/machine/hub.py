"""Checks of the model hub: it can be reached, and the token is well formed."""

from collections.abc import Iterator

from grpo_cli.doctor.context import Context
from grpo_cli.doctor.findings import Finding, error, ok, skipped, warning
from grpo_cli.doctor.read.hub import (
    HUB,
    TOKEN_NAMES,
    dataset_cached,
    downloads,
    is_repository,
    malformed,
    token_and_source,
    without_password,
)

ON = ("1", "on", "yes", "true")


def reachable(context: Context) -> Iterator[Finding]:
    """The hub can be reached if something must be downloaded."""
    environment = context.machine.environment
    told = without_password((environment.get("HF_ENDPOINT") or HUB).rstrip("/"))
    missing = not_here(context)
    if environment.get("HF_HUB_OFFLINE", "").lower() in ON:
        yield offline(missing)
        return
    reason = context.machine.reach(told)
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
        yield skipped(f"{told} is not reachable: {reason}; local models and datasets work", **numbers)


def offline(missing: list[str]) -> Finding:
    """The finding for HF_HUB_OFFLINE, which forbids downloads."""
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


def not_here(context: Context) -> list[str]:
    """The model and dataset that would have to be downloaded, each in words: `the model OWNER/NAME`."""
    config, found = context.config, []
    if config is None:
        return []
    if context.configured_model is None and is_repository(config.model_name):
        found.append(f"the model {config.model_name}")
    if is_repository(config.dataset) and not dataset_cached(context.machine, config.dataset):
        found.append(f"the dataset {config.dataset}")
    return found


def token(context: Context) -> Iterator[Finding]:
    """The token for gated models is well formed."""
    value, source = token_and_source(context.machine)
    if not value:
        yield ok("none is set; only gated and private models need one", source=None)
        return
    mistake = malformed(value, context.machine.environment.get("HF_ENDPOINT") or HUB)
    if mistake:
        yield warning(
            f"the token of {source} {mistake}",
            "copy a token from https://huggingface.co/settings/tokens; HF_TOKEN takes precedence",
            *(["unset HF_TOKEN"] if source in TOKEN_NAMES else []),
            "hf auth login",
            source=source,
        )
    else:
        yield ok(f"a token is set ({source})", source=source)
