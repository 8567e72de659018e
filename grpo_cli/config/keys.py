"""The configuration keys in their groups: type, bounds, default and description of each.

Each description exists only here: `grpo config init`, the JSON Schema and configs/KEYS.md show it.
Defaults are those of MLX-GRPO, so that its files keep their meaning, except `num_generations` (8, not 64:
64 do not fit on a laptop).

To add a key, add one field to its group; those of the loss are in keys_of_the_loss.py. Rules between keys are
in rules.py.
"""

from typing import Annotated, Literal

from pydantic import Field

from grpo_cli.config.key_types import (
    Count,
    Fraction,
    Keys,
    PauseReasons,
    PositiveInt,
    TemplateKeywords,
    TrackerNames,
)

XML_SYSTEM_PROMPT = (
    "Respond in the following format:\n<reasoning>\n...\n</reasoning>\n<answer>\n...\n</answer>"
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
    keep_rollouts: Count = 1000
    """Number of newest steps whose completions are all kept, with tokens, logprobs and rewards, in
    `rollouts/step-000040.parquet`, at most 1 GB for a run; 0: none.
    """
    report_to: TrackerNames = []
    """Trackers that the run is reported to, each an extra (`pip install 'grpo-cli[wandb]'`): wandb, trackio,
    tensorboard and mlflow, several at once. They get metrics under TRL's names, evaluations and completions.
    """
    report_every: Count = 0
    """Steps between updates of the run's page, report.html, which is always written at the end; 0: only
    then. An update that comes too soon is left out: they take at most 1 % of a run's time.
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
    display_sleep: bool = False
    """On a Mac put the display to sleep when training starts, and after each interactivity error of the GPU:
    macOS raises these only while a display is on. Any key wakes it. Without effect elsewhere.
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
