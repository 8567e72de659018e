"""The one flat table of configuration keys: type, bounds, default and description of each.

The description under a key is the only one there is: `grpo config init`, the JSON Schema and
configs/KEYS.md show it. Defaults are MLX-GRPO's, so that its files keep their meaning, except
`num_generations` (8, not 64: sixty-four do not fit a laptop).

To add a key, add one field to its group below. Rules between keys are in rules.py.
"""

import math
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

XML_SYSTEM_PROMPT = (
    "Respond in the following format:\n<reasoning>\n...\n</reasoning>\n<answer>\n...\n</answer>"
)

# What MLX-GRPO still accepts, and the key that replaced it.
SUPERSEDED = {
    "max_completion_length": "max_new_tokens",
    "eval_every_updates": "eval_steps",
    "eval_subset_size": "eval_samples",
}

PositiveInt = Annotated[int, Field(ge=1, le=10**9)]  # more is a slip of the keyboard
Count = Annotated[int, Field(ge=0, le=10**9)]
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]


class Keys(BaseModel):
    """A group of keys; the docstring is its heading in files and tables."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        strict=True,  # "5e-7" is a text, not a number
        allow_inf_nan=False,
        use_attribute_docstrings=True,
        protected_namespaces=(),  # model_name is MLX-GRPO's own key
    )


class RunKeys(Keys):
    """run"""

    model_name: str = Field("Qwen/Qwen2.5-1.5B-Instruct", min_length=1)
    """The policy: a folder, a hub repository (owner/name), or `tiny`, the embedded model."""
    output_dir: str = Field("outputs", min_length=1)
    """Folder that holds the run folders."""
    run_name: str = Field("", pattern=r"^([^/\\.][^/\\]{0,79})?$")
    """Name of the run's own folder in output_dir; empty: made of the model's and the dataset's names."""
    seed: int = Field(0, ge=0, le=2**32 - 1)
    """Seed of sampling, data order and LoRA initialisation."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Weights in memory: auto keeps the files' own on Metal and CUDA and takes float32 on the CPU."""
    use_compile: bool = True
    """Compile the update on Metal and CUDA, once for each of a few shapes that microbatches are padded to;
    where that fails or gives another gradient, the run goes on without. On a CPU without effect."""


class DataKeys(Keys):
    """data"""

    dataset: str = Field("openai/gsm8k", min_length=1)
    """`arithmetic` (embedded), a hub name, a file (JSON, JSONL, CSV, TSV, Parquet, Arrow; compressed or not),
    or a folder: of such files, what `save_to_disk` wrote, or a cloned repository of the hub."""
    dataset_config: str = ""
    """The dataset's configuration on the hub (`main`); for arithmetic its difficulty, 1 to 4 digits."""
    train_split: str = Field("train", min_length=1)
    """Split that training draws its prompts from."""
    eval_split: str = Field("test", min_length=1)
    """Split that evaluation uses; never the training split."""
    prompt_column: str = Field("question", min_length=1)
    """Column that holds the problem: a text, or a list of chat messages (also with from and value). A last
    message of the assistant is left out; it is the answer where the dataset has no `answer_column`."""
    prompt_format: Literal["chat", "text"] = "chat"
    """chat puts the problem into the model's chat template; text uses it as it is, for a text to be
    continued, without system message (`completion_prefix` still follows)."""
    answer_column: str = "answer"
    """Column that holds the right answer; where it contains `####`, the answer is what follows. A path leads
    into objects: `reward_model.ground_truth`. Empty: a dataset without answers."""
    system_column: str = "system"
    """Column that holds a row's own system message, in place of `system_prompt`; empty: none. A dataset need
    not have it."""
    max_train_samples: Count = 0
    """Use only this many training examples; 0 uses all."""
    system_prompt: str = XML_SYSTEM_PROMPT
    """System message put before every problem; empty: none."""
    completion_prefix: str = "<reasoning>"
    """Text that every completion is made to begin with; it is part of the prompt for the model and
    part of the completion for the rewards."""
    max_prompt_length: PositiveInt = 512
    """Longer prompts, in tokens, are skipped and counted, never cut."""


