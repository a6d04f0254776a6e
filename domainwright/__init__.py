"""Measure prompting, retrieval and fine-tuning on your own data, and know which to use.

    import domainwright as dw
    verdict = dw.decide("study.yaml")
    print(verdict.recommendation.sentence)
    print(verdict.best.chat("What is warfarin used for?"))

Importing this package loads no torch: each name below is imported on first use.
"""

import importlib
import os
from typing import Any

__version__ = "0.1.0"

# OpenMP's threads spin while they wait for each other. Where something else works on the machine,
# the one they wait for is not running, and a training step of 1.1 s took 17. Torch's OpenMP reads
# this when it is loaded.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")

_HOMES = {
    "decide": "domainwright.studies.api",
    "plan": "domainwright.studies.api",
    # Not `train`: the package of that name would take its place on first import.
    "train_method": "domainwright.studies.api",
    "evaluate_tasks": "domainwright.studies.lm_eval_tasks",
    "load_run": "domainwright.studies.api",
    "curate_files": "domainwright.curate.verb",
    # Not `combine`: as with `train`.
    "combine_runs": "domainwright.studies.combine",
    "find_rate": "domainwright.studies.rates",
    "refine": "domainwright.studies.refine.rounds",
    "drift": "domainwright.studies.refine.drift",
    "read_study": "domainwright.studies.study",
    "load_base": "domainwright.models.base",
}
__all__ = [
    "__version__",
    "combine_runs",
    "curate_files",
    "decide",
    "drift",
    "evaluate_tasks",
    "find_rate",
    "load_base",
    "load_run",
    "plan",
    "read_study",
    "refine",
    "train_method",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'domainwright' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
