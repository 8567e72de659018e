"""Find the configuration file for a name or path.

A path in the current folder has priority over the shipped configurations: `prod` and `prod.toml` both find
the shipped prod.toml from any folder, unless the current folder has its own.
"""

import difflib
import os
from pathlib import Path

from grpo_cli.errors import ConfigError
from grpo_cli.files import expanded_name

ENVIRONMENT = "MLX_GRPO_CONFIG"


def shipped_folder() -> Path:
    """The folder of shipped configurations: in an installed wheel, or `configs` in a checkout."""
    package = Path(__file__).parents[1]
    installed = package / "shipped_configs"
    return installed if installed.is_dir() else package.parent / "configs"


def shipped_names() -> list[str]:
    """Names of the shipped configurations without suffix, such as `prod`."""
    return sorted(path.stem for path in shipped_folder().glob("*.toml"))


def configured_name(name: str | None) -> str | None:
    """The given name, else the value of `$MLX_GRPO_CONFIG`, else None."""
    return name or os.environ.get(ENVIRONMENT) or None


def required_name(name: str | None) -> str:
    """As `configured_name`, but raises ConfigError if there is none."""
    if found := configured_name(name):
        return found
    raise ConfigError(
        f"No configuration: neither --config nor ${ENVIRONMENT} is given",
        f"`--config smoke_test.toml` (shipped: {', '.join(shipped_names())}), "
        f"or `export {ENVIRONMENT}=path/to/file.toml`",
        trouble="config-not-found",
    )


def find_config(name: str) -> tuple[Path, str]:
    """The file for `name`, and its name for messages. Raises ConfigError that suggests similar files."""
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
        return given, name  # a folder: reading it reports the error
    raise ConfigError(f"Config file not found: {name}", _where_else(given), trouble="config-not-found")


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # a name too long for the file system, or one that contains NUL
        return False


def _where_else(given: Path) -> str:
    """Hint for a missing file: similar names nearby or shipped, and the places searched."""
    folder = given.parent
    known = {name: f"{name}.toml" for name in shipped_names()}
    known |= {path.stem: str(path) for path in (folder if folder.is_dir() else Path()).glob("*.toml")}
    near = [known[match] for match in difflib.get_close_matches(given.stem, known, n=3, cutoff=0.6)]
    guess = f"did you mean {' or '.join(f'`{name}`' for name in near)}? " if near else ""
    looked = f"looked in {folder.absolute()}" + ("" if folder.is_dir() else " (no such folder)")
    origin = f"${ENVIRONMENT} names it; " if os.environ.get(ENVIRONMENT) == str(given) else ""
    return f"{origin}{guess}{looked}; shipped: {', '.join(shipped_names())}"
