"""A trial of MLX on this machine, in a process of its own (`Machine.probe`); prints one JSON object per line.

    python -m grpo_cli.doctor.read.probe

A line is written before each stage (`{"stage": …}`) and after it (its answers). A process that dies halfway,
from a signal or an import, has then reported the stage and all earlier answers.
"""

import json
import sys
import time
from typing import Any

SIZE = 1024  # of the square matrices; large enough to measure the BLAS and not the overhead
COPIED_BYTES = 128 << 20


def say(**answers: Any) -> None:
    """Print one line of answers."""
    print(json.dumps(answers), flush=True)


def main() -> None:
    """Run the stages in order, from what all models need to what only some need."""
    try:
        say(stage="import mlx")
        import mlx.core as mx

        say(mlx=str(getattr(mx, "__version__", "")))
        say(stage="device")
        say(**device_facts())
        say(stage="product")
        say(**product_facts(mx))
        say(stage="memory bandwidth")
        say(bandwidth_gb_s=bandwidth(mx))
        say(stage="import mlx_lm")
        import mlx_lm.models.nanochat  # noqa: F401

        say(nanochat=True, stage="done")
    except Exception as error:  # every failure is an answer here; the process ends with it
        say(error=f"{type(error).__name__}: {error}")
        sys.exit(1)


def device_facts() -> dict[str, Any]:
    """MLX's facts about the device that `grpo` would compute on, and the BLAS in use."""
    import mlx.core as mx

    from grpo_cli.device import has_cuda, prepare

    device = prepare()
    blas = device.blas
    return {
        "device": device.kind,
        "device_name": device.name,
        "info": {key: value for key, value in mx.device_info().items() if isinstance(value, str | int)},
        "metal": bool(mx.metal.is_available()),
        "cuda": has_cuda(),
        "blas": {"name": blas.name, "version": blas.version, "threads": blas.threads, "note": blas.note}
        if blas
        else None,
    }


def product_facts(mx: Any) -> dict[str, Any]:
    """Test matmul: True if correct, and its speed in GFLOP/s, the best of 3."""
    ones = mx.ones((SIZE, SIZE))
    right = float(mx.abs(ones @ ones - SIZE).max().item()) == 0.0
    a = mx.random.normal((SIZE, SIZE))
    mx.eval(a, a @ a)
    seconds = min(timed(lambda: mx.eval(a @ a)) for _ in range(3))
    return {"product_right": right, "gflops": 2 * SIZE**3 / seconds / 1e9}


def bandwidth(mx: Any) -> float:
    """Memory bandwidth of a copy in GB/s, reading and writing together: the best of 3."""
    numbers = mx.zeros((COPIED_BYTES // 4,))
    mx.eval(numbers, numbers + 1)
    seconds = min(timed(lambda: mx.eval(numbers + 1)) for _ in range(3))
    return 2 * COPIED_BYTES / seconds / 1e9


def timed(work: Any) -> float:
    """Seconds that `work()` takes."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
