"""The state of a training run between two steps: policy, data, rewards, optimizer and progress.

    run = prepare(config, listener)         # setup.py
    train_step(run, 1, log)                 # train.py

Plain functions act on it: collect_rollouts.py samples and scores, update_policy.py updates the policy.
"""

import math
from dataclasses import dataclass, field
from pathlib import Path

import mlx.core as mx

from grpo_cli.config.schema import Config
from grpo_cli.distributed.world import ALONE, World
from grpo_cli.engine import events
from grpo_cli.engine.failures import INTERACTIVITY, Failure
from grpo_cli.engine.guards.frozen_weights import WeightsMoved
from grpo_cli.engine.guards.nothing_learned import Teaching
from grpo_cli.engine.host.display import Display
from grpo_cli.engine.host.facts import read_facts
from grpo_cli.engine.host.pressure import PressureWatch
from grpo_cli.engine.host.system import System
from grpo_cli.engine.kernels import kernels_of
from grpo_cli.engine.memory.cache import CacheRoom
from grpo_cli.engine.recovery import PREFILL_TOKENS, Answered, RowLimit
from grpo_cli.engine.rollout.buffer import RolloutBuffer
from grpo_cli.engine.rollout.prompts import Prompt, Prompts
from grpo_cli.engine.rollout.quantized_policy import RolloutPolicy
from grpo_cli.engine.rollout.sampling import KeyChain
from grpo_cli.engine.run_dir.answers import AnswerJournal, scope_of
from grpo_cli.engine.run_dir.checkpoint import Snapshot
from grpo_cli.engine.run_dir.incidents import Incident, Incidents
from grpo_cli.engine.run_dir.rescue import Rescue
from grpo_cli.engine.run_dir.rollout_log import RolloutLog
from grpo_cli.engine.run_dir.run_state import RunState, random_state, restore_random_state
from grpo_cli.engine.signals import Interruption
from grpo_cli.engine.update.compiled_loss import CompiledLoss
from grpo_cli.engine.update.forward import PLAIN, ForwardPlan
from grpo_cli.engine.update.objective import Objective
from grpo_cli.engine.update.optimizer import Optimizer
from grpo_cli.environments.session import Session
from grpo_cli.environments.tooling import SessionMaker, no_environment
from grpo_cli.models.load import Policy
from grpo_cli.models.tree import flat
from grpo_cli.rewards.score import Scorer
from grpo_cli.rewards.table import REWARDS, RewardFunction
from grpo_cli.types import TrainerState


