"""The target formats of `grpo convert`, and the options that do not apply to each."""

from collections.abc import Collection

FORMATS = {
    "mlx": "mlx-lm's folder",
    "hf": "a transformers folder, with adapters fused",
    "peft": "adapters for PEFT",
    "gguf": "a transformers folder, and llama.cpp's command that makes a GGUF of it",
    "nanochat": "nanochat's own files",
}
NANOCHAT = (
    "--to nanochat keeps nanochat's own data types and names: leave out --quantize, --dtype, --step "
    "and --rename"
)
FUSE = (
    "--fuse takes a folder of adapters, to which --step and --rename do not apply; "
    "--to nanochat fuses adapters without --fuse, and so do --to hf and --to gguf"
)
# target → options that it refuses, with the reason
REFUSED: dict[str, tuple[frozenset[str], str]] = {
    "nanochat": (frozenset({"--quantize", "--dtype", "--step", "--rename"}), NANOCHAT),
    "peft": (
        frozenset({"--quantize", "--dtype", "--step", "--rename", "--fuse", "--trust-remote-code"}),
        "--to peft writes adapters as they are: leave out --quantize, --dtype, --step, --rename, --fuse and "
        "--trust-remote-code",
    ),
    "hf": (
        frozenset({"--quantize", "--step", "--rename"}),
        "--to hf writes a model in full: leave out --quantize, --step and --rename",
    ),
    "gguf": (
        frozenset({"--quantize", "--step", "--rename"}),
        "--to gguf writes a model in full, which llama.cpp quantizes: leave out --quantize, --step and "
        "--rename",
    ),
}


def refusal(to: str, given: Collection[str]) -> str | None:
    """The reason why a target refuses one of the given options; None if it takes them all."""
    options, reason = REFUSED.get(to, (frozenset(), ""))
    if options & set(given):
        return reason
    if to == "nanochat" and "--trust-remote-code" in given:
        return "--trust-remote-code works only for a folder in transformers' format"
    if "--fuse" in given and (to != "mlx" or {"--step", "--rename"} & set(given)):
        return FUSE
    return None
