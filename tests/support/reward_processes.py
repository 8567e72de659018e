"""The processes and threads that rewards have left behind."""

import multiprocessing
import threading
from typing import Any


def left() -> list[Any]:
    """Processes and threads of rewards."""
    processes = [child for child in multiprocessing.active_children() if child.name == "grpo-reward"]
    return processes + [thread for thread in threading.enumerate() if thread.name == "grpo-rewards"]
