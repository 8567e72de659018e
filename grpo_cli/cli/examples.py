"""The examples at the end of every `--help`."""


def examples(*commands: str) -> str:
    """An epilog that shows commands as they are typed, one a line."""
    return "\b\nExamples:\n" + "\n".join(f"  {command}" for command in commands)
