"""What all tests share: the machine's fast setup, and folders of their own.

`prepare()` runs before any test module imports mlx. Hub caches lie in a temporary folder and the
hub is offline, so that no test depends on what the user has downloaded.
"""

import atexit
import os
import shutil
import tempfile

_home = tempfile.mkdtemp(prefix="grpo-tests-")
atexit.register(shutil.rmtree, _home, ignore_errors=True)
os.environ.update(
    HF_HOME=_home,
    HF_DATASETS_CACHE=f"{_home}/datasets",
    HF_HUB_OFFLINE="1",
    HF_DATASETS_OFFLINE="1",
    HF_HUB_DISABLE_TELEMETRY="1",
    TOKENIZERS_PARALLELISM="false",
)
for name in ("HF_HUB_CACHE", "MLX_GRPO_CONFIG"):
    os.environ.pop(name, None)

from grpo_cli.device import prepare  # noqa: E402  (after the environment)

prepare()
