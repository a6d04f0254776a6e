"""MLflow: a database in the study's own folder, or the server that MLFLOW_TRACKING_URI names."""

import logging
import os
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from domainwright.studies.trackers import EXPERIMENT, TRACKERS

BATCH = 900
"""Metrics sent at once; MLflow takes 1,000."""
LONGEST = 500
"""Characters of a parameter: what its older servers keep."""


@TRACKERS.register
class MLflow:
    """A run in the experiment "domainwright"."""

    libraries = ("mlflow", "sqlalchemy", "alembic")

    def __init__(self, name: str, folder: Path, known: str | None) -> None:
        # It reports its use to its makers otherwise.
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        from mlflow import MlflowClient

        for chatty in ("mlflow", "alembic"):
            logging.getLogger(chatty).setLevel(logging.WARNING)
        server = os.environ.get("MLFLOW_TRACKING_URI")
        if server:
            self.client, files = MlflowClient(tracking_uri=server), None
        else:
            folder.mkdir(parents=True, exist_ok=True)
            place = f"sqlite:///{folder.resolve() / 'mlflow.db'}"
            # No models are registered, and not every install of MLflow can do it in a database.
            self.client = MlflowClient(tracking_uri=place, registry_uri=str(folder.resolve()))
            files = (folder.resolve() / "files").as_uri()
        found = self.client.get_experiment_by_name(EXPERIMENT)
        experiment = (
            found.experiment_id
            if found
            else self.client.create_experiment(EXPERIMENT, artifact_location=files)
        )
        self.identity = known or self.client.create_run(experiment, run_name=name).info.run_id
        if known:
            self.client.update_run(known, status="RUNNING")

    def parameters(self, values: Mapping[str, str]) -> None:
        for key, value in values.items():
            self.client.log_param(self.identity, _key(key), value[:LONGEST])

    def metrics(self, run: str, lines: Sequence[tuple[int, Mapping[str, float]]]) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        told = [
            Metric(_key(f"{run}/{name}"), value, now, step)
            for step, values in lines
            for name, value in values.items()
        ]
        for start in range(0, len(told), BATCH):
            self.client.log_batch(self.identity, metrics=told[start : start + BATCH])

    def result(self, strategy: str, values: Mapping[str, float]) -> None:
        self.metrics(f"{strategy}/result", [(0, values)])

    def files(self, paths: Sequence[Path], sentence: str) -> None:
        self.client.set_tag(self.identity, "mlflow.note.content", sentence)
        for path in paths:
            self.client.log_artifact(self.identity, str(path))

    def close(self, finished: bool) -> None:
        self.client.set_terminated(self.identity, "FINISHED" if finished else "KILLED")


def _key(name: str) -> str:
    """A name with the characters that MLflow allows.

    >>> _key("lora+rag/loss")
    'lora-rag/loss'
    """
    return re.sub(r"[^\w\-. :/]", "-", name)
