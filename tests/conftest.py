"""What all tests share: the machine's fast setup, and folders of their own.

`prepare()` runs before any test module imports mlx. Hub caches lie in a temporary folder and the
hub is offline, so that no test depends on what the user has downloaded.
"""

import atexit
import gc
import os
import shutil
import signal
import sys
import tempfile
from pathlib import Path

import pytest

_home = tempfile.mkdtemp(prefix="grpo-tests-")
atexit.register(shutil.rmtree, _home, ignore_errors=True)
os.environ.update(
    HOME=_home,  # the last error of a command is kept in the user's folder
    XDG_CONFIG_HOME=f"{_home}/config",
    HF_HOME=_home,
    HF_DATASETS_CACHE=f"{_home}/datasets",
    HF_HUB_OFFLINE="1",
    HF_DATASETS_OFFLINE="1",
    HF_HUB_DISABLE_TELEMETRY="1",
    TOKENIZERS_PARALLELISM="false",
)
# A shell starts what it has in the background with Ctrl-C ignored, and so would be all that tests start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:  # nohup: only this process stays deaf
    signal.signal(signal.SIGHUP, lambda *_: None)
# A machine that keeps no bytecode compiles transformers and datasets again in every process that a test
# starts: 3 seconds each time.
sys.dont_write_bytecode = False
for name in ("HF_HUB_CACHE", "MLX_GRPO_CONFIG", "UV_RUN_RECURSION_DEPTH", "PYTHONDONTWRITEBYTECODE"):
    os.environ.pop(name, None)
# What tests write need not outlive a power cut: a sync takes 2 to 5 ms, and a small run makes 60. Processes
# that tests start do sync.
os.fsync = lambda descriptor: (os.fstat(descriptor), None)[1]  # EBADF stays an error
# Threads that wait for a busy core make small products many times slower: on two cores with other work
# the tests took 67 s with two threads and 37 s with one.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

from grpo_cli.device import prepare  # noqa: E402  (after the environment)

prepare()
pytest.register_assert_rewrite("tests.support")  # its assertions tell values, as those of a test do


# Files that take longest or wait for processes of theirs begin first, so that none is alone at the end.
LONGEST = (
    "distributed/test_ranks.py", "convert/test_genuine.py", "engine/test_resume.py",
    "engine/test_environments.py", "engine/update/test_gradient.py", "engine/test_model_kinds.py",
    "engine/test_train.py", "engine/test_warm_start.py", "engine/update/test_packing.py",
    "doctor/checks/run/test_real_runs.py", "engine/update/test_compiled_loss.py",
    "models/test_all_families.py",
    "bench/test_torture.py", "engine/run_dir/test_answers.py", "engine/test_device_faults.py",
    "engine/rollout/test_quantized_policy.py", "engine/rollout/test_generate.py", "engine/test_judge.py",
    "environments/test_taught_calculator.py", "engine/memory/test_estimate.py", "cli/test_resume.py",
    "cli/test_unheard.py", "engine/update/test_activation_checkpoint.py", "rewards/test_workers.py",
    "cli/test_run_commands.py", "cli/test_doctor.py", "convert/test_fuse.py", "convert/test_memory.py",
    "doctor/checks/machine/test_speed.py", "doctor/cures/test_run.py",
)  # fmt: skip


# Files whose tests over 0.6 s take 2 s together (`--durations=0 --durations-min=0.6`): whole runs, and
# commands in processes of their own. `-m "not slow"` leaves them out.
SLOW = (
    "bench/test_bench.py", "bench/test_endings.py", "bench/test_torture.py", "cli/test_convert.py",
    "cli/test_doctor.py", "cli/test_early.py", "cli/test_generate.py", "cli/test_main.py",
    "cli/test_output_file.py", "cli/test_printed_commands.py", "cli/test_restart.py", "cli/test_resume.py",
    "cli/test_run_commands.py", "cli/test_traps.py", "cli/test_unheard.py", "config/test_mutations.py",
    "convert/test_fuse.py", "convert/test_memory.py", "convert/test_run.py", "convert/test_through_mlx_lm.py",
    "convert/test_torch_file.py", "cures/test_rewards.py", "cures/test_runs.py",
    "distributed/test_rank_options.py", "distributed/test_ranks.py", "distributed/test_watch.py",
    "doctor/checks/hosts/test_ring.py",
    "doctor/checks/machine/test_environment.py", "doctor/checks/machine/test_memory.py",
    "doctor/checks/machine/test_speed.py", "doctor/checks/model/test_model.py",
    "doctor/checks/model/test_quantisation.py", "doctor/checks/run/test_real_runs.py",
    "doctor/read/test_machine.py", "engine/guards/test_frozen_weights.py",
    "engine/guards/test_logprob_mismatch.py", "engine/guards/test_nonfinite.py",
    "engine/guards/test_nothing_learned.py", "engine/memory/test_check.py", "engine/memory/test_estimate.py",
    "engine/test_recovery.py", "engine/rollout/test_buffer.py", "engine/rollout/test_generate.py",
    "engine/rollout/test_quantized_policy.py", "engine/rollout/test_sampling.py",
    "engine/rollout/test_turns.py", "engine/run_dir/test_checkpoint.py", "engine/run_dir/test_folder.py",
    "engine/run_dir/test_inputs.py", "engine/run_dir/test_log.py", "engine/run_dir/test_manifest.py",
    "engine/run_dir/test_resume_point.py", "engine/run_dir/test_run_state.py", "engine/run_dir/test_saver.py",
    "engine/test_collect_rollouts.py", "engine/test_environments.py", "engine/test_resume.py",
    "engine/test_setup.py", "engine/test_train.py", "engine/test_update_policy.py",
    "engine/update/test_activation_checkpoint.py", "engine/update/test_compiled_loss.py",
    "engine/update/test_packing.py", "environments/test_taught_calculator.py", "models/test_adapters.py",
    "models/test_all_families.py", "rewards/test_worker.py", "rewards/test_workers.py",
)  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Order the files by LONGEST; the others stay as they are. Mark those of SLOW."""
    here = Path(__file__).parent
    places = {here / name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path, len(LONGEST)))
    slow = {here / name for name in SLOW}
    for item in items:
        if item.path in slow:
            item.add_marker(pytest.mark.slow)


def pytest_collection_finish() -> None:
    """What was imported lives to the end: the garbage collector need not look at it again and again."""
    gc.collect()
    gc.freeze()
