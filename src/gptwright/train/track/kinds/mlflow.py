"""MLflow, through its own client."""

import importlib.util
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gptwright.config.slot import ComponentConfig
from gptwright.train.track.base import TrackedRun, Tracker, flat, package

_PARAMS_AT_ONCE = 100
"""What one call of MLflow's own interface takes."""


class Mlflow(Tracker):
    """A run at an MLflow server, or in its files under `./mlruns`; environment variables MLFLOW_... are honoured.

    A run that goes on continues the same one. MLflow deletes nothing: of two values of a step, the later one counts.
    """

    NEEDS = ("mlflow", "mlflow")

    class Config(ComponentConfig):
        uri: str | None = None
        """`http://...`, `file:...`, or `sqlite:...` with the whole of mlflow installed. Default: MLFLOW_TRACKING_URI,
        else what this run was sent to before, else what the installed mlflow takes."""
        experiment: str | None = None
        """Experiment, made if it is not there. Default: MLFLOW_EXPERIMENT_NAME, else `gptwright`."""

    def __init__(self, config: Any, run: TrackedRun) -> None:
        super().__init__(config, run)
        mlflow = package(*self.NEEDS)
        self._entities = package("mlflow.entities", "mlflow")
        self._uri = config.uri or os.environ.get("MLFLOW_TRACKING_URI") or run.kept.get("uri") or _usual(mlflow)
        if self._uri.startswith("file:") or "://" not in self._uri:
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")  # asked for, or all that mlflow-skinny can do
        self._client = mlflow.MlflowClient(self._uri)
        self._id = self._found(run) or self._new(run)
        self._log_params(flat(run.config))

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Log numbers by their names in `metrics.jsonl`; `/` becomes `.`, which every store of MLflow can hold."""
        now = int(1000 * time.time())
        entries = [self._entities.Metric(name.replace("/", "."), value, now, step) for name, value in metrics.items()]
        self._client.log_batch(self._id, metrics=entries)

    def text(self, step: int, name: str, text: str) -> None:
        """Log a text as an artifact."""
        self._client.log_text(self._id, text, f"{name}/step-{step}.txt")

    def close(self) -> None:
        """Mark the run as finished; a later session may go on."""
        self._client.set_terminated(self._id)

    def keep(self) -> dict[str, Any]:
        """Return the run's id and the store that holds it."""
        return {"id": self._id, "uri": self._uri}

    def _found(self, run: TrackedRun) -> str | None:
        """Return the id of the run of an earlier session, if this store has it."""
        known = run.kept.get("id") if run.kept.get("uri") == self._uri else None
        if known is None:
            return None
        try:
            self._client.update_run(known, status="RUNNING")
        except Exception:  # deleted meanwhile: a new one
            return None
        return known

    def _new(self, run: TrackedRun) -> str:
        name = self.config.experiment or os.environ.get("MLFLOW_EXPERIMENT_NAME") or "gptwright"
        there = self._client.get_experiment_by_name(name)
        experiment = there.experiment_id if there else self._client.create_experiment(name)
        return self._client.create_run(experiment, run_name=run.name).info.run_id

    def _log_params(self, params: Mapping[str, str]) -> None:
        """Log settings; those of an earlier session cannot change in MLflow and are left."""
        there = self._client.get_run(self._id).data.params
        new = [self._entities.Param(name, value) for name, value in params.items() if name not in there]
        for first in range(0, len(new), _PARAMS_AT_ONCE):
            self._client.log_batch(self._id, params=new[first : first + _PARAMS_AT_ONCE])


def _usual(mlflow: Any) -> str:
    """Return what the client itself would take; mlflow-skinny has no database, so files there."""
    if mlflow.is_tracking_uri_set() or importlib.util.find_spec("sqlalchemy"):
        return mlflow.get_tracking_uri()
    return (Path.cwd() / "mlruns").as_uri()
