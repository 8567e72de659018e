"""Runs of every variant of the algorithm, interrupted twice and resumed: byte for byte the uninterrupted one.

    uv run python -m tests.bench.resumed

The tests try one variant of every kind of state (tests/engine/test_resume.py). Ends with an AssertionError
where a resumed run differs.
"""

import tempfile
from pathlib import Path

from grpo_cli.device import prepare

prepare()

from tests.support.resumed_runs import VARIANTS, check_resumed  # noqa: E402  (after the device)


def main() -> None:
    for variant in VARIANTS:
        with tempfile.TemporaryDirectory() as folder:
            check_resumed(variant, Path(folder))
        print(f"equal: {variant}", flush=True)


if __name__ == "__main__":
    main()
