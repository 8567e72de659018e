"""The configuration keys in their groups: type, bounds, default and description of each.

Each description exists only here: `grpo config init`, the JSON Schema and configs/KEYS.md show it.
Defaults are those of MLX-GRPO, so that its files keep their meaning, except `num_generations` (8, not 64:
64 do not fit on a laptop).

To add a key, add one field to its group. Rules between keys are in rules.py.
"""

import math
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from grpo_cli.config.loss_types import LOSS_TYPES
from grpo_cli.config.tracker_names import PACKAGES, listed

if TYPE_CHECKING:
    LossTypeName = str
    TrackerName = str
else:
    LossTypeName = Literal[tuple(LOSS_TYPES)]
    TrackerName = Literal[tuple(PACKAGES)]

XML_SYSTEM_PROMPT = (
    "Respond in the following format:\n<reasoning>\n...\n</reasoning>\n<answer>\n...\n</answer>"
)

PositiveInt = Annotated[int, Field(ge=1, le=10**9)]  # more is a typing error
Count = Annotated[int, Field(ge=0, le=10**9)]
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]


def of_plain_values(table: dict[str, Any]) -> dict[str, Any]:
    """The table, if JSON can hold its values. Raises ValueError for a date, a number that is not finite, …"""
    for name, value in table.items():
        if (wrong := _not_plain(value)) is not None:
            allowed = "only texts, finite numbers, booleans, lists and tables"
            raise ValueError(f"takes {allowed}, and {name} holds {wrong}")
    return table


def _not_plain(value: Any) -> Any:
    """The first part of the value that JSON has no form for, or that TOML cannot write (null); else None."""
    if isinstance(value, dict | list):
        parts = value.values() if isinstance(value, dict) else value
        return next((wrong for part in parts if (wrong := _not_plain(part)) is not None), None)
    is_plain = isinstance(value, str | bool | int) or (isinstance(value, float) and math.isfinite(value))
    return None if is_plain else repr(value)


PAUSE_REASONS = ("battery", "pressure", "heat")


def of_pause_reasons(text: str) -> str:
    """The text, if it names reasons to pause, separated by `|`, or is empty. Raises ValueError otherwise."""
    if text and not set(text.split("|")) <= set(PAUSE_REASONS):
        raise ValueError(f"takes {', '.join(PAUSE_REASONS)}, or several of them separated by |")
    return text


PauseReasons = Annotated[str, AfterValidator(of_pause_reasons)]
TemplateKeywords = Annotated[dict[str, Any], AfterValidator(of_plain_values)]
TrackerNames = Annotated[
    list[TrackerName],
    BeforeValidator(listed, json_schema_input_type=list[TrackerName] | Literal["none"] | TrackerName),
]


class Keys(BaseModel):
    """A group of keys; the docstring is its heading in files and tables."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        strict=True,  # "5e-7" is text, not a number
        allow_inf_nan=False,
        use_attribute_docstrings=True,
        protected_namespaces=(),  # model_name is MLX-GRPO's own key
    )


class RunKeys(Keys):
    """run"""

    model_name: str = Field("Qwen/Qwen2.5-1.5B-Instruct", min_length=1)
    """The policy model: a folder, a hub repository (owner/name), or `tiny`, the embedded model."""
    adapter: str = ""
    """Adapters on model_name that training continues: a folder or repository of mlx_lm.lora, of a run, or of
    PEFT (LoRA). Their rank, scale and layers are kept. Empty: new ones (`lora_rank`), unless model_name is
    itself such a folder.
    """
    output_dir: str = Field("outputs", min_length=1)
    """Folder that contains the run folders."""
    run_name: str = Field("", pattern=r"^([^/\\.][^/\\]{0,79})?$")
    """Name of the run's folder in output_dir; empty: derived from the model and dataset names."""
    seed: int = Field(0, ge=0, le=2**32 - 1)
    """Random seed for sampling, data order and LoRA initialization."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Data type of the weights in memory: auto keeps that of the files on Metal and CUDA and uses float32 on
    the CPU.
    """
    use_compile: bool = True
    """Compile the update on Metal and CUDA, once for each of a few padded microbatch shapes. If compilation
    fails or changes the gradient, the run continues without it. No effect on the CPU.
    """


