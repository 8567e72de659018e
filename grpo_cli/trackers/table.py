"""The table of trackers: how each is opened. To add one, add its file, its line here and its package in
config/tracker_names.py.
"""

from collections.abc import Sequence
from importlib.util import find_spec

from grpo_cli.config.tracker_names import PACKAGES
from grpo_cli.errors import ConfigError
from grpo_cli.trackers.mlflow import open_mlflow
from grpo_cli.trackers.protocol import OpenTracker
from grpo_cli.trackers.tensorboard import open_tensorboard
from grpo_cli.trackers.trackio import open_trackio
from grpo_cli.trackers.wandb import open_wandb

TRACKERS: dict[str, OpenTracker] = {
    "wandb": open_wandb,
    "trackio": open_trackio,
    "tensorboard": open_tensorboard,
    "mlflow": open_mlflow,
}


def check_installed(names: Sequence[str]) -> None:
    """Raise ConfigError if the package of a tracker is missing."""
    for name in names:
        if find_spec(PACKAGES[name]) is None:
            raise ConfigError(
                f"The tracker `{name}` needs the package {PACKAGES[name]}, which is not installed",
                f"install it: `uv pip install {PACKAGES[name]}`, or with grpo: `.[{name}]`; or write "
                "`report_to = []`",
                trouble="watching",
            )
