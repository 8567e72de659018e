"""nanochat's calculator tool: between two tokens the model writes an expression, and its result is forced.

    calculator = Calculator(tokenizer)              # one for each rollout
    for token_id in <|python_start|>, *tokenizer.encode("12/60"), <|python_end|>:
        forced = calculator.read(token_id)
    forced                        →  [<|output_start|>, *tokenizer.encode("0.2"), <|output_end|>]

Every token of the completion is read in order, sampled or forced; the prompt is not. Forced tokens take the
place of sampled ones, count towards the token limit and are not trained on (mask 0). The end of a completion
needs no care here: `<|assistant_end|>` or `<|bos|>` inside a block ends the row, and an open block gives
nothing.

Source: karpathy/nanochat, nanochat/engine.py, `Engine.generate`.
"""

from grpo_cli.environments.expression import compute
from grpo_cli.environments.protocol import Environment
from grpo_cli.models.nanochat_tokenizer import NanochatTokenizer


class Calculator(Environment):
    """The state of one rollout: the tokens of the open block, if one is open."""

    def __init__(self, tokenizer: NanochatTokenizer) -> None:
        special = tokenizer.encoding.encode_single_token
        self.tokenizer = tokenizer
        self.start, self.end = special("<|python_start|>"), special("<|python_end|>")
        self.output_start, self.output_end = special("<|output_start|>"), special("<|output_end|>")
        self.marker_ids = frozenset((self.start, self.end, self.output_start, self.output_end))
        self.block: list[int] | None = None  # None: no block is open

    def read(self, token_id: int) -> list[int]:
        """Read the next token of the completion; return the tokens to force after it, usually none.

        A start inside a block begins it anew, an end outside a block does nothing, and any other token inside
        belongs to the expression, special ones by their spelling.
        """
        if token_id == self.start:
            self.block = []
        elif token_id == self.end:
            block, self.block = self.block, None
            return self.output(block) if block else []
        elif self.block is not None:
            self.block.append(token_id)
        return []

    def output(self, block: list[int]) -> list[int]:
        """The tokens that show the result of a closed block; none if it has no result."""
        result = compute(self.tokenizer.spell(block))
        self.calls += 1
        if result is None:
            self.failures += 1
            return []
        return [self.output_start, *self.tokenizer.encode(result), self.output_end]
