"""A device that fails: MLX's exact texts, raised at one place of a run, so many times."""

from collections.abc import Callable
from typing import Any

import mlx.core as mx
import pytest

from grpo_cli.engine.rollout import continuous_batch, prompt_cache
from grpo_cli.engine.run_dir import checkpoint
from grpo_cli.engine.update import gradient
from grpo_cli.engine.update.optimizer import Optimizer

BUFFER = "[METAL] Command buffer execution failed: "
TEXTS = {
    "metal memory": "[metal::malloc] Attempting to allocate 48736917632 bytes which is greater than the "
    "maximum allowed buffer size of 30150672384 bytes.",
    "command memory": BUFFER + "Insufficient Memory (00000008:kIOGPUCommandBufferCallbackErrorOutOfMemory)",
    "cuda memory": "cudaMallocAsync(&data, size, stream) failed: out of memory",
    "bad alloc": "std::bad_alloc",
    "timeout": BUFFER + "Caused GPU Timeout Error (00000002:kIOGPUCommandBufferCallbackErrorTimeout)",
    "interactivity": BUFFER
    + "Impacting Interactivity (0000000e:kIOGPUCommandBufferCallbackErrorImpactingInteractivity)",
    "page fault": BUFFER
    + "Caused GPU Address Fault Error (0000000b:kIOGPUCommandBufferCallbackErrorPageFault)",
    "victim": BUFFER + "Discarded (victim of GPU error/recovery) "
    "(00000005:kIOGPUCommandBufferCallbackErrorInnocentVictim)",
    "refused": BUFFER + "Ignored (for causing prior/excessive GPU errors) "
    "(00000004:kIOGPUCommandBufferCallbackErrorSubmissionsIgnored)",
    "resource limit": "[metal::malloc] Resource limit (499000) exceeded.",
    "lost device": "cudaStreamSynchronize(stream) failed: an illegal memory access was encountered",
    "compile": "[compile] Compilation failed: nvrtc: error: invalid value",
}
# Other texts: the class of each, and where it was seen.
SEEN = {
    BUFFER + "Internal Error (0000000e:Internal Error)": ("GPU interactivity", "mlx#1231"),
    BUFFER + "Caused GPU Hang Error (00000003:kIOGPUCommandBufferCallbackErrorHang)": (
        "GPU timeout", "mlx-vlm#1064"),
    BUFFER + "Invalid Resource (00000009:kIOGPUCommandBufferCallbackErrorInvalidResource)": (
        "GPU page fault", "mlx-vlm#270, mlx#3689"),
    "Ignored (for causing prior/excessive GPU errors) "
    "(00000004:kIOAccelCommandBufferCallbackErrorSubmissionsIgnored)": (
        "GPU refuses the process", "llama.cpp#8886"),
    "cudaMallocManaged failed: an illegal memory access was encountered.": ("lost device", "mlx#2821"),
    "[metal::load_device] No Metal device available.": ("lost device", "mlx/backend/metal/device.cpp"),
    "[metal::CommandEncoder] Failed to make new command queue.": (
        "lost device", "mlx/backend/metal/device.cpp"),
    BUFFER + "Internal Error (00000001:kIOGPUCommandBufferCallbackErrorInternal)": (
        "GPU failure", "reasoned: a code without a class of its own"),
    "[malloc] Unable to allocate 17179869184 bytes.": ("out of memory", "mlx/backend/metal/allocator.cpp"),
    "[metal::Device] Unable to load kernel gemm\n": ("failed compilation", "mlx/backend/metal/device.cpp"),
    "[metal::Device] Unable to load function gemm\n": ("failed compilation", "mlx/backend/metal/device.cpp"),
    "Failed to compile kernel: error: identifier.": ("failed compilation", "mlx/backend/cuda/jit_module.cpp"),
    "[Compile::eval_cpu] Failed to compile function": ("failed compilation", "mlx/backend/cpu/compiled.cpp"),
}  # fmt: skip
# No thread and no source was found that holds these: they follow the names of Metal's errors.
REASONED = ("Device Removed", "kIOGPUCommandBufferCallbackErrorAccessRevoked")
PLACES = ("prefill", "decode", "forward", "backward", "optimizer", "evaluation", "saving")


class Faults:
    """Raises `text` in the calls numbered `at` (from 1) of one place."""

    def __init__(self, place: str, text: str, at: tuple[int, ...] | range) -> None:
        self.place, self.text, self.at = place, text, at
        self.calls = self.raised = 0

    def call(self, *given: Any) -> None:
        is_draw = self.place in (
            "decode",
            "evaluation",
        )  # evaluations are greedy, the tests' rollouts are not
        if is_draw and (given[1].temperature == 0.0) != (self.place == "evaluation"):
            return
        self.calls += 1
        if self.calls in self.at:
            self.raised += 1
            raise RuntimeError(self.text)

    def before(self, real: Callable[..., Any]) -> Callable[..., Any]:
        """The function, failing before it does anything."""

        def failing(*given: Any, **named: Any) -> Any:
            self.call(*given)
            return real(*given, **named)

        return failing

    def after(self, real: Callable[..., Any]) -> Callable[..., Any]:
        """The function, failing once its work is done and lost."""

        def failing(*given: Any, **named: Any) -> Any:
            found = real(*given, **named)
            self.call()
            return found

        return failing

    def set_up(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Make the place fail."""
        if self.place == "prefill":
            monkeypatch.setattr(continuous_batch, "read_prompts", self.before(prompt_cache.read_prompts))
        elif self.place in ("decode", "evaluation"):
            monkeypatch.setattr(continuous_batch, "draw", self.before(continuous_batch.draw))
        elif self.place == "forward":
            monkeypatch.setattr(gradient, "microbatch_loss", self.before(gradient.microbatch_loss))
        elif self.place == "backward":
            monkeypatch.setattr(gradient, "mx", Evaluation(self))
        elif self.place == "optimizer":
            monkeypatch.setattr(Optimizer, "apply", self.after(Optimizer.apply))
        else:
            monkeypatch.setattr(checkpoint, "save_model", self.before(checkpoint.save_model))


class Evaluation:
    """`mx` whose `eval` fails: MLX computes lazily, so a failing backward is raised there."""

    def __init__(self, faults: Faults) -> None:
        self.eval = faults.before(mx.eval)

    def __getattr__(self, name: str) -> Any:
        return getattr(mx, name)
