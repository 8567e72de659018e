"""Names and tokens of the hub."""

import pytest

from grpo_cli.doctor.read.hub import is_repository, malformed


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("openai/gsm8k", True),
        ("gpt2", True),
        ("arithmetic", False),
        ("tiny", False),
        ("models/nanochat-d32-mlx", False),
        ("./gsm8k", False),
        ("data.jsonl", False),
        ("a/b/c", False),
        ("a\0b", False),
        ("~nobody-here/x", False),
    ],
)
def test_names_of_the_hub(name: str, expected: bool) -> None:
    assert is_repository(name) is expected


@pytest.mark.parametrize(
    ("value", "endpoint", "mistake"),
    [
        ("hf_abcdefghij", "https://huggingface.co", ""),
        ("hf_abcdefghij\n", "https://huggingface.co", ""),
        ("  ", "https://huggingface.co", "is empty"),
        (" hf_abc", "https://huggingface.co", "has spaces or line breaks in it"),
        ("hf_ab\u00e9", "https://huggingface.co", "has characters that no token has"),
        ("hf_ab\x1b", "https://huggingface.co", "has characters that no token has"),
        ("sk-abcdef", "https://huggingface.co/", "does not begin with hf_"),
        ("abcdef", "https://mirror.example", ""),
    ],
)
def test_malformed_tokens(value: str, endpoint: str, mistake: str) -> None:
    assert malformed(value, endpoint) == mistake
