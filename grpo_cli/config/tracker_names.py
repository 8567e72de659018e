"""The trackers that `report_to` can name, and the package that each one needs.

A tracker's name is also that of its extra: `pip install 'grpo-cli[wandb]'`.
"""

from typing import Any

PACKAGES = {"wandb": "wandb", "trackio": "trackio", "tensorboard": "tensorboardX", "mlflow": "mlflow"}
NONE = "none"  # also accepted in place of a list, as other trainers write it


def listed(value: Any) -> Any:
    """The value of `report_to` as a list: one name alone is a list of it, and `none` is an empty one."""
    names = [value] if isinstance(value, str) else value
    if not isinstance(names, list):
        return value
    return [name for number, name in enumerate(names) if name != NONE and name not in names[:number]]
