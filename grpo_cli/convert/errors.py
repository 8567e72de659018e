"""The error of a conversion."""

from grpo_cli.errors import ModelError


class ConversionError(ModelError):
    """A source that cannot be converted, or a result that cannot be written; `reason` explains it."""

    trouble = "conversion"

    def __init__(self, reason: str, hint: str = "", *, trouble: str = "") -> None:
        super().__init__(f"Failed to convert model: {reason}", hint, trouble=trouble)