@dataclass(kw_only=True)
class Run:
    """A training run: everything it loaded, and its progress (`state`)."""

    config: Config
    policy: Policy
    # The initial policy, frozen or synchronized; None without KL, or with adapters
    reference: Policy | None
    rewards: list[tuple[str, RewardFunction]]
    train_prompts: Prompts
    eval_prompts: list[Prompt] = field(default_factory=list)
    skipped_prompts: int = 0  # prompts longer than max_prompt_length
    optimizer: Optimizer
    forward_plan: ForwardPlan = PLAIN
    make_session: SessionMaker = no_environment  # makes the environment of each completion
    listener: events.Listener
    world: World = ALONE  # the ranks that share the work of a step
    state: RunState = field(default_factory=RunState)

    def __post_init__(self) -> None:
        config = self.config
        self.random = KeyChain.of_seed(config.seed)  # random keys for sampling rollouts
        self.buffer = RolloutBuffer(
            config.prompts_per_step, config.steps_per_generation, config.num_iterations
        )
        self.scorer = scorer_of(config, self.rewards)
        self.objective = Objective(config, self.forward_plan)
        self.sampler = RolloutPolicy(config, self.policy, self.listener)
        self.compiled = CompiledLoss.of(config, self.policy.model, self.forward_plan, self.listener)
        self.incidents = Incidents()  # recorded nowhere yet; the training loop sets the run's file
        self.rollout_limit = self.limit_for("rollouts")
        self.evaluation_limit = self.limit_for("the evaluation")
        self.update_limit = self.limit_for("the update", prefill_tokens=0)
        self.optimizer.limit = self.limit_for("the optimizer")
        if self.policy.plan.trained == "single":
            self.update_limit.rows = 1
        self.cache_room = CacheRoom()  # limit_cache sets the real one
        self.pressure = PressureWatch(pauses=config.pauses_on, read=lambda: read_facts(System()))
        self.display = Display(config.display_sleep)
        self.machine_actions: list[str] = []  # against pressure, since the last step
        self.paused_seconds = 0.0  # since the last step
        self.interruption = Interruption()  # never requested; the training loop sets the real one
        self.has_heard = False  # an interruption was announced to the listener
        self.rescue = Rescue()
        self.weights_moved = WeightsMoved(config)
        self.sampler_agrees = False  # the logprobs of sampler and loss were compared and match
        own_rewards = {name for name, function in self.rewards if function not in REWARDS.values()}
        self.teaching = Teaching(config=config, own=own_rewards)
        self.rollout_log: RolloutLog | None = None
        self.told: set[str] = set()  # anomalies already reported by a notice
        self.answers: AnswerJournal | None = None  # of environments, recorded for a resumed run

    @property
    def prompts_wanted(self) -> int:
        """Number of prompts that max_steps steps use per epoch; 0 = all."""
        batches = math.ceil(self.config.max_steps / self.config.num_iterations)
        return math.ceil(batches * self.config.prompts_per_step / self.config.num_epochs)

    @property
    def total_steps(self) -> int:
        """Optimizer updates of the whole run."""
        return steps_of(self.config, self.train_prompts.count(self.prompts_wanted))

    @property
    def trainer_state(self) -> TrainerState:
        """The run's progress as reward functions receive it."""
        epoch = self.state.prompts_used / len(self.train_prompts)
        return TrainerState(self.state.step, self.total_steps, epoch)

    def is_due(self, step: int, every: int, *, last: bool) -> bool:
        """True if an action done every `every` steps (0 = never) is due after `step`.

        `last`: it is also due after the run's last step.
        """
        return every > 0 and step > 0 and (step % every == 0 or (last and step == self.total_steps))

    def trained_weights(self) -> dict[str, mx.array]:
        """The arrays the optimizer updates, by name: float32 master copies if the weights are 16-bit."""
        return flat(self.optimizer.master or self.policy.model.trainable_parameters())

    @property
    def kernels(self) -> dict[str, str]:
        """The kernels that the run computes with."""
        return kernels_of(self.policy, self.forward_plan, self.optimizer, self.compiled)

    def advance(self, step: int, prompts_used: int, fault: str | None, log_positions: dict[str, int]) -> None:
        """Record that `step` is finished. `fault`: the reason if its update was skipped."""
        self.buffer.advance(step)
        self.state.faults = [*self.state.faults, fault] if fault is not None else []
        self.state.step = step
        self.state.prompts_used = prompts_used
        self.state.evaluated = False
        self.note_random_states()
        self.keep(log_positions)

    def keep(self, log_positions: dict[str, int]) -> None:
        """Keep the current state for a rescue to save, unless the latest update was skipped."""
        self.state.log_positions = log_positions
        if not self.state.faults:
            self.rescue.keep(self.snapshot())

    def snapshot(self) -> Snapshot:
        """The current state, for a checkpoint."""
        self.state.total_steps, self.state.kernels = self.total_steps, self.kernels
        return Snapshot(
            policy=self.policy,
            optimizer=self.optimizer,
            config=self.config,
            state=self.state.copy(),
            groups=self.buffer.groups,
            reference=self.reference if self.config.sync_ref_model else None,
        )

    def record_answers(self, folder: Path, is_new: bool = False) -> None:
        """Record what environments answer in the run's folder, and replay what is recorded there.

        `is_new`: the run begins; nothing is replayed.
        """
        if self.make_session is no_environment:
            return
        config = self.config
        limits = [config.max_tool_calls, config.tool_timeout, config.tool_parser, config.max_result_tokens]
        entries = [config.tools, config.environments]
        self.answers = AnswerJournal(
            folder,
            rank=self.world.rank,
            scope=scope_of(config.seed, entries, limits, self.state.data, self.state.inputs),
            vocabulary=self.policy.tokenizer.vocab_size,
            position=self.state.prompts_used,
            is_new=is_new,
        )

    def session(self, prompt: Prompt, at: int, row: int) -> Session | None:
        """The environment of a training completion. `at`, `row`: the place of its record."""
        session = self.make_session(prompt.example)
        return self.answers.recorded(session, at, row, prompt.ids) if self.answers else session

    def seed(self) -> None:
        """Set the random states: from the checkpoint if the run is resumed, else from config.seed."""
        if self.state.random_state:
            restore_random_state(self.state.random_state)
            # Checkpoints of earlier versions have MLX's global state only; the chain continues it exactly.
            self.random = KeyChain(self.state.sampling_state or self.state.random_state)
        else:
            mx.random.seed(self.config.seed)
        self.note_random_states()

    def note_random_states(self) -> None:
        """Store the current random states, so that a checkpoint continues from them."""
        self.state.random_state, self.state.sampling_state = random_state(), self.random.words

    def progress(self, event: events.RolloutProgress | events.UpdateProgress) -> None:
        """Report progress to the listener, and the first time after an interruption, when the run stops.

        Raises TrainingError if another rank is gone.
        """
        self.world.check()
        self.listener(event)
        if self.interruption.requested and not self.has_heard:
            self.has_heard = True
            step = self.state.step + 1
            self.listener(
                events.Notice(f"Stopping after step {step} (saving…). Press Ctrl-C again to quit now.")
            )

    def limit_for(self, place: str, prefill_tokens: int = PREFILL_TOKENS) -> RowLimit:
        """A limit without failures so far, which reports each to the listener and to the run's incidents."""

        def tell(answered: Answered) -> None:
            name, done = answered.failure.name, answered.done
            self.incidents.record(
                Incident(
                    kind=name,
                    step=self.state.step,
                    place=place,
                    reason=answered.reason,
                    done=done,
                    seconds=answered.seconds,
                )
            )
            advice = self.advice_on(answered.failure)
            self.listener(events.Notice(f"{name} in {place}: {done}, with the same result{advice}"))

        return RowLimit(prefill_tokens=prefill_tokens, on_answer=tell, drop_compiled=self.drop_compiled)

    def advice_on(self, failure: Failure) -> str:
        """The end of the notice of a failure: what the user can do about the next one."""
        if failure.answer == "halve":
            return ". `batch_size = 1` with more `gradient_accumulation_steps` needs less"
        if failure is INTERACTIVITY:
            return self.display.after_interactivity()
        return f": `grpo doctor --explain {failure.chapter}`"

    def drop_compiled(self) -> None:
        """Free the compiled functions of the update."""
        if self.compiled is not None:
            self.compiled.drop()

    def close(self) -> None:
        """Shut down the reward workers and close the journal of answers."""
        self.scorer.close()
        if self.answers:
            self.answers.close()


def steps_of(config: Config, prompts: int) -> int:
    """Optimizer updates of a whole run over `prompts` prompts per epoch."""
    steps = max(1, config.num_epochs * prompts // config.prompts_per_step) * config.num_iterations
    return min(steps, config.max_steps) if config.max_steps else steps


def scorer_of(config: Config, rewards: list[tuple[str, RewardFunction]]) -> Scorer:
    """The configured scorer of completions. Its workers start with the first completion."""
    return Scorer(
        rewards,
        config.reward_weight_list,
        config.reward_timeout,
        config.reward_workers,
        config.reward_functions,
    )
