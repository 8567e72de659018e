"""A run's folder, `<output_dir>/<run_name>/`: made once, never shared by two runs."""

from pathlib import Path

from grpo_cli.config.render import dump_config
from grpo_cli.config.schema import Config
from grpo_cli.errors import CheckpointError


def refuse_existing_run(folder: Path) -> None:
    """Raise CheckpointError where the folder already holds a run, so that none is ever overwritten."""
    if not folder.exists():
        return
    if not folder.is_dir():
        raise CheckpointError(
            f"The run's folder cannot be made: {folder} is a file",
            "choose another `run_name` or `output_dir`",
        )
    marks = [
        folder / "config.toml",
        folder / "training_log.jsonl",
        folder / "final",
        *folder.glob("checkpoint-*"),
    ]
    if any(mark.exists() for mark in marks):
        raise already_a_run(folder)


def already_a_run(folder: Path) -> CheckpointError:
    """The error for a folder that is taken."""
    return CheckpointError(
        f"The folder {folder} already holds a run",
        f"`grpo resume {folder}` goes on with it; `--set run_name=NAME` starts another beside it",
    )


def create_run_folder(config: Config) -> Path:
    """Make the run's folder and write the resolved configuration into it.

    Raises CheckpointError where the folder cannot be written.
    """
    folder = config.run_dir
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / "config.toml").open("x", encoding="utf-8") as file:  # "x": one run makes it, no other
            file.write(dump_config(config))
    except FileExistsError as error:
        raise already_a_run(folder) from error
    except OSError as error:
        raise CheckpointError(
            f"Failed to save checkpoint: {error.strerror}: {folder}",
            "make the folder writable, or set `output_dir` to one that is",
        ) from error
    return folder


def discard_empty_run(folder: Path) -> None:
    """Remove the files of a run that made no step; others that lie in the folder stay."""
    for name in ("config.toml", "training_log.jsonl", "completions.jsonl"):
        (folder / name).unlink(missing_ok=True)
    if not any(folder.iterdir()):
        folder.rmdir()
