"""Options that a target format refuses."""

import pytest

from grpo_cli.convert.targets import FORMATS, FUSE, NANOCHAT, REFUSED, refusal

TRUST = "--trust-remote-code works only for a folder in transformers' format"


@pytest.mark.parametrize(
    ("to", "given", "reason"),
    [
        ("mlx", ["--quantize", "--dtype", "--step", "--rename", "--trust-remote-code"], None),
        ("mlx", ["--fuse", "--dtype"], None),
        ("mlx", ["--fuse", "--step"], FUSE),
        ("hf", ["--dtype", "--trust-remote-code"], None),
        ("hf", ["--quantize"], REFUSED["hf"][1]),
        ("hf", ["--fuse"], FUSE),
        ("peft", [], None),
        ("peft", ["--dtype"], REFUSED["peft"][1]),
        ("gguf", ["--quantize"], REFUSED["gguf"][1]),
        ("nanochat", ["--dtype"], NANOCHAT),
        ("nanochat", ["--trust-remote-code"], TRUST),
        ("nanochat", ["--fuse"], FUSE),
    ],
)  # fmt: skip
def test_options_that_a_target_refuses(to: str, given: list[str], reason: str | None) -> None:
    assert refusal(to, given) == reason


def test_every_target_has_its_line() -> None:
    assert REFUSED.keys() <= FORMATS.keys()
