"""tensorboard: event files in the run's folder, `trackers/tensorboard/ID/`.

They are written by tensorboardX, which needs neither torch nor tensorboard: the machine that trains need not
have the viewer. `tensorboard --logdir outputs` shows all runs.
"""

import html
import json

from grpo_cli.trackers.protocol import Opening, State, Table

LONGEST_CELL = 2000  # characters of a completion in the table


class TensorBoard:
    """One run as event files; those of a resumed run are in the same folder."""

    def __init__(self, opening: Opening) -> None:
        from tensorboardX import SummaryWriter

        self.run_id = opening.run_id or opening.new_id
        self._writer = SummaryWriter(str(opening.folder / self.run_id), flush_secs=10)
        if not opening.run_id:
            shown = json.dumps(opening.config, indent=2, ensure_ascii=False, default=str)
            self._writer.add_text("config", f"<pre>{html.escape(shown)}</pre>", 0)
        self._last = 0

    def log(self, values: dict[str, float], step: int) -> None:
        """Each value as a scalar."""
        self._last = step
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def log_table(self, table: Table, step: int) -> None:
        """The completions as a table in Markdown, under TEXT."""
        rows = [table.columns, ["---"] * len(table.columns), *([cell(v) for v in row] for row in table.rows)]
        lines = "\n".join(f"| {' | '.join(map(str, row))} |" for row in rows)
        self._writer.add_text("completions", lines, step)

    def finish(self, state: State, summary: dict[str, float | str]) -> None:
        """The last results as a text."""
        lines = "\n".join(f"- {name}: {cell(value)}" for name, value in {"state": state, **summary}.items())
        self._writer.add_text("summary", lines, self._last)
        self._writer.close()


def cell(value: object) -> str:
    """A value for a cell: text that no Markdown and no HTML is made of."""
    text = str(value)
    text = text if len(text) <= LONGEST_CELL else f"{text[:LONGEST_CELL]}…"
    marks = {ord(mark): f"&#{ord(mark)};" for mark in "|`*_[]()#!\\~"}
    return html.escape(text).translate(marks).replace("\n", "<br>")


def open_tensorboard(opening: Opening) -> TensorBoard:
    """Raises OSError if the folder cannot be written."""
    return TensorBoard(opening)