class RewardKeys(Keys):
    """rewards"""

    reward_functions: list[str] = Field(
        ["correctness", "int", "strict_format", "soft_format", "xmlcount"], min_length=1
    )
    """Names of built-in rewards, or `path/to/file.py:function` for one of your own."""
    reward_weights: list[float] = []
    """One weight for each reward function; empty: 1 for all."""
    soft_overlong_tokens: Count = 0
    """DAPO's penalty, added to the reward: from 0 to −1 over the last so many tokens before
    max_new_tokens; 0: none."""
    reward_timeout: float = Field(60.0, ge=0.0)
    """Seconds that an `async def` reward, or one in a worker process, may take for a call; 0: no limit.
    A plain function in this process cannot be stopped: give it `reward_workers`."""
    reward_workers: int = Field(0, ge=0, le=256)
    """Processes that compute plain rewards, each given whole groups of completions; 0: this process.
    These and `async def` rewards begin with a group while others are still sampled."""


class RolloutKeys(Keys):
    """rollouts"""

    num_generations: PositiveInt = 8
    """Completions per prompt (G): the group whose rewards are compared."""
    max_new_tokens: PositiveInt = 512
    """Longest completion in tokens."""
    temperature: float = Field(0.7, gt=0.0, le=10.0)
    """Sampling temperature; the loss uses the logprobs of this same distribution."""
    top_p: float = Field(1.0, gt=0.0, le=1.0)
    """Sample from the smallest set of tokens whose probability reaches this; 1: from all."""
    top_k: Count = 0
    """Sample from the k likeliest tokens; 0: from all."""
    min_p: float = Field(0.0, ge=0.0, lt=1.0)
    """Leave out tokens less likely than this share of the likeliest; 0: none."""
    repetition_penalty: float = Field(1.0, gt=0.0)
    """Sampling penalty on tokens already used; 1: none; refused in training for now, because the loss would
    see another distribution than the one that was sampled."""
    stop: list[Annotated[str, Field(min_length=1)]] = []
    """Texts that end a completion, as `["</answer>"]`."""


class QuantizedRolloutKeys(Keys):
    """quantised rollouts"""

    quantize_for_rollouts: bool = False
    """Sample from a copy of the policy whose weights are rounded to `bits`: faster on Metal and CUDA. The
    loss corrects for it by truncated importance sampling; evaluation and checkpoints are unrounded."""
    bits: Literal[2, 3, 4, 6, 8] = 4
    """Bits of the rollout quantisation."""
    group_size: Literal[32, 64, 128] = 64
    """Group size of the rollout quantisation."""
    importance_sampling_mode: Literal[
        "token_truncate", "token_mask", "sequence_truncate", "sequence_mask"
    ] = "token_truncate"
    """What the weight policy/quantised copy is of, and what happens above the cap: it is cut to it, or the
    token (the completion) has no policy loss. Where the ratio is by sequence, so is this."""
    importance_sampling_cap: float = Field(2.0, ge=1.0, le=1e6)
    """The most that the weight policy/quantised copy counts."""


