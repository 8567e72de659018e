"""trackio: a local database, or a Space of Hugging Face (TRACKIO_SPACE_ID). `trackio show` opens the board.

TRACKIO_PROJECT names the project.
"""

import os
from typing import Any

from grpo_cli.trackers.protocol import PROJECT, Opening, State, Table


class Trackio:
    """One run at trackio, which finds it by its name: the name ends in the id."""

    def __init__(self, opening: Opening) -> None:
        import trackio

        silence(trackio)
        self.run_id = opening.run_id or opening.new_id
        self._trackio, self._last = trackio, 0
        self._run = trackio.init(
            project=os.environ.get("TRACKIO_PROJECT", PROJECT),
            name=f"{opening.name}-{self.run_id}",
            config=opening.config,
            resume="allow",
            embed=False,
            auto_log_cpu=False,
            auto_log_gpu=False,
        )

    def log(self, values: dict[str, float], step: int) -> None:
        """All values at once, at the step."""
        self._last = step
        self._run.log(dict(values), step=step)

    def log_table(self, table: Table, step: int) -> None:
        """The completions as a trackio.Table."""
        made = self._trackio.Table(columns=table.columns, data=table.rows, allow_mixed_types=True)
        self._run.log({"completions": made}, step=step)

    def finish(self, state: State, summary: dict[str, float | str]) -> None:
        """The last results beside the last step: trackio has no summary."""
        values = {f"summary/{name}": value for name, value in {**summary, "state": state.value}.items()}
        self._run.log(values, step=self._last)
        self._run.finish()


def silence(package: Any) -> None:
    """Keep trackio's messages out of the run's output; it has no setting for that."""
    for module in (package, package.run, package.utils):
        vars(module)["print"] = lambda *_, **__: None


def open_trackio(opening: Opening) -> Trackio:
    """Raises trackio's errors, e.g. for a Space that cannot be reached."""
    return Trackio(opening)
