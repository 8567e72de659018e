"""The embedded model's vocabulary: a byte-level BPE trained on its own texts, in nanochat's format.

Digits stay single, and each tag of `<reasoning>…</reasoning><answer>…</answer>` is a piece of its
own whatever stands beside it, so that the ids of `<reasoning>` always begin the ids of
`<reasoning>7+8=15`.
"""

import random

import tiktoken
from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers

from grpo_cli.models.nanochat_tokenizer import SPECIAL_TOKENS
from grpo_cli.models.tiny import author

PATTERN = r"</?[a-z]+>| ?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}<]+ ?|<|\s+"
CORPUS_PROBLEMS = 2_000
LARGEST = 512  # tokens including special ones; the corpus runs out of merges before


def corpus(seed: int) -> list[str]:
    """Texts that contain everything the model is trained to read and write."""
    rng = random.Random(f"{seed}-corpus")
    texts = []
    for number in range(CORPUS_PROBLEMS):
        a, b = author.training_problem(rng)
        system_prompt = author.SYSTEM_PROMPTS[number % len(author.SYSTEM_PROMPTS)]
        texts += [author.question(a, b, system_prompt), author.careful(a, b), author.hasty(a, b)]
    return texts


def train_encoding(seed: int) -> tiktoken.Encoding:
    """An encoding whose ids are: the 256 bytes, the merges in order, nanochat's nine special tokens."""
    tokenizer = Tokenizer(models.BPE())
    split = pre_tokenizers.Split(Regex(PATTERN), "isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=LARGEST - len(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus(seed), trainer)
    return encoding_of(tokenizer)


def encoding_of(tokenizer: Tokenizer) -> tiktoken.Encoding:
    """The trained merges as tiktoken ranks. The corpus is ASCII, so a merged token is its own bytes."""
    merged = sorted((rank, token) for token, rank in tokenizer.get_vocab().items() if len(token) > 1)
    ranks = {bytes([byte]): byte for byte in range(256)}
    for _, token in merged:
        ranks[token.replace("Ġ", " ").replace("Ċ", "\n").encode("ascii")] = len(ranks)
    return tiktoken.Encoding(
        name="rustbpe",  # nanochat's own name, which no registered encoding has
        pat_str=PATTERN,
        mergeable_ranks=ranks,
        special_tokens={token: len(ranks) + n for n, token in enumerate(SPECIAL_TOKENS)},
    )