class DataKeys(Keys):
    """data"""

    dataset: str = Field("openai/gsm8k", min_length=1)
    """`arithmetic` (embedded), a hub name, a file (JSON, JSONL, CSV, TSV, Parquet, Arrow; optionally
    compressed), or a folder: of such files, written by `save_to_disk`, or a cloned hub repository.
    """
    dataset_config: str = ""
    """The dataset's configuration on the hub (`main`); for arithmetic its difficulty, 1 to 4 digits."""
    train_split: str = Field("train", min_length=1)
    """Split for training prompts."""
    eval_split: str = Field("test", min_length=1)
    """Split for evaluation; never the training split."""
    prompt_column: str = Field("question", min_length=1)
    """Column with the problem: text, or a list of chat messages (also with `from` and `value`). A final
    assistant message is removed; it is the answer if the dataset has no `answer_column`.
    """
    prompt_format: Literal["chat", "text"] = "chat"
    """Prompt format: chat puts the problem into the model's chat template; text uses it unchanged, as text to
    continue, without a system message (`completion_prefix` still follows).
    """
    chat_template_kwargs: TemplateKeywords = {}
    """Keywords for the chat template, such as `{ enable_thinking = false }`: texts, numbers, booleans, lists
    and tables. On the command line also one by one: `--set chat_template_kwargs.enable_thinking=false`.
    """
    answer_column: str = "answer"
    """Column with the right answer; if it contains `####`, the answer is what follows. A dotted path selects
    a field of an object: `reward_model.ground_truth`. Empty: a dataset without answers.
    """
    system_column: str = "system"
    """Column with a row's own system message, which replaces `system_prompt`; empty: none. The column may be
    missing.
    """
    max_train_samples: Count = 0
    """Maximum number of training examples; 0: all."""
    system_prompt: str = XML_SYSTEM_PROMPT
    """System message before every problem; empty: none."""
    completion_prefix: str = "<reasoning>"
    """Text that every completion starts with. The model sees it as part of the prompt, the rewards see it as
    part of the completion.
    """
    max_prompt_length: PositiveInt = 512
    """Maximum prompt length in tokens; longer prompts are skipped and counted, never truncated."""


class RewardKeys(Keys):
    """rewards"""

    reward_functions: list[str] = Field(
        ["correctness", "int", "strict_format", "soft_format", "xmlcount"], min_length=1
    )
    """Built-in rewards by name, or `path/to/file.py:function` for your own."""
    reward_weights: list[float] = []
    """One weight per reward function; empty: each is 1."""
    multi_objective_aggregation: Literal["sum_then_normalize", "normalize_then_sum"] = "sum_then_normalize"
    """Order of summing and normalizing: sum_then_normalize compares the weighted sums within a group;
    normalize_then_sum (GDPO) first normalizes each reward function within the group, then scales by the
    batch.
    """
    soft_overlong_tokens: Count = 0
    """Overlong penalty of DAPO, added to the reward: falls from 0 to −1 over this many tokens before
    max_new_tokens; 0: none.
    """
    strip_thinking: bool = False
    """Give rewards and evaluation the text after a completion's thinking (`<think>…</think>`, as the model's
    vocabulary spells it), which is empty if the thinking does not end. Training keeps all tokens.
    """
    judge: str = ""
    """Model of the reward `judge`, which scores completions from 0 to 1: a folder or hub repository (or
    `tiny`). It is loaded beside the policy, answers greedily and is never trained. Empty: none.
    """
    judge_mode: Literal["score", "rank"] = "score"
    """Question to the judge: score (about each completion by itself) or rank (about all completions of a
    prompt together, for a number for each).
    """
    judge_prompt: str = ""
    """Template of the question to the judge, with `{completion}` for score or `{completions}` for rank, and
    where wanted `{prompt}` and `{answer}`. Its answer must contain `Score: N`, or a line `1: N` for each
    completion, with N from 0 to 10. Empty: a built-in question.
    """
    judge_max_tokens: PositiveInt = 256
    """Maximum length of the judge's answer in tokens."""
    reward_timeout: float = Field(60.0, ge=0.0)
    """Time limit in seconds for one call of an `async def` reward or one in a worker process; 0: no limit. A
    plain function in this process cannot be stopped: use `reward_workers`.
    """
    reward_workers: int = Field(0, ge=0, le=256)
    """Worker processes for plain rewards, each given whole groups of completions; 0: rewards run in this
    process. Workers and `async def` rewards score a group while others are still being sampled.
    """


