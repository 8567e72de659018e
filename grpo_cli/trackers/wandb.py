"""wandb (Weights & Biases). Its environment variables count: WANDB_PROJECT, WANDB_ENTITY, WANDB_MODE, ….

Without a login the run is kept offline in the run's folder, since asking for one would wait for an answer.
Nothing is sent but what the run reports: no code, no git state, no output of the terminal.
"""

import netrc
import os
from pathlib import Path
from urllib.parse import urlsplit

from grpo_cli.trackers.protocol import PROJECT, Opening, State, Table

HOST = "https://api.wandb.ai"
KEYS = ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE")


class WandB:
    """One run at wandb."""

    def __init__(self, opening: Opening) -> None:
        import wandb

        self._wandb = wandb
        mode = os.environ.get("WANDB_MODE")
        if mode is None and not is_logged_in():
            mode = "offline"
            opening.tell(f"is not logged in: the run is kept in {opening.folder}; `wandb sync` uploads it")
        opening.folder.mkdir(parents=True, exist_ok=True)
        self.run_id = opening.run_id or opening.new_id
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            id=self.run_id,
            name=opening.name,
            resume="allow",
            dir=os.environ.get("WANDB_DIR", str(opening.folder)),
            config=opening.config,
            mode=mode,
            settings=wandb.Settings(silent=True, console="off", disable_git=True, disable_code=True),
        )

    def log(self, values: dict[str, float], step: int) -> None:
        """All values at once, at the step."""
        self._run.log(values, step=step)

    def log_table(self, table: Table, step: int) -> None:
        """The completions as a wandb.Table."""
        made = self._wandb.Table(columns=table.columns, data=table.rows, allow_mixed_types=True)
        self._run.log({"completions": made}, step=step)

    def finish(self, state: State, summary: dict[str, float | str]) -> None:
        """The last results as the run's summary."""
        self._run.summary.update({**summary, "state": state.value})
        self._run.finish(exit_code=0 if state is State.FINISHED else 1)


def is_logged_in() -> bool:
    """True if a key of wandb's is in the environment or in ~/.netrc."""
    if any(os.environ.get(key) for key in KEYS):
        return True
    host = urlsplit(os.environ.get("WANDB_BASE_URL", HOST)).hostname or ""
    files = [os.environ.get("NETRC", ""), "~/.netrc", "~/_netrc"]
    for file in [Path(name).expanduser() for name in files if name]:
        try:
            if host in netrc.netrc(file).hosts:
                return True
        except (OSError, netrc.NetrcParseError, UnicodeDecodeError):
            continue
    return False


def open_wandb(opening: Opening) -> WandB:
    """Raises wandb's errors, e.g. for a project that does not exist."""
    return WandB(opening)
