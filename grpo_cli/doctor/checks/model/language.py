"""A check that a model knows language: it must find plain English likely.

    perplexity(model, ids)      # 15.0 for SmolLM2-135M-Instruct on TEXT; 49,152 (its vocabulary) = guessing

A model with another model's tokenizer loads, generates and gets rewards, all of it worthless. Perplexity
shows it in one forward pass: e to the mean negative logprob of a token, given those before it.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from grpo_cli.doctor.context import Context
from grpo_cli.doctor.findings import Finding, error, ok, skipped, warning
from grpo_cli.doctor.read.model_folder import bits_of, fetch_again, unpacked_numbers
from grpo_cli.doctor.read.tokenizer import is_nanochat
from grpo_cli.errors import GrpoError
from grpo_cli.foreign_text import quoted
from grpo_cli.models.model_files import config_of, tensors_in

if TYPE_CHECKING:
    from grpo_cli.models.load import Policy
    from grpo_cli.models.tokenizer import Tokenizer

TEXT = (
    "The village lies at the end of a long valley, where the road stops and the river begins. Every "
    "morning the baker opens his shop before the sun is up, and the smell of fresh bread drifts through "
    "the narrow streets. Children walk to school along the water, and their parents go to work in the "
    "fields or take the bus to the next town. In winter, when snow covers the hills, the bus does not "
    "always come, and people stay at home, light a fire and tell stories. One of these stories is about a "
    "man who wanted to build a bridge. He had no money and no tools, but he had many friends. Each of "
    "them brought one stone, and after a year there were enough stones to begin. It took them three "
    "summers to finish the work. When the bridge was done, the man was old, and he was the first to walk "
    "across it. On the other side he sat down in the grass, looked back at the village and said that it "
    "was smaller than he had thought. The bridge is still there today. If you visit the valley, you can "
    "read the names of his friends, which were cut into the stones on both sides."
)
PROMPT = "The capital of France is"
NEW_TOKENS = 16
FEWEST_TOKENS = 1000  # of a vocabulary for natural language; the embedded model has 316
# Measured on TEXT with SmolLM2-135M-Instruct (49,152 tokens): unchanged 15.0; 4 bits 18.7, 3 bits 70, 2 bits
# 1.2 million; the same words shuffled 620; the ids of another vocabulary 2,400; ids shifted by one 13,900,
# permuted 384,000; untrained weights 72,000; weights with noise of half their size 14 million.
# Two nanochat models of 1,000 tokens, hardly trained: 101 and 92; their ids permuted 14,300 and 6,300.
UNLIKELY = 500.0


@dataclass(frozen=True)
class Reading:
    """Perplexity of a model on a text. `vocabulary`: number of tokens = the perplexity of guessing."""

    perplexity: float
    vocabulary: int

    @property
    def verdict(self) -> str:
        """`language`, `unlikely` (above UNLIKELY), or `guessing` (no better than guessing, or NaN)."""
        if not self.perplexity < self.vocabulary:
            return "guessing"
        return "unlikely" if self.perplexity > UNLIKELY else "language"


def garbled_output(context: Context) -> Iterator[Finding]:
    """Plain English is likely to the model: its perplexity, and a continuation."""
    rows = config_of(context.base_folder).get("vocab_size")
    if isinstance(rows, int) and rows < FEWEST_TOKENS:
        yield skipped(f"{rows:,} tokens are too few for a language: nothing to compare")
        return
    policy = policy_of(context)
    if isinstance(policy, str):
        yield skipped(policy)
        return
    yield judged(context, read_text(policy), said(policy))


def judged(context: Context, reading: Reading, continuation: str) -> Finding:
    """The finding for a model's perplexity on TEXT and its continuation of PROMPT."""
    one_line = " ".join(continuation.split())
    seen = f"perplexity {reading.perplexity:,.1f} on plain English"
    seen += f" (guessing: {reading.vocabulary:,}); “{PROMPT}” → “{one_line}”"
    numbers = {"perplexity": reading.perplexity, "vocabulary": reading.vocabulary, "said": continuation}
    if reading.verdict == "language":
        return ok(seen, **numbers)
    folder = context.base_folder
    pickled = (folder / "tokenizer.pkl").exists()
    again = fetch_again(folder, "tokenizer.pkl" if pickled else "tokenizer.json", context.model)
    first = f"grpo doctor --only tokenizer --only model-values --model {quoted(folder)}"
    if reading.verdict == "guessing":
        cure = "another model's tokenizer, damaged or untrained weights: check, then download the files again"
        return error(seen, cure, first, *again, **numbers)
    cure = "a tokenizer of another version, weights rounded too far, or a model that was never taught English"
    return warning(seen, cure, first, *again, **numbers)