class RolloutKeys(Keys):
    """rollouts"""

    num_generations: PositiveInt = 8
    """Completions per prompt (G); advantages compare the rewards within this group."""
    max_new_tokens: PositiveInt = 512
    """Maximum completion length in tokens."""
    temperature: float = Field(0.7, gt=0.0, le=10.0)
    """Sampling temperature; the loss uses the logprobs of the same distribution."""
    top_p: float = Field(1.0, gt=0.0, le=1.0)
    """Nucleus sampling: sample from the smallest set of tokens whose total probability reaches this; 1: all
    tokens.
    """
    top_k: Count = 0
    """Sample only from the k most likely tokens; 0: all tokens."""
    min_p: float = Field(0.0, ge=0.0, lt=1.0)
    """Exclude tokens whose probability is below this fraction of the most likely token's; 0: none."""
    repetition_penalty: float = Field(1.0, gt=0.0)
    """Sampling penalty on tokens already used; 1: none. Training refuses other values for now: the loss would
    use a different distribution from the sampled one.
    """
    stop: list[Annotated[str, Field(min_length=1)]] = []
    """Texts that end a completion, such as `["</answer>"]`."""


class EnvironmentKeys(Keys):
    """tools and environments"""

    tools: list[str] = ["auto"]
    """Functions that a completion can call, each as `path/to/file.py:function`, shown to the model by its
    chat template; or `calculator`, nanochat's, which computes what stands between `<|python_start|>` and
    `<|python_end|>`. auto: the calculator for nanochat models, none for others; empty: none. What a tool
    writes is not trained.
    """
    environment: str = ""
    """Environment that answers completions: `guess`, `search` or `calculator` (embedded), or
    `path/to/file.py:Class`; several, separated by commas, for a dataset whose column `environment` chooses.
    Its own reward is the built-in reward `environment`. Empty: none.
    """
    num_episodes: Count = 0
    """Number of episodes to train on with an environment that needs no dataset; 0: `dataset` is used."""
    tool_parser: str = ""
    """Syntax of the model's tool calls: a parser of mlx-lm (`json_tools`, …); empty: as its chat template."""
    max_turns: PositiveInt = 8
    """Maximum turns of the model in one completion."""
    max_tool_calls: Count = 16
    """Maximum tool calls in one completion; further ones are answered by an error; 0: no limit."""
    tool_timeout: float = Field(30.0, ge=0.0)
    """Time limit in seconds for the tool calls of one turn; 0: none."""
    max_result_tokens: PositiveInt = 512
    """Maximum number of tokens that tools write into one completion, beyond max_new_tokens. A result that
    does not fit is shortened, or else the completion ends as truncated.
    """


class QuantizedRolloutKeys(Keys):
    """quantized rollouts"""

    quantize_for_rollouts: bool = False
    """Sample from a quantized copy of the policy (`bits` per weight): faster on Metal and CUDA. The loss
    corrects for it by truncated importance sampling; evaluation and checkpoints use the full weights.
    """
    bits: Literal[2, 3, 4, 6, 8] = 4
    """Bits per weight of the rollout quantization."""
    group_size: Literal[32, 64, 128] = 64
    """Group size of the rollout quantization."""
    importance_sampling_mode: Literal[
        "token_truncate", "token_mask", "sequence_truncate", "sequence_mask"
    ] = "token_truncate"
    """Granularity of the importance weight π_policy/π_rollout, and its treatment above the cap: truncate
    clips it, mask drops the token (or completion) from the policy loss. Sequence-level ratios use
    sequence-level weights.
    """
    importance_sampling_cap: float = Field(2.0, ge=1.0, le=1e6)
    """Cap on the importance weight π_policy/π_rollout."""
    importance_sampling_clip_min: float = Field(0.0, ge=0.0, le=1.0)
    """Lower bound on the importance weight: smaller ones are raised to it, or dropped by a mask; 0: none."""