class LossKeys(Keys):
    """loss"""

    loss_type: Literal["grpo", "bnpo", "dapo", "dr_grpo", "cispo", "gspo", "reinforce"] = "dapo"
    """How token losses are averaged: grpo (by sequence), bnpo (by forward), dapo (over all tokens of the
    step), dr_grpo (by max_new_tokens); or another loss: cispo (MiniMax-M1's: no token is cut off), gspo
    (grpo with one ratio a sequence), reinforce (nanochat's: no ratio, no clip, no standard deviation)."""
    importance_sampling_level: Literal["token", "sequence"] = "token"
    """What the ratio new/old is of: every token, or a whole completion (length-normalised; its clip_eps is
    then of the order of 3e-4). gspo is by sequence whatever stands here."""
    scale_rewards: Literal["group", "batch", "none"] = "group"
    """Divide advantages by the group's standard deviation, by the batch's, or not at all."""
    clip_eps: float = Field(0.2, gt=0.0, lt=1.0)
    """The ratio new/old is clipped below 1 − clip_eps."""
    clip_eps_high: float = Field(0.0, ge=0.0)
    """The ratio is clipped above 1 + clip_eps_high; 0: the same as clip_eps."""
    delta: float = Field(0.0, ge=0.0)
    """Two-sided clip: with a negative advantage the ratio counts at most this; 0: without bound."""
    kl_coeff: float = Field(0.0, ge=0.0)
    """Weight of the KL divergence to the reference policy; the reference is loaded only when above 0."""
    kl_estimator: Literal["k3", "k1"] = "k3"
    """How the KL is estimated by token: k3 (never negative) or k1 (new − reference logprob)."""
    use_bias_correction_kl: bool = False
    """Multiply the KL estimate by the ratio new/old, which makes its gradient unbiased (DeepSeek-V3.2)."""
    entropy_coeff: float = Field(0.0, ge=0.0)
    """Weight of the entropy bonus, averaged as the loss is: in dr_grpo over max_new_tokens; 0: none."""
    top_entropy_quantile: float = Field(1.0, gt=0.0, le=1.0)
    """Only this share of a step's tokens, by the sampler's entropy the highest, has a policy loss; 1: all."""
    mask_truncated_completions: bool = False
    """Completions cut off at max_new_tokens count neither in the loss nor in its averages."""


class ReuseKeys(Keys):
    """from rollouts to steps"""

    num_iterations: PositiveInt = 1
    """Optimizer updates made on each batch of rollouts (μ)."""
    steps_per_generation: int = Field(1, ge=1, le=1024)
    """Rollouts are made for this many steps at once, and each step learns from its part of them. TRL counts
    forwards here: its value is this × gradient_accumulation_steps."""
    dynamic_sampling: bool = False
    """DAPO's: groups whose rewards are all equal are thrown away, and new prompts drawn in their place."""
    dynamic_sampling_budget: int = Field(3, ge=2, le=100)
    """The most batches of rollouts that are drawn for one generation; then groups of equal rewards fill
    what is missing."""


class OptimizerKeys(Keys):
    """optimisation"""

    learning_rate: float = Field(1e-6, ge=0.0, le=100.0)
    """Peak learning rate."""
    optimizer: Literal["adamw", "adam", "sgd", "lion"] = "adamw"
    """The optimizer."""
    adam_beta1: float = Field(0.9, ge=0.0, lt=1.0)
    """AdamW's first-moment decay."""
    adam_beta2: float = Field(0.999, ge=0.0, lt=1.0)
    """AdamW's second-moment decay."""
    weight_decay: float = Field(0.0, ge=0.0)
    """Decoupled weight decay."""
    max_grad_norm: float = Field(0.1, gt=0.0)
    """Gradients are scaled down to this global norm."""
    lr_scheduler_type: Literal["cosine", "linear", "constant"] = "cosine"
    """Shape of the learning rate after the warmup, over optimizer updates."""
    warmup_ratio: Fraction = 0.1
    """Share of all updates over which the learning rate rises from 0."""


class StepKeys(Keys):
    """steps and their memory"""

    batch_size: PositiveInt = 1
    """Prompts in one forward and backward."""
    gradient_accumulation_steps: PositiveInt = 4
    """Forwards and backwards per update: a step has batch_size × this × num_generations completions."""
    microbatch_tokens: Count = 0
    """Most tokens of one forward and backward, padding included; 0: batch_size prompts at once, whatever
    their lengths. Completions of alike lengths are computed together, to the same gradient."""
    num_epochs: PositiveInt = 1
    """Passes over the training examples."""
    max_steps: Count = 0
    """Stop after this many updates; 0: run all epochs."""
    grad_checkpoint: bool = False
    """Recompute each layer in the backward, of which only its input is kept: less memory for a second
    forward, to the same gradient."""