def policy_of(context: Context) -> "Policy | str":
    """The model, or the reason that it is not loaded: too little memory, or faults other checks report."""
    folder = context.base_folder
    problem = no_room(context)
    if problem:
        return problem
    try:
        return context.policy
    except GrpoError as failure:
        name = failure.trouble if failure.trouble else "model-weights"
        return f"the model in {folder} does not load: see {name}"


def no_room(context: Context) -> str:
    """The reason that the weights do not fit into memory, or "". A failed allocation ends the process."""
    from grpo_cli import device

    facts = device.prepare()
    needed, budget = bytes_loaded(context, facts.upcast), device.memory_budget(facts)
    if budget is None or needed <= budget:
        return ""
    return f"its weights take {needed / 1e9:.1f} GB of memory, and {budget / 1e9:.1f} are free"


def bytes_loaded(context: Context, upcast: bool) -> int:
    """Bytes of the loaded weights; `upcast`: as float32, with quantised weights unpacked."""
    folder = context.base_folder
    tensors = tensors_in(folder).values()
    if upcast:
        return 4 * unpacked_numbers(tensors, bits_of(config_of(folder)))
    return sum(tensor.end - tensor.begin for tensor in tensors)


def read_text(policy: "Policy") -> Reading:
    """The model's perplexity on TEXT."""
    ids = text_ids(policy.tokenizer)
    return Reading(perplexity(policy.model, ids), policy.tokenizer.vocab_size)


def text_ids(tokenizer: "Tokenizer", text: str = TEXT) -> list[int]:
    """Token ids of a text, with the beginning-of-text token if the model has one."""
    if is_nanochat(tokenizer):
        return [tokenizer.bos_id, *tokenizer.encode(text)]  # type: ignore[attr-defined]
    wrapped: Any = getattr(tokenizer, "wrapped", None)
    return list(wrapped.encode(text)) if wrapped is not None else tokenizer.encode(text)


def perplexity(model: Any, ids: list[int]) -> float:
    """exp of the mean negative logprob of ids (T,) after the first, each given those before it."""
    import mlx.core as mx

    from grpo_cli.cpu.exact_sums import logsumexp

    tokens = mx.array(ids)  # (T,)
    logits = model(tokens[None])[0, :-1].astype(mx.float32)  # (T-1, V)
    chosen = mx.take_along_axis(logits, tokens[1:, None], axis=-1)[:, 0]
    found: Any = mx.exp((logsumexp(logits) - chosen).mean()).item()
    return float(found)


def said(policy: "Policy") -> str:
    """The model's greedy continuation of PROMPT, or the error's text if sampling fails."""
    from grpo_cli.engine.rollout.generate import generate
    from grpo_cli.engine.rollout.sampling import Sampling

    try:
        ((rollout,),) = generate(
            policy,
            [text_ids(policy.tokenizer, PROMPT)],
            1,
            Sampling(max_new_tokens=NEW_TOKENS, temperature=0.0),
        )
    except GrpoError as failure:  # NaN logits
        return failure.message
    return rollout.text