class LossKeys(Keys):
    """loss"""

    loss_type: LossTypeName = Field(
        "dapo",
        description="Policy loss and token average: "
        + "; ".join(f"{name} ({loss.description})" for name, loss in LOSS_TYPES.items())
        + ".",
    )
    importance_sampling_level: Literal["token", "sequence"] = "token"
    """Granularity of the importance ratio: per token, or per sequence (GSPO; length-normalized, with clip_eps
    around 3e-4). loss_type gspo always uses sequences.
    """
    advantage_estimator: Literal[
        "grpo", "rloo", "reinforce_plus_plus", "reinforce_plus_plus_baseline", "maxrl"
    ] = "grpo"
    """Advantage of a completion: grpo compares with the group's mean and scales as scale_rewards says; rloo
    with the mean of the others; reinforce_plus_plus with mean and standard deviation of the batch,
    reinforce_plus_plus_baseline with the group's mean and the batch's standard deviation; maxrl divides by
    the group's mean (for rewards that are not negative).
    """
    scale_rewards: Literal["group", "batch", "none"] = "group"
    """Scaling of advantages: divide by the group's standard deviation, by the batch's, or not at all."""
    clip_eps: float = Field(0.2, gt=0.0, lt=1.0)
    """Lower clip: the ratio new/old is clipped below 1 − clip_eps. Usual values: gspo 3e-4, luspo 2e-3; gmpo
    0.4, for the logarithm of the ratio; dppo 0.15, for a divergence.
    """
    clip_eps_high: float = Field(0.0, ge=0.0)
    """Upper clip: the ratio is clipped above 1 + clip_eps_high; 0: same as clip_eps."""
    delta: float = Field(0.0, ge=0.0)
    """Two-sided clip: upper bound on the ratio when the advantage is negative; 0: no bound."""
    sapo_temperature_pos: float = Field(1.0, gt=0.0, le=1e3)
    """sapo: steepness of the gate where the advantage is positive; higher: ratios far from 1 count less."""
    sapo_temperature_neg: float = Field(1.05, gt=0.0, le=1e3)
    """sapo: steepness of the gate where the advantage is 0 or negative."""
    vespo_k_pos: float = Field(2.0, ge=0.0, le=1e3)
    """vespo: exponent of the sequence's ratio where the advantage is positive or 0; higher: ratios below 1
    count less.
    """
    vespo_lambda_pos: float = Field(3.0, ge=0.0, le=1e3)
    """vespo: decay with the ratio where the advantage is positive or 0; higher: ratios above 1 count less."""
    vespo_k_neg: float = Field(3.0, ge=0.0, le=1e3)
    """vespo: the exponent where the advantage is negative."""
    vespo_lambda_neg: float = Field(2.0, ge=0.0, le=1e3)
    """vespo: the decay where the advantage is negative."""
    divergence_type: Literal["binary_tv", "binary_kl"] = "binary_tv"
    """dppo: divergence of the token's probability that clip_eps bounds: total variation |new − old|, or the
    KL of token against all others (with clip_eps around 0.05).
    """
    clip_ratio_c: float = Field(20.0, ge=1.0, le=1e6)
    """dppo: cap on the ratio new/old."""
    off_policy_mask_threshold: float = Field(0.0, ge=0.0, le=1e3)
    """Drop the policy loss of completions with a negative advantage whose tokens became less likely by more
    than this, in nats per token, since they were sampled (DeepSeek-V3.2; such as 0.5); 0: none.
    """
    kl_coeff: float = Field(0.0, ge=0.0)
    """Weight of the KL divergence to the reference policy; the reference is loaded only if this is above 0.
    """
    kl_reference: Literal["start", "base"] = "start"
    """Reference policy of the KL divergence: start is the policy at the run's first step, with the adapters
    it continues; base is the model without adapters.
    """
    kl_estimator: Literal["k3", "k1"] = "k3"
    """Per-token KL estimator: k3 (never negative) or k1 (new − reference logprob)."""
    use_bias_correction_kl: bool = False
    """Multiply the KL estimate by the ratio new/old, which makes its gradient unbiased (DeepSeek-V3.2)."""
    sync_ref_model: bool = False
    """Move the reference policy towards the policy every few steps (TR-DPO). Full fine-tuning only."""
    ref_model_mixup_alpha: float = Field(0.6, gt=0.0, le=1.0)
    """Share α of the policy in the synchronized reference, α · policy + (1 − α) · reference."""
    ref_model_sync_steps: PositiveInt = 512
    """Steps between synchronizations of the reference."""
    entropy_coeff: float = Field(0.0, ge=0.0)
    """Weight of the entropy bonus, averaged like the loss (dr_grpo: over max_new_tokens); 0: none."""
    router_aux_loss_coef: float = Field(0.0, ge=0.0, le=10.0)
    """Mixtures of experts: weight of the loss that keeps the experts' load even (0.001 to 0.02 in the models'
    own training); 0: none.
    """
    use_adaptive_entropy: bool = False
    """Adapt entropy_coeff (Skywork-OR1): a step up after each update whose entropy is at most entropy_target,
    a step down otherwise; the bonus is applied only in the first case. entropy_coeff is the initial value.
    """
    entropy_target: float = Field(0.2, ge=0.0, le=100.0)
    """Target of adaptive entropy: mean entropy of the trained tokens, in nats (the log's `entropy`)."""
    entropy_coeff_delta: float = Field(0.005, gt=0.0, le=100.0)
    """Step of adaptive entropy."""
    entropy_coeff_min: float = Field(0.0, ge=0.0, le=100.0)
    """Least coefficient of adaptive entropy."""
    entropy_coeff_max: float = Field(1.0, ge=0.0, le=100.0)
    """Greatest coefficient of adaptive entropy."""
    top_entropy_quantile: float = Field(1.0, gt=0.0, le=1.0)
    """Fraction of a step's tokens that have a policy loss, chosen by highest entropy; 1: all."""
    top_entropy_policy: Literal["rollout", "current"] = "rollout"
    """Policy whose entropies choose these tokens: the one that sampled, or the current one before each update
    (TRL's choice; one more forward for updates on reused or quantized rollouts).
    """
    mask_truncated_completions: bool = False
    """Exclude completions truncated at max_new_tokens from the loss and from its averages."""