class LoraKeys(Keys):
    """LoRA"""

    lora_rank: Count = 0
    """Rank of LoRA adapters; 0: full fine-tuning."""
    lora_type: Literal["lora", "dora"] = "lora"
    """Kind of adapters: lora, or dora (which also trains the length of every row of the weights)."""
    lora_scale: float = Field(20.0, gt=0.0)
    """Factor on the adapters' output (mlx-lm's `scale`; PEFT's lora_alpha / rank)."""
    use_rslora: bool = False
    """rsLoRA: the factor is lora_scale / √lora_rank, so that lora_scale is PEFT's lora_alpha and a
    higher rank neither slows nor speeds the learning."""
    lora_dropout: float = Field(0.0, ge=0.0, lt=1.0)
    """Dropout before the adapters; above 0 it is refused: the loss would not see the sampled policy."""
    lora_layers: Count = 0
    """Adapt this many of the last layers; 0: all."""


class OutputKeys(Keys):
    """log, evaluation, checkpoints"""

    logging_steps: PositiveInt = 1
    """Write a line to the log every so many steps."""
    log_jsonl: bool = True
    """Write training_log.jsonl and completions.jsonl."""
    log_completions: Count = 4
    """Completions written to completions.jsonl at each logged step."""
    report_to: Literal["none"] = "none"
    """Other places to send metrics to; none for now."""
    eval_steps: Count = 50
    """Evaluate every so many steps, before the first and after the last; 0: never."""
    eval_samples: Count = 200
    """Examples of the evaluation split to use, the same each time; 0: all."""
    eval_reward: str = ""
    """Reward that says what is right in an evaluation, by giving more than 0: a built-in one or an entry of
    reward_functions; empty: the final answer equals the right one."""
    eval_max_new_tokens: PositiveInt = 128
    """Longest completion in evaluation."""
    save_steps: Count = 100
    """Save a checkpoint every so many steps; 0: only the final one."""
    keep_checkpoints: PositiveInt = 3
    """How many of the newest checkpoints to keep, besides final and the best by evaluation."""


class RankKeys(Keys):
    """several ranks"""

    rank_timeout: float = Field(0.0, ge=0.0)
    """Of a run on several ranks: seconds without a sign of work after which a rank hangs, and the run ends;
    0: five times the longest pause so far in the same kind of work, at least 60."""


# Pydantic takes the fields of the last base first: the groups stand here from the last to the first.
class Config(
    RankKeys,
    OutputKeys,
    LoraKeys,
    StepKeys,
    OptimizerKeys,
    ReuseKeys,
    LossKeys,
    QuantizedRolloutKeys,
    RolloutKeys,
    RewardKeys,
    DataKeys,
    RunKeys,
):
    """A resolved configuration. Frozen: what a run was started with is what it runs with."""

    @property
    def run_dir(self) -> Path:
        """The run's folder: `<output_dir>/<run_name>`."""
        if self.run_name:
            return Path(self.output_dir) / self.run_name
        model, dataset = (Path(name.rstrip("/")).name for name in (self.model_name, self.dataset))
        return Path(self.output_dir) / f"{model}-{Path(dataset).stem}"

    @property
    def prompts_per_step(self) -> int:
        """P: prompts whose rollouts make one optimizer update."""
        return self.batch_size * self.gradient_accumulation_steps

    @property
    def adapter_scale(self) -> float:
        """s, the factor on the adapters' output: lora_scale, or lora_scale / √rank with rsLoRA.

        Kalajdzievski 2023, arXiv:2312.03732, theorem 3.2: γ = α / √r.
        """
        return self.lora_scale / math.sqrt(self.lora_rank) if self.use_rslora else self.lora_scale

    @property
    def prompts_per_generation(self) -> int:
        """Prompts whose rollouts are made at once, for steps_per_generation updates."""
        return self.prompts_per_step * self.steps_per_generation

    @property
    def reward_weight_list(self) -> list[float]:
        """One weight per reward function."""
        return self.reward_weights or [1.0] * len(self.reward_functions)
