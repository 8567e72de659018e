"""Format of `--help`: usage lines, arguments and examples.

    Usage: grpo resume [OPTIONS] PATH

Every option and argument names its value by a `metavar`, so that no Python type names appear.
"""

from typing import Any

from typer.core import TyperCommand


def examples(*commands: str) -> str:
    """An epilog with example commands, one per line."""
    return "\b\nExamples:\n" + "\n".join(f"  {command}" for command in commands)


class GrpoCommand(TyperCommand):
    """A command whose help shows arguments as `PATH`, `[CONFIG]`, `FILE…`."""

    def collect_usage_pieces(self, ctx: Any) -> list[str]:  # noqa: ARG002 (as in the class above)
        """The parts of the usage line after the command's name."""
        return [self.options_metavar or "", *(in_usage(argument) for argument in arguments(self))]

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the arguments and the options, each with its help."""
        described = [(in_usage(argument), argument.help or "") for argument in arguments(self)]
        options = [one.get_help_record(ctx) for one in self.get_params(ctx) if not is_argument(one)]
        for title, rows in (("Arguments", described), ("Options", [row for row in options if row])):
            if rows:
                with formatter.section(title):
                    formatter.write_dl(rows)


def is_argument(parameter: Any) -> bool:
    """True for a positional parameter."""
    return parameter.param_type_name == "argument"


def arguments(command: TyperCommand) -> list[Any]:
    """The command's arguments, in their order."""
    return [parameter for parameter in command.params if is_argument(parameter)]


def in_usage(argument: Any) -> str:
    """An argument in a usage line: in brackets if optional, with … if it repeats."""
    name = argument.metavar + ("…" if argument.nargs != 1 else "")
    return name if argument.required else f"[{name}]"