class ReuseKeys(Keys):
    """from rollouts to steps"""

    num_iterations: PositiveInt = 1
    """Optimizer updates per batch of rollouts (μ)."""
    steps_per_generation: int = Field(1, ge=1, le=1024)
    """Number of steps whose rollouts are sampled at once; each step learns from its share. TRL counts
    forwards here: its value is this × gradient_accumulation_steps.
    """
    dynamic_sampling: bool = False
    """Dynamic sampling (DAPO): discard groups whose rewards are all equal and draw new prompts instead."""
    dynamic_sampling_budget: int = Field(3, ge=2, le=100)
    """Maximum batches of rollouts per generation with dynamic sampling; after that, groups with equal rewards
    fill the remaining places.
    """


class OptimizerKeys(Keys):
    """optimization"""

    learning_rate: float = Field(1e-6, ge=0.0, le=100.0)
    """Peak learning rate."""
    optimizer: Literal["adamw", "adam", "sgd", "lion", "muon"] = "adamw"
    """Optimizer. muon: Muon for the matrices of linear layers, with rates 10 to 100 times AdamW's, and AdamW
    for embeddings, head, norms and vectors.
    """
    adamw_learning_rate: float = Field(0.0, ge=0.0, le=100.0)
    """muon: peak learning rate of the weights that AdamW trains; 0: learning_rate."""
    muon_momentum: float = Field(0.95, ge=0.0, lt=1.0)
    """muon: decay of the momentum."""
    adam_beta1: float = Field(0.9, ge=0.0, lt=1.0)
    """First-moment decay of AdamW."""
    adam_beta2: float = Field(0.999, ge=0.0, lt=1.0)
    """Second-moment decay of AdamW."""
    weight_decay: float = Field(0.0, ge=0.0)
    """Decoupled weight decay."""
    max_grad_norm: float = Field(0.1, gt=0.0)
    """Maximum global gradient norm; larger gradients are scaled down to it."""
    lr_scheduler_type: Literal["cosine", "linear", "constant"] = "cosine"
    """Shape of the learning rate schedule after warmup, over optimizer updates."""
    warmup_ratio: Fraction = 0.1
    """Fraction of all updates over which the learning rate rises from 0."""


class StepKeys(Keys):
    """steps and their memory"""

    batch_size: PositiveInt = 1
    """Prompts per forward and backward pass."""
    gradient_accumulation_steps: PositiveInt = 4
    """Forward and backward passes per update: a step has batch_size × this × num_generations completions."""
    microbatch_tokens: Count = 0
    """Maximum tokens per forward and backward pass, including padding; 0: batch_size prompts at once,
    whatever their lengths. Completions of similar length are grouped; the gradient stays the same.
    """
    num_epochs: PositiveInt = 1
    """Passes over the training examples."""
    max_steps: Count = 0
    """Stop after this many updates; 0: run all epochs."""
    grad_checkpoint: bool = False
    """Recompute each layer in the backward pass and keep only its input: less memory for a second forward
    pass. The gradient stays the same.
    """


