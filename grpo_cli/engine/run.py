"""What a run holds between two steps: the policy, its data and rewards, the optimizer, and where it stands.

    run = prepare(config, listener)         # setup.py
    train_step(run, 1, log)                 # train.py

Plain functions act on it: collect_rollouts.py samples and scores, update_policy.py learns from that.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import mlx.core as mx

from grpo_cli.config.schema import Config
from grpo_cli.distributed.world import ALONE, World
from grpo_cli.engine import events
from grpo_cli.engine.guards.frozen_weights import WeightsMoved
from grpo_cli.engine.guards.nothing_learned import Teaching
from grpo_cli.engine.memory.out_of_memory import RowLimit
from grpo_cli.engine.rollout.buffer import RolloutBuffer
from grpo_cli.engine.rollout.prompts import Prompt, Prompts
from grpo_cli.engine.rollout.quantized_policy import RolloutPolicy
from grpo_cli.engine.rollout.sampling import KeyChain
from grpo_cli.engine.run_dir.checkpoint import Snapshot
from grpo_cli.engine.run_dir.rescue import Rescue
from grpo_cli.engine.run_dir.run_state import RunState, random_state, restore_random_state
from grpo_cli.engine.signals import Interruption
from grpo_cli.engine.update.compiled_loss import CompiledLoss
from grpo_cli.engine.update.forward import PLAIN, ForwardPlan
from grpo_cli.engine.update.objective import Objective
from grpo_cli.engine.update.optimizer import Optimizer
from grpo_cli.models.load import Policy
from grpo_cli.models.tree import flat
from grpo_cli.rewards.score import Scorer
from grpo_cli.rewards.table import REWARDS, RewardFunction
from grpo_cli.types import TrainerState
from grpo_cli.words import plural


@dataclass(kw_only=True)
class Run:
    """A training run: what was loaded for it, and how far it is."""

    config: Config
    policy: Policy
    reference: Policy | None  # a frozen copy; None without KL, and with LoRA, whose base is the reference
    rewards: list[tuple[str, RewardFunction]]
    train_prompts: Prompts
    eval_prompts: list[Prompt] = field(default_factory=list)
    skipped_prompts: int = 0  # longer than max_prompt_length
    optimizer: Optimizer
    plan: ForwardPlan = PLAIN
    listener: events.Listener
    world: World = ALONE  # the ranks that the step's work is shared out to
    state: RunState = field(default_factory=RunState)

    def __post_init__(self) -> None:
        config = self.config
        self.random = KeyChain.of_seed(config.seed)  # of rollouts
        self.buffer = RolloutBuffer(
            config.prompts_per_step, config.steps_per_generation, config.num_iterations
        )
        self.scorer = scorer_of(config, self.rewards)
        self.objective = Objective(config, self.plan)
        self.sampler = RolloutPolicy(config, self.policy, self.listener)
        self.compiled = CompiledLoss.of(config, self.policy.model, self.plan, self.listener)
        self.rollout_limit = RowLimit(on_lowering=self.tell_of_memory("rollouts"))
        self.update_limit = RowLimit(on_lowering=self.tell_of_memory("the update"))
        if self.policy.plan.trained == "single":
            self.update_limit.rows = 1
        self.interruption = Interruption()  # nobody interrupts, until the loop says who does
        self.has_heard = False  # of an interruption
        self.rescue = Rescue()
        self.weights_moved = WeightsMoved(config)
        self.sampler_agrees = False  # whether sampler and loss were seen to be of one policy
        own_rewards = {name for name, function in self.rewards if function not in REWARDS.values()}
        self.teaching = Teaching(config=config, own=own_rewards)
        self.told: set[str] = set()  # anomalies that a notice was given of

    @property
    def prompts_wanted(self) -> int:
        """How many prompts of the dataset max_steps can use; 0: all."""
        batches = math.ceil(self.config.max_steps / self.config.num_iterations)
        return math.ceil(batches * self.config.prompts_per_step / self.config.num_epochs)

    @property
    def total_steps(self) -> int:
        """Optimizer updates of the whole run."""
        return steps_of(self.config, self.train_prompts.count(self.prompts_wanted))

    @property
    def trainer_state(self) -> TrainerState:
        """How far the run is, for rewards."""
        epoch = self.state.prompts_used / len(self.train_prompts)
        return TrainerState(self.state.step, self.total_steps, epoch)

    def is_due(self, step: int, every: int, *, last: bool) -> bool:
        """Whether something done every so many steps (0: never) comes after this one."""
        return every > 0 and step > 0 and (step % every == 0 or (last and step == self.total_steps))

    def trained_weights(self) -> dict[str, mx.array]:
        """What the optimizer changes, by name: the float32 copies where the weights are half as wide."""
        return flat(self.optimizer.master or self.policy.model.trainable_parameters())

    def advance(self, step: int, prompts_used: int, fault: str | None, log_positions: dict[str, int]) -> None:
        """Move past a step. `fault`: why its update was skipped, if it was."""
        self.buffer.advance(step)
        self.state.faults = [*self.state.faults, fault] if fault is not None else []
        self.state.step = step
        self.state.prompts_used = prompts_used
        self.state.evaluated = False
        self.note_random_states()
        self.keep(log_positions)

    def keep(self, log_positions: dict[str, int]) -> None:
        """Have a rescue save the run as it stands, unless its latest update was skipped."""
        self.state.log_positions = log_positions
        if not self.state.faults:
            self.rescue.keep(self.snapshot())

    def snapshot(self) -> Snapshot:
        """The run as it stands, for a checkpoint."""
        self.state.total_steps = self.total_steps
        return Snapshot(
            policy=self.policy,
            optimizer=self.optimizer,
            config=self.config,
            state=self.state.copy(),
            groups=self.buffer.groups,
        )

    def seed(self) -> None:
        """Seed what is random, or go on with it where the checkpoint was."""
        if self.state.random_state:
            restore_random_state(self.state.random_state)
            # Runs of old sampled from MLX's own state, which the chain continues to the same numbers.
            self.random = KeyChain(self.state.sampling_state or self.state.random_state)
        else:
            mx.random.seed(self.config.seed)
        self.note_random_states()

    def note_random_states(self) -> None:
        """Have the state go on from the random numbers as they are now."""
        self.state.random_state, self.state.sampling_state = random_state(), self.random.words

    def progress(self, event: events.RolloutProgress | events.UpdateProgress) -> None:
        """Tell of work that goes on, and once, what comes of an interruption.

        Raises TrainingError where another rank is gone.
        """
        self.world.check()
        self.listener(event)
        if self.interruption.requested and not self.has_heard:
            self.has_heard = True
            step = self.state.step + 1
            self.listener(
                events.Notice(f"Stopping after step {step} (saving…). Press Ctrl-C again to quit now.")
            )

    def tell_of_memory(self, what: str) -> Callable[[int], None]:
        """What tells the listener that memory was short, and what was done about it."""

        def tell(rows: int) -> None:
            self.listener(
                events.Notice(
                    f"memory was short in {what}: from now on at most {plural(rows, 'completion')} at "
                    "once, to the same result. `batch_size = 1` with more `gradient_accumulation_steps` "
                    "needs less"
                )
            )

        return tell

    def close(self) -> None:
        """End what rewards run in."""
        self.scorer.close()


def steps_of(config: Config, prompts: int) -> int:
    """Optimizer updates of a whole run over so many prompts."""
    steps = max(1, config.num_epochs * prompts // config.prompts_per_step) * config.num_iterations
    return min(steps, config.max_steps) if config.max_steps else steps


def scorer_of(config: Config, rewards: list[tuple[str, RewardFunction]]) -> Scorer:
    """What scores completions as the configuration says; nothing of it runs before it is needed."""
    return Scorer(
        rewards,
        config.reward_weight_list,
        config.reward_timeout,
        config.reward_workers,
        config.reward_functions,
    )
