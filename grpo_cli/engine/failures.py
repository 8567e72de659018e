"""Failures of the device, known by their text: the class of each, and the run's answer to it.

    failure_of(error)           # Failure(name='GPU timeout', answer='shrink', …), or None for any other error

Since MLX 0.32 a failed command buffer is a RuntimeError, and the device works again after it. Each class has
its own answer (recovery.py): halving the rows would not help against too many live buffers. The texts are
those of MLX (mlx/backend/metal and cuda), of Metal's driver and of the CUDA runtime; tests/bench/RESULTS.md
says where each was seen. Older drivers write kIOAccel… in place of kIOGPU…. This module imports no mlx, so
that the doctor and the command line can read it.

To add a class, add an entry to FAILURES; the first entry with one of its texts in the message counts.
"""

from dataclasses import dataclass
from typing import Literal

# halve: compute half as many rows at once
# shrink: smaller command buffers: half the rows, half the prefill chunk; for a single row, in a new process
# drop: drop compiled functions and the buffer cache, and compute the same; the second time, in a new process
# again: compute the same again
# plain: without mx.compile (compiled_loss.py)
# restart: save what can be saved, and resume in a new process with smaller command buffers
# end: save what can be saved, and end
Answer = Literal["halve", "shrink", "drop", "again", "plain", "restart", "end"]


@dataclass(frozen=True, kw_only=True)
class Failure:
    """A class of failures. `texts`: one of them occurs in the message, in any case of letters."""

    name: str
    texts: tuple[str, ...]
    answer: Answer
    chapter: str  # of `grpo doctor --explain`


LOST_DEVICE = Failure(
    name="lost device",
    texts=(
        "Device Removed",
        "CommandBufferCallbackErrorDeviceRemoved",
        "Access Revoked",
        "CommandBufferCallbackErrorAccessRevoked",
        "No Metal device",
        "Failed to make new command queue",
        # CUDA: after these every call of the process fails
        "illegal memory access",
        "unspecified launch failure",
        "the launch timed out",
        "device-side assert",
        "uncorrectable ECC error",
        "GPU is lost",
        "fallen off the bus",
        "cudaErrorDevicesUnavailable",
        "no CUDA-capable device",
    ),
    answer="end",
    chapter="lost-device",
)
REFUSED = Failure(  # after too many failures the driver takes nothing from this process any more
    name="GPU refuses the process",
    texts=(
        "Ignored (for causing prior/excessive GPU errors)",
        "CommandBufferCallbackErrorSubmissionsIgnored",
    ),
    answer="restart",
    chapter="gpu-timeout",
)
RESOURCE_LIMIT = Failure(
    name="resource limit", texts=("Resource limit",), answer="drop", chapter="resource-limit"
)
GPU_TIMEOUT = Failure(
    name="GPU timeout",
    texts=(
        "GPU Timeout",
        "CommandBufferCallbackErrorTimeout",
        "GPU Hang",  # the same watchdog, in the words of some drivers
        "CommandBufferCallbackErrorHang",
    ),
    answer="shrink",
    chapter="gpu-timeout",
)
INTERACTIVITY = Failure(
    name="GPU interactivity",
    texts=(
        "Impacting Interactivity",
        "CommandBufferCallbackErrorImpactingInteractivity",
        "(0000000e:",  # older drivers: "Internal Error (0000000e:Internal Error)"
    ),
    answer="shrink",
    chapter="gpu-timeout",
)
PAGE_FAULT = Failure(
    name="GPU page fault",
    texts=(
        "GPU Address Fault",
        "CommandBufferCallbackErrorPageFault",
        "Invalid Resource",  # memory freed while a command still used it
        "CommandBufferCallbackErrorInvalidResource",
    ),
    answer="shrink",
    chapter="gpu-timeout",
)
VICTIM = Failure(
    name="GPU reset by another program",
    texts=("victim of GPU error/recovery", "CommandBufferCallbackErrorInnocentVictim"),
    answer="again",
    chapter="gpu-timeout",
)
MEMORY = Failure(
    name="out of memory",
    texts=(
        "Unable to allocate",
        "Attempting to allocate",
        "[metal::malloc]",
        "Insufficient Memory",
        "CommandBufferCallbackErrorOutOfMemory",
        "out of memory",
        "cudaErrorMemoryAllocation",
        "cudaMalloc",
        "std::bad_alloc",
    ),
    answer="halve",
    chapter="memory-needed",
)
BROKEN_COMPILE = Failure(
    name="failed compilation",
    texts=(
        "[compile]",
        "[Compile::eval_cpu]",
        "Unable to build metal library",
        "Unable to load function",
        "Unable to load kernel",
        "nvrtc",
        "Compilation failed",
        "Failed to compile kernel",
        "Failed to load compiled",
    ),
    answer="plain",
    chapter="compiler",
)
UNKNOWN_FAILURE = Failure(
    name="GPU failure",  # of a kind that no other class knows
    texts=("Command buffer execution failed",),
    answer="again",
    chapter="gpu-timeout",
)

FAILURES = (
    LOST_DEVICE,
    REFUSED,
    RESOURCE_LIMIT,
    GPU_TIMEOUT,
    INTERACTIVITY,
    PAGE_FAULT,
    VICTIM,
    MEMORY,
    BROKEN_COMPILE,
    UNKNOWN_FAILURE,  # last: every text of Metal begins like it
)


def failure_of(error: BaseException) -> Failure | None:
    """The class of an exception of MLX; None if it reports no failure of the device."""
    if isinstance(error, MemoryError):
        return MEMORY
    return failure_in(str(error)) if isinstance(error, RuntimeError) else None


def failure_in(text: str) -> Failure | None:
    """The class that a message's text belongs to; None if it is another message."""
    text = text.lower()
    return next((one for one in FAILURES if any(part.lower() in text for part in one.texts)), None)


def is_allocation_failure(error: BaseException) -> bool:
    """True if an exception reports a failed memory allocation."""
    return failure_of(error) is MEMORY
