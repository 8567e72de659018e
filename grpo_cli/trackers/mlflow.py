"""mlflow: a server, a database or a folder, as MLFLOW_TRACKING_URI says (else mlflow's own default).

MLFLOW_EXPERIMENT_NAME names the experiment. Only MlflowClient is used: a reward may use mlflow's own current
run.
"""

import json
import os
import time
from typing import Any

from grpo_cli.trackers.protocol import PROJECT, Opening, State, Table

STATUS = {State.FINISHED: "FINISHED", State.INTERRUPTED: "KILLED", State.FAILED: "FAILED"}
LONGEST_PARAMETER = 500  # characters that every store of mlflow accepts
# mlflow would print to stdout and stderr, over the display, and report its own use
SETTINGS = {
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
}


class MLflow:
    """One run at mlflow."""

    def __init__(self, opening: Opening) -> None:
        for name, value in SETTINGS.items():
            os.environ.setdefault(name, value)
        from mlflow import MlflowClient

        self._client = MlflowClient()
        self._last = 0
        if opening.run_id:
            self.run_id = opening.run_id
            self._client.update_run(self.run_id, status="RUNNING")
            return
        experiment = experiment_id(self._client, os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT))
        self.run_id = self._client.create_run(experiment, run_name=opening.name).info.run_id
        self._client.log_batch(self.run_id, params=parameters(opening.config))
        self._client.log_dict(self.run_id, opening.config, "config.json")

    def log(self, values: dict[str, float], step: int) -> None:
        """All values at once, at the step."""
        from mlflow.entities import Metric

        self._last, now = step, int(time.time() * 1000)
        self._client.log_batch(self.run_id, [Metric(*pair, now, step) for pair in values.items()])

    def log_table(self, table: Table, step: int) -> None:
        """The completions as a file for each step, which mlflow shows as a table."""
        columns = {name: [row[place] for row in table.rows] for place, name in enumerate(table.columns)}
        self._client.log_table(self.run_id, columns, f"completions/step-{step:06}.json")

    def finish(self, state: State, summary: dict[str, float | str]) -> None:
        """The last results as metrics, the verdict as the run's description."""
        numbers = {f"summary/{name}": float(v) for name, v in summary.items() if not isinstance(v, str)}
        self.log(numbers, self._last)
        self._client.set_tag(self.run_id, "verdict", summary["verdict"])
        self._client.set_tag(self.run_id, "mlflow.note.content", summary["verdict"])
        self._client.set_terminated(self.run_id, STATUS[state])


def experiment_id(client: Any, name: str) -> str:
    """The id of the experiment, which is made if there is none."""
    found = client.get_experiment_by_name(name)
    return str(found.experiment_id if found else client.create_experiment(name))


def parameters(config: dict[str, Any]) -> list[Any]:
    """The configuration as mlflow's parameters: short texts."""
    from mlflow.entities import Param

    texts = {key: v if isinstance(v, str) else json.dumps(v, default=str) for key, v in config.items()}
    return [Param(key, text[:LONGEST_PARAMETER]) for key, text in texts.items()]


def open_mlflow(opening: Opening) -> MLflow:
    """Raises mlflow's errors, e.g. for a server that does not answer."""
    return MLflow(opening)