class LoraKeys(Keys):
    """LoRA"""

    lora_rank: Count = 0
    """Rank of LoRA adapters; 0: full fine-tuning."""
    lora_type: Literal["lora", "dora"] = "lora"
    """Adapter type: lora, or dora (which also trains the norm of every weight row)."""
    lora_scale: float = Field(20.0, gt=0.0)
    """Factor on the adapters' output (mlx-lm's `scale`; PEFT's lora_alpha / rank)."""
    use_rslora: bool = False
    """rsLoRA: the factor is lora_scale / √lora_rank, so that lora_scale equals PEFT's lora_alpha and the rank
    does not change the speed of learning.
    """
    lora_dropout: float = Field(0.0, ge=0.0, lt=1.0)
    """Dropout before the adapters; values above 0 are refused: the loss would not see the sampled policy."""
    lora_layers: Count = 0
    """Number of layers to adapt, counted from the last; 0: all."""


class OutputKeys(Keys):
    """log, evaluation, checkpoints"""

    logging_steps: PositiveInt = 1
    """Steps between log lines."""
    log_jsonl: bool = True
    """Write training_log.jsonl and completions.jsonl."""
    log_completions: Count = 4
    """Number of completions written to completions.jsonl at each logged step."""
    keep_rollouts: Count = 0
    """Number of newest steps whose completions are all kept, with tokens, logprobs and rewards, in
    `rollouts/step-000040.parquet`; 0: none.
    """
    report_to: TrackerNames = []
    """Trackers that the run is reported to, each an extra (`pip install 'grpo-cli[wandb]'`): wandb, trackio,
    tensorboard and mlflow, several at once. They get metrics under TRL's names, evaluations and completions.
    """
    report_every: Count = 0
    """Steps between updates of the run's page, report.html, which is always written at the end; 0: only
    then. An update takes about a second per 1,000 steps so far.
    """
    eval_steps: Count = 50
    """Steps between evaluations, which also run before the first and after the last step; 0: never."""
    eval_samples: Count = 200
    """Number of examples from the evaluation split, the same each time; 0: all."""
    eval_reward: str = ""
    """Reward that measures accuracy in evaluation: a completion is right if it is above 0. A built-in reward
    or one of reward_functions; empty: the final answer equals the right one.
    """
    eval_max_new_tokens: PositiveInt = 128
    """Maximum completion length in evaluation, in tokens."""
    save_steps: Count = 100
    """Steps between checkpoints; 0: only the final one."""
    keep_checkpoints: PositiveInt = 3
    """Number of newest checkpoints to keep, besides final and the best by evaluation."""


class MachineKeys(Keys):
    """the machine during a run"""

    keep_awake: bool = True
    """Keep the machine from sleeping while a run trains: `caffeinate` on a Mac, `systemd-inhibit` on Linux
    where systemd runs. A closed lid or an empty battery still stops it.
    """
    pause_on: PauseReasons = "pressure|heat"
    """Reasons to save and pause between two steps, separated by `|`: battery (until the charger is back),
    pressure (memory stays short after smaller measures), heat (both at most 10 minutes at a time); empty:
    never pause. The results do not depend on it.
    """
    cache_limit_gb: float = Field(0.0, ge=0.0, le=10_000.0)
    """Most freed memory that MLX keeps for reuse, in GB (10⁹ bytes); 0: 1 GiB on the CPU; on Metal and CUDA
    what the run's estimate leaves of the device's memory, at most the temporary arrays of a step.
    """
    exact_float32: bool = False
    """Compute float32 products in full on CUDA and on an M5, not as TF32 with 10 bits of mantissa; slower.
    No effect on the CPU and on older Macs, which always do.
    """


class RankKeys(Keys):
    """several ranks"""

    rank_timeout: float = Field(0.0, ge=0.0)
    """Heartbeat timeout on several ranks, in seconds without a sign of work, after which the run ends; 0:
    adaptive, five times the longest pause so far in the same kind of work, at least 60.
    """
