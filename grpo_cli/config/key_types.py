"""Types that the configuration keys share, and the base class of their groups."""

import math
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from grpo_cli.config.loss_types import LOSS_TYPES
from grpo_cli.config.tracker_names import PACKAGES, listed

if TYPE_CHECKING:
    LossTypeName = str
    TrackerName = str
else:
    LossTypeName = Literal[tuple(LOSS_TYPES)]
    TrackerName = Literal[tuple(PACKAGES)]

PositiveInt = Annotated[int, Field(ge=1, le=10**9)]  # more is a typing error
Count = Annotated[int, Field(ge=0, le=10**9)]
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]


def of_plain_values(table: dict[str, Any]) -> dict[str, Any]:
    """The table, if JSON can hold its values. Raises ValueError for a date, a number that is not finite, …"""
    for name, value in table.items():
        if (wrong := _not_plain(value)) is not None:
            allowed = "only texts, finite numbers, booleans, lists and tables"
            raise ValueError(f"takes {allowed}, and {name} holds {wrong}")
    return table


def _not_plain(value: Any) -> Any:
    """The first part of the value that JSON has no form for, or that TOML cannot write (null); else None."""
    if isinstance(value, dict | list):
        parts = value.values() if isinstance(value, dict) else value
        return next((wrong for part in parts if (wrong := _not_plain(part)) is not None), None)
    is_plain = isinstance(value, str | bool | int) or (isinstance(value, float) and math.isfinite(value))
    return None if is_plain else repr(value)


PAUSE_REASONS = ("battery", "pressure", "heat")


def of_pause_reasons(text: str) -> str:
    """The text, if it names reasons to pause, separated by `|`, or is empty. Raises ValueError otherwise."""
    if text and not set(text.split("|")) <= set(PAUSE_REASONS):
        raise ValueError(f"takes {', '.join(PAUSE_REASONS)}, or several of them separated by |")
    return text


PauseReasons = Annotated[str, AfterValidator(of_pause_reasons)]
TemplateKeywords = Annotated[dict[str, Any], AfterValidator(of_plain_values)]
TrackerNames = Annotated[
    list[TrackerName],
    BeforeValidator(listed, json_schema_input_type=list[TrackerName] | Literal["none"] | TrackerName),
]


class Keys(BaseModel):
    """A group of keys; the docstring is its heading in files and tables."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        strict=True,  # "5e-7" is text, not a number
        allow_inf_nan=False,
        use_attribute_docstrings=True,
        protected_namespaces=(),  # model_name is MLX-GRPO's own key
    )
