"""From the name a person gives to the file that is meant.

A path in the current folder comes first, then the shipped configurations: `prod` and `prod.toml`
both find the shipped prod.toml from any folder, unless the current folder has its own.
"""

import difflib
import os
from pathlib import Path

from grpo_cli.errors import ConfigError
from grpo_cli.files import expanded_name

ENVIRONMENT = "MLX_GRPO_CONFIG"


def shipped_folder() -> Path:
    """The folder of shipped configurations: inside an installed wheel, or `configs` of a checkout."""
    package = Path(__file__).parents[1]
    installed = package / "shipped_configs"
    return installed if installed.is_dir() else package.parent / "configs"


def shipped_names() -> list[str]:
    """The shipped configurations' names, as `prod`."""
    return sorted(path.stem for path in shipped_folder().glob("*.toml"))


def configured_name(name: str | None) -> str | None:
    """The name given, else `$MLX_GRPO_CONFIG`'s, else None."""
    return name or os.environ.get(ENVIRONMENT) or None


def required_name(name: str | None) -> str:
    """As `configured_name`; raises ConfigError where there is neither."""
    if found := configured_name(name):
        return found
    raise ConfigError(
        f"No configuration: neither --config nor ${ENVIRONMENT} is given",
        f"`--config smoke_test.toml` (shipped: {', '.join(shipped_names())}), "
        f"or `export {ENVIRONMENT}=path/to/file.toml`",
        trouble="config-not-found",
    )


def find_config(name: str) -> tuple[Path, str]:
    """The file that `name` means, and how messages show it. Raises ConfigError naming near files."""
    given = Path(expanded_name(name))
    bare = given.name == name
    candidates = [given, given.with_name(f"{name}.toml")] if bare else [given]
    for path in candidates:
        if _exists(path) and not path.is_dir():
            return path, str(path)
    shipped = shipped_folder() / f"{name.removesuffix('.toml')}.toml"
    if bare and _exists(shipped):
        return shipped, shipped.name
    if _exists(given):
        return given, name  # a folder: reading it says so
    raise ConfigError(f"Config file not found: {name}", _where_else(given), trouble="config-not-found")


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # a name too long for the file system, or with a NUL in it
        return False


def _where_else(given: Path) -> str:
    """Near names among the neighbours and the shipped, and the places that were searched."""
    folder = given.parent
    known = {name: f"{name}.toml" for name in shipped_names()}
    known |= {path.stem: str(path) for path in (folder if folder.is_dir() else Path()).glob("*.toml")}
    near = [known[match] for match in difflib.get_close_matches(given.stem, known, n=3, cutoff=0.6)]
    guess = f"did you mean {' or '.join(f'`{name}`' for name in near)}? " if near else ""
    looked = f"looked in {folder.absolute()}" + ("" if folder.is_dir() else " (no such folder)")
    origin = f"${ENVIRONMENT} names it; " if os.environ.get(ENVIRONMENT) == str(given) else ""
    return f"{origin}{guess}{looked}; shipped are {', '.join(shipped_names())}"
